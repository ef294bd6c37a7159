"""The first snapshot of a live store: from its reading, or from the last good one while it cannot be read."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from bascule.change.examine import examine
from bascule.change.gates import OPERATOR
from bascule.change.last_good import LONGEST_S, QUIET_S, LastGood
from bascule.model.keys import SETTINGS
from bascule.model.problems import ConfigError, Problem
from bascule.model.quantities import size_bytes
from bascule.model.tree import Settings
from bascule.process.compiling import images_of
from bascule.process.configuration import process_settings
from bascule.process.guard import DIRECTORY
from bascule.process.names import resolve_in_loop
from bascule.process.pipeline import Pipeline
from bascule.process.state_directory import data_path
from bascule.store.interface import Reading, RefusedError, Store, StoreError
from bascule.store.open import DATABASE, open_store

if TYPE_CHECKING:
    from bascule.process.configuration import Configuration
    from bascule.process.master import Boot, Master

PAUSE_S: Final = 0.5
PATIENCE_S: Final = 0.4
"""How long a store may take to be read at a start that has a last good configuration to serve from."""
SAID_AGAIN: Final = 20
"""After so many attempts the log says again that the store cannot be read."""


def boot_live(master: Master, boot: Boot, loaded: Configuration) -> None:
    """Bring the first snapshot of a live store into force; ConfigError when the store refuses us and there is no last good
    configuration."""
    directory = _directory(master)
    runner = master.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    good = _good(LastGood(os.path.join(directory, DIRECTORY), lambda text: master.log.warning(text)))
    store, reading = runner.run(_first_reading(master, boot, loaded, directory, wait=good is None))
    first = good or reading
    assert first is not None
    boot.make_regions(len((reading or first).entries), size_bytes(_limits_memory(loaded, reading or first)))
    pipeline = master.pipeline = Pipeline(master, store, loaded.store, loaded.settings, directory)
    _load(pipeline, first, reading, runner)
    master.tell_keeper({"type": "settings", **process_settings(pipeline.table.settings())})
    while problems := boot.bind(_listeners(pipeline), pipeline.table.settings().slots):
        pipeline.without(problems)
    pipeline.names.load(pipeline.table.tree())
    master.addresses = runner.run(resolve_in_loop(pipeline.names.wanted()))
    compiled = pipeline.compile_all(1, master.addresses)
    boot.publish(_listeners(pipeline), compiled.revision, images_of(compiled))
    pipeline.in_force(reading or first)
    _say(master, pipeline, reading)


def succeed(master: Master, loaded: Configuration) -> Pipeline:
    """Return the pipeline of a successor: it knows what was last good, and compiles nothing before it has read the store.
    What the workers run stays until then."""
    directory = _directory(master)
    pipeline = Pipeline(master, open_live(master, loaded, directory), loaded.store, loaded.settings, directory)
    good = _good(pipeline.guard.last_good)
    if good is not None:
        pipeline.load(good)
        pipeline.guard.restore()
        pipeline.progress.note(good.revision, 0.0)
    return pipeline


def _good(kept: LastGood) -> Reading | None:
    """Return what a start begins with: the last good configuration, or nothing at all when an operator has frozen that."""
    good = kept.load()
    if good is None and any(freeze.by == OPERATOR for freeze in kept.load_gates().freezes):
        return Reading("", 0, {})
    return good


def last_good(master: Master) -> Reading | None:
    """Return the last good configuration on disk, None when there is none."""
    return LastGood(os.path.join(_directory(master), DIRECTORY), lambda text: master.log.warning(text)).load()


def compile_last_good(master: Master, loaded: Configuration, revision: int) -> list[int]:
    """Return the images of what is in force now, compiled by this version; ConfigError when it is not on disk.

    What came into force is on disk a little later; so this begins with waiting as long as that may take.
    """
    time.sleep(LONGEST_S + QUIET_S)
    good = last_good(master)
    if good is None:
        raise ConfigError(
            [Problem(message="there is no last good configuration to compile", remedy="see `bascule status`")]
        )
    directory = _directory(master)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    async def compiled() -> list[int]:
        pipeline = Pipeline(master, open_live(master, loaded, directory), loaded.store, loaded.settings, directory)
        pipeline.load(good)
        pipeline.names.load(pipeline.table.tree())
        addresses = await resolve_in_loop(pipeline.names.wanted())
        images = images_of(pipeline.compile_all(revision, addresses))
        await pipeline.close()
        return images

    with runner:
        return runner.run(compiled())


def _load(pipeline: Pipeline, first: Reading, reading: Reading | None, runner: asyncio.Runner) -> None:
    pipeline.load(first)
    if first is reading:
        pipeline.following.go_on_from(reading.revision)
        return
    pipeline.guard.restore()
    if reading is not None:
        pipeline.load_newer(reading)


def _say(master: Master, pipeline: Pipeline, reading: Reading | None) -> None:
    """Log what an operator should know of this start."""
    store = pipeline.store
    if reading is None:
        master.log.error(
            "the store cannot be read: serving the last good configuration",
            place=store.place,
            revision=pipeline.table.revision,
        )
    elif not reading.entries:
        master.log.info(
            "the store is empty: nothing is served yet",
            store=store.kind,
            place=store.place,
            remedy="put a configuration into it, such as: bascule apply bascule.toml",
        )


def _directory(master: Master) -> str:
    directory = data_path(master.options)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def open_live(master: Master, loaded: Configuration, directory: str) -> Store:
    """Open the store that the command line or a file names, in a running loop."""
    table = loaded.store
    if table.type == "embedded" and not table.path:
        table = msgspec.structs.replace(table, path=os.path.join(directory, DATABASE))
    return open_store(table, config_file=master.options["config"], state_directory=directory)


def _listeners(pipeline: Pipeline) -> list[dict[str, str]]:
    """Return id and address of every listener in force, by id."""
    return [{"id": name, "address": found.address} for name, found in sorted(pipeline.table.listeners().items())]


async def _first_reading(
    master: Master, boot: Boot, loaded: Configuration, directory: str, *, wait: bool
) -> tuple[Store, Reading | None]:
    """Read the store: for as long as it takes with `wait`, else None when it does not answer in a moment.

    ConfigError when it says no, and there is nothing else to serve from.
    """
    store = open_live(master, loaded, directory)
    attempts = 0
    while True:
        try:
            return store, await asyncio.wait_for(store.read(), None if wait else PATIENCE_S)
        except TimeoutError:
            return store, None
        except RefusedError as error:
            if wait:
                raise ConfigError([Problem(message=f"{store.place}: {error}", remedy=error.remedy)]) from None
            return store, None
        except StoreError as error:
            if not wait:
                return store, None
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
    entry = reading.entries.get(SETTINGS)
    if entry is not None:
        record = examine([(SETTINGS, entry.value)]).records.get(SETTINGS)
        if isinstance(record, Settings):
            return record.limits_memory
    return loaded.settings.limits_memory
