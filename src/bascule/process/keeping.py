"""When the compiled images go to disk beside the objects that they say (change/images_file.py), for a warm start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bascule.change.images_file import About
from bascule.model.keys import SETTINGS

if TYPE_CHECKING:
    from bascule.process.pipeline import Pipeline


def images_due(pipeline: Pipeline) -> bool:
    """Tell whether newer images are worth while."""
    return pipeline.compiling.ready and pipeline.guard.last_good.images_wanted(len(pipeline.table.ledger))


def keep_images(pipeline: Pipeline) -> None:
    """Hand the images in force to the last good configuration, if that is worth while and they say everything."""
    kept = pipeline.compiling.keep() if images_due(pipeline) else None
    if kept is None:
        return
    directory = pipeline.master.directory
    assert directory is not None
    objects = len(pipeline.table.ledger)
    about = About(
        [(entry["id"], entry["address"]) for entry in pipeline.wanted_listeners()],
        pipeline.table.in_force(SETTINGS) or b"",
        (objects + directory.bound + 1) // 2,
    )
    pipeline.guard.last_good.note_images(kept, about)
