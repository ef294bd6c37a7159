"""A start of a large live configuration from its compiled images: serve first, know the objects afterwards.

    images, journal's tail ──► slots as the images say ──► bind, publish            (boot: no object is decoded, no store asked)
                                                               │
                       last good entries ──► object table ──► follow the store      (control loop, while the workers serve)

100,000 frontends are served 0.3 s after exec this way and 1.5 s later without it. Whatever does not fit in any way (another build of
the program, damage, a listener that cannot be opened) leaves everything to the usual start.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING

import msgspec

from bascule.change.edits import Edit
from bascule.change.examine import decode_record
from bascule.change.last_good import Images, LastGood
from bascule.model.keys import parse_key
from bascule.model.quantities import size_bytes
from bascule.model.tree import Settings
from bascule.process.compiling import Compiling, images_of
from bascule.process.configuration import process_settings
from bascule.process.guard import DIRECTORY
from bascule.process.state_directory import data_path

if TYPE_CHECKING:
    from bascule.change.compiled import CompiledSnapshot
    from bascule.change.last_good_file import Frame
    from bascule.process.configuration import Configuration
    from bascule.process.master import Boot, Master
    from bascule.process.pipeline import Pipeline

_RANKS = {"backend": 0, "server": 1, "frontend": 2, "middleware": 3}


class _UnfitError(Exception):
    """The images cannot be served; the text says why."""


class WarmStart:
    """What is served already, and what remains to be done for it."""

    def __init__(
        self,
        master: Master,
        loaded: Configuration,
        directory: str,
        compiling: Compiling,
        compiled: CompiledSnapshot,
        behind: int,
    ) -> None:
        """See the module."""
        self._master = master
        self._loaded = loaded
        self._directory = directory
        self._compiling = compiling
        self._behind = behind
        self._counts = {
            "backend": compiled.backends,
            "server": compiled.servers,
            "frontend": compiled.frontends,
        }

    def pipeline(self) -> Pipeline:
        """Return the pipeline, filled with the objects that are served; called in the running control loop."""
        from bascule.process.live_boot import open_live
        from bascule.process.pipeline import Pipeline

        master, loaded = self._master, self._loaded
        assert master.directory is not None
        store = open_live(master, loaded, self._directory)
        pipeline = Pipeline(master, store, loaded.store, loaded.settings, self._directory, self._compiling)
        with _no_collection():
            good = pipeline.guard.last_good.load()
            if good is not None:
                pipeline.load(good)
        if good is not None:
            pipeline.guard.restore()
            pipeline.compiling.identity = good.identity
            pipeline.progress.note(good.revision, 0.0)
            pipeline.guard.last_good.images_fit(self._behind)
        pipeline.names.load(pipeline.table.tree())
        served = {kind: pipeline.table.count(kind) for kind in self._counts}
        if served != self._counts:
            master.log.error(
                "the images served are not what the last good configuration says: compiling it anew",
                served=self._counts,
                objects=served,
            )
            self._compiling.ready = False
        master.log.info("serving the last good configuration until the store is read", revision=pipeline.table.revision)
        return pipeline


def warm_start(master: Master, boot: Boot, loaded: Configuration) -> WarmStart | None:
    """Serve the images of the last good configuration; None when there are none, or none that fit."""
    directory = data_path(master.options)
    last_good = LastGood(os.path.join(directory, DIRECTORY), lambda text: master.log.warning(text))
    found = last_good.load_images()
    if found is None:
        return None
    try:
        return _serve(master, boot, loaded, directory, found)
    except (_UnfitError, ValueError, msgspec.MsgspecError) as error:
        master.log.warning("the images of the last good configuration are not used", reason=str(error))
        return None
    finally:
        found.kept.close()


def _serve(master: Master, boot: Boot, loaded: Configuration, directory: str, found: Images) -> WarmStart:
    about = found.about
    settings = msgspec.json.decode(about.settings, type=Settings) if about.settings else loaded.settings
    edits = _edits(found.tail)
    boot.make_regions(about.slots, size_bytes(settings.limits_memory))
    assert master.directory is not None
    master.directory.seed(found.kept.records)
    compiling = Compiling(master.directory.slot, master.publisher)
    revision = found.tail[-1].revision if found.tail else 0
    if found.tail:
        compiling.identity = found.tail[-1].identity
    compiled = compiling.restore(found.kept, edits, revision)
    if compiled is None:
        raise _UnfitError("a change that came after them is refused")
    listeners = [{"id": name, "address": address} for name, address in about.listeners]
    problems = boot.bind(listeners, settings.slots)
    if problems:
        raise _UnfitError(f"listener {problems[0]['id']} cannot be opened: {problems[0]['message']}")
    master.addresses = found.kept.addresses
    master.tell_keeper({"type": "settings", **process_settings(settings)})
    boot.publish(listeners, compiled.revision, images_of(compiled))
    return WarmStart(master, loaded, directory, compiling, compiled, len(edits))


def _edits(tail: list[Frame]) -> list[Edit]:
    """Return what frames of the journal say, owners before what stands below them; _UnfitError for what edits cannot do."""
    changed: dict[str, bytes | None] = {}
    for frame in tail:
        changed.update((key, None) for key in frame.removed)
        changed.update((key, value) for key, value, *_ in frame.puts)
    edits: list[Edit] = []
    for key, value in changed.items():
        parsed = parse_key(key)
        if parsed is None or parsed.kind not in _RANKS:
            raise _UnfitError(f"{key} has changed since")
        edits.append(
            Edit(parsed.kind, parsed.id, None if value is None else decode_record(parsed, value), parsed.owner)
        )
    edits.sort(key=lambda edit: (_RANKS[edit.kind], edit.record is not None))
    return edits


@contextlib.contextmanager
def _no_collection():  # type: ignore[no-untyped-def]
    """Make many objects without the collector's looking at them again and again; none of them is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
