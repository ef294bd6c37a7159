"""Reloading: a file or a command line is the store, read again as a whole when somebody says so."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from bascule.change.resolve import names_of
from bascule.model.problems import ConfigError, Problem
from bascule.model.quantities import duration_ms
from bascule.process import configuration
from bascule.process.link import LinkClosedError
from bascule.process.master import report_warnings
from bascule.shared.snapshot import make_memfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.process.configuration import Configuration
    from bascule.process.control import Control
    from bascule.store.file import FileWatcher


class Outcome(msgspec.Struct, frozen=True):
    """What a reload did: `changed` is False when the configuration says what was in force already."""

    ok: bool
    changed: bool
    revision: int
    problems: tuple[Problem, ...] = ()
    applied: bool = True
    lagging: tuple[int, ...] = ()


class Reloader:
    """The way of the next configuration into force, all of it or nothing."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self.last_outcome: Outcome | None = None
        self.last_at = 0.0
        self.count = 0
        self._control = control
        self._master = control.master
        self._watcher: FileWatcher | None = None

    async def reload(self, because: str) -> Outcome:
        """Bring what the store says now into force, or keep everything as it is and say why. One at a time."""
        async with self._control.lock:
            self.count += 1
            try:
                outcome = await self._reload()
            except ConfigError as error:
                outcome = self._refused(error.problems)
            except (LinkClosedError, TimeoutError, OSError, ValueError) as error:
                problem = Problem(message=f"{type(error).__name__}: {error}", remedy="see the log; then reload again")
                outcome = self._refused((problem,))
            self.last_outcome = outcome
            self.last_at = time.time()
            self._report(outcome, because)
            return outcome

    def _refused(self, problems: tuple[Problem, ...] | list[Problem]) -> Outcome:
        return Outcome(ok=False, changed=False, revision=self._master.publisher.revision, problems=tuple(problems))

    async def _reload(self) -> Outcome:
        master = self._master
        loaded = await asyncio.to_thread(configuration.load, master.options)
        if self._watcher is not None:
            self._watcher.seen(loaded.digest)
        addresses = await self._control.look_up(names_of(loaded.tree))
        if master.in_force is not None and addresses == master.addresses and loaded.tree == master.in_force.tree:
            return Outcome(ok=True, changed=False, revision=master.publisher.revision)
        return await self._bring_into_force(loaded, addresses)

    async def readdress(self, addresses: dict[str, bytes]) -> None:
        """A name has another address: the same configuration, compiled anew; the caller holds the lock."""
        master = self._master
        if master.in_force is not None and addresses != master.addresses:
            outcome = await self._bring_into_force(master.in_force, addresses)
            self._report(outcome, "a host name has a new address")

    async def _bring_into_force(self, loaded: Configuration, addresses: dict[str, bytes]) -> Outcome:
        """Bind what is new, close what is gone, then swap: what can fail comes before what has an effect."""
        master, publisher = self._master, self._master.publisher
        assert master.directory is not None
        if master.in_force is None and self._same_as_running(loaded, addresses):
            if master.keeper is not None:  # it may be a new one too
                self._control.tell_keeper({"type": "settings", **loaded.process_settings()})
            self._in_force(loaded, addresses)
            return Outcome(ok=True, changed=False, revision=publisher.revision)
        compiled = loaded.compile(publisher.revision + 1, master.directory.slot, addresses)
        descriptor = make_memfd(compiled.image)
        try:
            await self._rebind(loaded)
        except BaseException:
            os.close(descriptor)
            raise
        if master.options["command"] == "run":
            self._control.servers.load(loaded.tree.backends)
        if master.keeper is not None:
            self._control.tell_keeper({"type": "settings", **loaded.process_settings()})
        self._control.publish(compiled.revision, [descriptor])
        report_warnings(master.log, loaded)
        master.directory.retain(loaded.objects())
        self._in_force(loaded, addresses)
        applied = await publisher.applied()
        self._control.lend()
        return Outcome(
            ok=applied,
            changed=True,
            revision=compiled.revision,
            applied=applied,
            lagging=tuple(publisher.lagging()),
            problems=() if applied else tuple(self._lag_problems()),
        )

    def _in_force(self, loaded: Configuration, addresses: dict[str, bytes]) -> None:
        loaded.pack()
        self._master.in_force, self._master.addresses = loaded, addresses

    async def _rebind(self, loaded: Configuration) -> None:
        wanted = loaded.listeners()
        problems = await self._control.bind(wanted, loaded.settings.slots)
        if problems:
            raise loaded.bind_error(problems)
        self._control.unbind(wanted)

    def _same_as_running(self, loaded: Configuration, addresses: dict[str, bytes]) -> bool:
        """Whether a successor finds its configuration in force: compilation is deterministic, so the bytes tell, except
        where a listener listens, which is not in them."""
        publisher, directory = self._master.publisher, self._master.directory
        assert directory is not None
        bound = {(entry["id"], entry["address"]) for entry in self._master.listening}
        if bound != {(entry["id"], entry["address"]) for entry in loaded.listeners()}:
            return False
        compiled = loaded.compile(publisher.revision, directory.slot, addresses)
        return bool(compiled.image == publisher.image())

    def _lag_problems(self) -> list[Problem]:
        return [
            Problem(
                message=f"worker {worker.number} (pid {worker.pid}) is at revision {worker.revision}"
                + (f" and refuses the new one: {worker.refused}" if worker.refused else " and does not answer"),
                remedy="it serves on as it is; if it stays behind, kill its pid and it is replaced",
            )
            for worker in self._master.publisher.serving()
            if worker.revision < self._master.publisher.revision
        ]

    def _report(self, outcome: Outcome, because: str) -> None:
        log = self._master.log
        if outcome.ok:
            log.info(
                "reloaded" if outcome.changed else "reload: nothing has changed",
                because=because,
                revision=outcome.revision,
            )
        for problem in outcome.problems:
            log.error(
                "reload failed; what was in force stays",
                because=because,
                problem=problem.render().split("\n")[0],
                remedy=problem.remedy,
            )

    async def watch_file(self) -> None:
        """Reload when the file changes, unless the configuration says not to look."""
        from bascule.store.file import FileWatcher

        options = self._master.options
        digest = self._master.in_force.digest if self._master.in_force else b""
        watcher = self._watcher = FileWatcher(options["config"], digest)
        while True:
            store = self._master.in_force.store if self._master.in_force else None
            await asyncio.sleep(duration_ms(store.poll_interval) / 1000 if store else 1.0)
            if store is not None and not store.watch:
                continue
            if watcher.changed() is not None:
                await self.reload("file change")
