"""A master that stands by: of a generation that does not serve yet, or that serves no more (docs/upgrade.md).

It holds regions, snapshot and links, and does nothing to the outside: no admin socket, no store, no health check. A new
one first finds out whether it could take over (`stand_by`), and tests its workers (`rehearsal.py`); then, as an old one from
the start, it waits for its promotion (`await_promotion`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select

from bascule.process.link import LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bascule.process.configuration import Configuration
    from bascule.process.master import Boot, Master


def stand_by(master: Master, boot: Boot) -> None:
    """Find out whether this version can take over what runs, and tell the keeper; ConfigError when its configuration does
    not load.

    A region of a layout that is not known here is made anew. A snapshot that cannot be used is compiled from the
    configuration: because of its own layout, or because the statistics were made anew, whose slots it names.
    """
    from bascule.process import configuration
    from bascule.process.preload import preload

    loaded = configuration.load(master.options)
    restarted = _adopt_regions(master, loaded)
    if "statistics" in restarted or not _snapshot_is_readable(master):
        restarted.append("snapshot")
        _compile_anew(master, boot, loaded, master.publisher.revision)
    master.loaded = loaded
    preload(loaded.store.type)
    master.tell_keeper({"type": "standing_by", "restarted": restarted})


def _adopt_regions(master: Master, loaded: Configuration) -> list[str]:
    """Open every region, replace those that cannot be, and return the names of these."""
    from bascule.process.master import slots_for
    from bascule.shared import limits, statistics, verdicts
    from bascule.shared.region import RegionError

    slots = slots_for(loaded.object_count())
    kinds: list[tuple[str, Callable[[int], object], Callable[[], int]]] = [
        ("statistics", statistics.Reader, lambda: statistics.create(objects=slots)),
        ("limits", limits.inspect, lambda: limits.create(loaded.limits_bytes())),
        ("verdicts", verdicts.Verdicts, lambda: verdicts.create(slots)),
    ]
    restarted = []
    for place, (name, opened, made) in enumerate(kinds):
        try:
            opened(master.regions[place])
        except RegionError as error:
            master.log.warning("a region cannot be used by this version and begins anew", region=name, why=str(error))
            os.close(master.regions[place])
            master.regions[place] = made()
            restarted.append(name)
    if restarted:
        master.tell_keeper({"type": "regions"}, master.regions)
    return restarted


def _snapshot_is_readable(master: Master) -> bool:
    from bascule.shared.snapshot import SnapshotError, verify

    try:
        verify(master.publisher.image())
    except SnapshotError as error:
        master.log.warning("the snapshot in force cannot be used by this version and is compiled anew", why=str(error))
        return False
    return True


def _compile_anew(master: Master, boot: Boot, loaded: Configuration, of: int) -> None:
    """Compile the configuration for the keeper to give to the new workers: this version's form of revision `of`. Nothing is
    bound: what is new comes after the promotion."""
    from bascule.shared.statistics import Directory

    # The master in charge writes it too, but every object that is in force has its slot: here they are only looked up.
    master.directory = Directory(master.regions[0])
    revision = max(master.publisher.revision, of) + 1
    if loaded.live:
        from bascule.process.live_boot import compile_last_good

        images = compile_last_good(master, loaded, revision)
    else:
        from bascule.shared.snapshot import make_memfd

        images = [make_memfd(boot.compile(loaded, revision).image)]
    master.tell_keeper({"type": "snapshot", "revision": revision, "of": of}, images)
    master.publisher.hold(revision, *images)


class Ended(Exception):
    """The keeper is gone, or wants this process to end."""


def await_promotion(master: Master) -> None:
    """Wait until the keeper puts this master in charge; Ended when it is to go instead."""
    assert master.keeper is not None
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)  # nothing is held that would have to be put down
    poll = select.poll()
    poll.register(master.keeper.fileno(), select.POLLIN)
    while True:
        try:
            received = master.keeper.receive()
        except LinkClosedError:
            raise Ended from None
        if received is None:
            writing = select.POLLOUT if master.keeper.wants_write else 0
            poll.modify(master.keeper.fileno(), select.POLLIN | writing)
            poll.poll()
            try:
                master.keeper.flush()
            except LinkClosedError:
                raise Ended from None
            continue
        message, descriptors = received
        if message["type"] == "promote":
            master.greeted(message, descriptors)
            return
        _note(master, message, descriptors)


def _compile_again(master: Master, of: int) -> None:
    """The configuration has changed since `stand_by`."""
    from bascule.process import configuration
    from bascule.process.master import Boot

    try:
        loaded = configuration.load(master.options)
        _compile_anew(master, Boot(master), loaded, of)
    except Exception as error:
        master.tell_keeper({"type": "fatal", "reason": f"{type(error).__name__}: {error}"[:2000], "status": 1})
        return
    master.loaded = loaded


def _note(master: Master, message: dict[str, Any], descriptors: list[int]) -> None:
    if message["type"] == "self_test":
        from bascule.process.rehearsal import rehearse

        requests, problems = rehearse(master, message["ports"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        master.tell_keeper({"type": "self_tested", "requests": requests, "problems": problems[:3]})
    elif message["type"] == "compile":
        _compile_again(master, message["of"])
    elif not master.common_message(message, descriptors):
        for descriptor in descriptors:
            os.close(descriptor)
