"""The first snapshot of a live store: from its reading, or from the last good one while it cannot be read."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from bascule.model.problems import ConfigError, Problem
from bascule.model.quantities import size_bytes
from bascule.process.names import resolve_in_loop
from bascule.process.pipeline import Pipeline, coalesce_ms
from bascule.process.state_directory import data_path
from bascule.store.interface import Reading, RefusedError, Store, StoreError
from bascule.store.open import DATABASE, open_store

if TYPE_CHECKING:
    from bascule.model.tree import Tree
    from bascule.process.configuration import Configuration
    from bascule.process.master import Boot, Master

PAUSE_S: Final = 0.5
SAID_AGAIN: Final = 20
"""After so many attempts the log says again that the store cannot be read."""


def open_live_store(master: Master, loaded: Configuration) -> Store:
    """Open the store that the command line or a file names, in a running loop."""
    path = data_path(master.options)
    os.makedirs(path, mode=0o700, exist_ok=True)
    table = loaded.store
    if table.type == "embedded" and not table.path:
        table = msgspec.structs.replace(table, path=os.path.join(path, DATABASE))
    return open_store(table, config_file=master.options["config"], state_directory=path)


def open_pipeline(master: Master, loaded: Configuration) -> Pipeline:
    """Return a pipeline that knows nothing yet: a successor's. What the workers run stays until the store is read."""
    return Pipeline(master, open_live_store(master, loaded), coalesce_ms(loaded.store), loaded.settings)


def boot_live(master: Master, boot: Boot, loaded: Configuration) -> None:
    """Bring the first snapshot of a live store into force; ConfigError when the store refuses us."""
    runner = master.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    store, reading = runner.run(_first_reading(master, boot, loaded))
    boot.make_regions(len(reading.entries), size_bytes(_limits_memory(loaded, reading)))
    pipeline = master.pipeline = Pipeline(master, store, coalesce_ms(loaded.store), loaded.settings)
    tree = pipeline.load(reading)
    from bascule.process.configuration import process_settings

    master.tell_keeper({"type": "settings", **process_settings(tree.settings)})
    _bind(boot, pipeline, tree)
    master.addresses = runner.run(resolve_in_loop(pipeline.names.wanted()))
    compiled = pipeline.full(tree, 1, master.addresses)
    boot.publish(listeners_of(tree), compiled.revision, compiled.image)
    pipeline.in_force()
    if not reading.entries:
        master.log.info(
            "the store is empty: nothing is served yet",
            store=store.kind,
            place=store.place,
            remedy="put a configuration into it, such as: bascule apply bascule.toml",
        )


def listeners_of(tree: Tree) -> list[dict[str, str]]:
    """Return id and address of every listener, by id."""
    return [{"id": name, "address": listener.address} for name, listener in sorted(tree.listeners.items())]


async def _first_reading(master: Master, boot: Boot, loaded: Configuration) -> tuple[Store, Reading]:
    """Read the store, for as long as it takes; ConfigError when it says no."""
    store = open_live_store(master, loaded)
    attempts = 0
    while True:
        try:
            return store, await store.read()
        except RefusedError as error:
            raise ConfigError([Problem(message=f"{store.place}: {error}", remedy=error.remedy)]) from None
        except StoreError as error:
            if attempts % SAID_AGAIN == 0:
                master.log.error(
                    "the store cannot be read, and there is no last good configuration to serve from; trying again",
                    place=store.place,
                    reason=str(error),
                    remedy=error.remedy,
                )
        attempts += 1
        boot.look()
        await asyncio.sleep(PAUSE_S)


def _limits_memory(loaded: Configuration, reading: Reading) -> int | str:
    """Return the size of the limits' table: made once, before anything else is looked at."""
    from bascule.change.examine import examine
    from bascule.model.keys import SETTINGS
    from bascule.model.tree import Settings

    entry = reading.entries.get(SETTINGS)
    if entry is not None:
        record = examine([(SETTINGS, entry.value)]).records.get(SETTINGS)
        if isinstance(record, Settings):
            return record.limits_memory
    return loaded.settings.limits_memory


def _bind(boot: Boot, pipeline: Pipeline, tree: Tree) -> None:
    """Open the listeners; those that cannot be opened are quarantined, and the others serve."""
    problems = boot.bind(listeners_of(tree), tree.settings.slots)
    while problems:
        pipeline.without(problems, tree)
        problems = boot.bind(listeners_of(tree), tree.settings.slots)
