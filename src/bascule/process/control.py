"""The master after boot: one asyncio loop for reloads, acknowledgements, the watched file and the admin API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import msgspec
import uvloop

from bascule.admin.metrics import render_metrics
from bascule.admin.status import Traffic, WorkerStatus, build_traffic
from bascule.change.resolve import Resolver, names_of
from bascule.model.problems import ConfigError, Problem
from bascule.model.quantities import duration_ms
from bascule.process import configuration, huge_pages
from bascule.process.link import Link, LinkClosedError
from bascule.process.master import Master, report_warnings
from bascule.process.names import PATIENCE_S
from bascule.shared.statistics import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.process.configuration import Configuration
    from bascule.process.publisher import WorkerView
    from bascule.store.file import FileWatcher

KEEPER_TIMEOUT_S = 15.0


class Outcome(msgspec.Struct, frozen=True):
    """What a reload did: `changed` is False when the configuration says what was in force already."""

    ok: bool
    changed: bool
    revision: int
    problems: tuple[Problem, ...] = ()
    applied: bool = True
    lagging: tuple[int, ...] = ()
    connections_lost: int = 0


class Control:
    """One configuration in force, and the way of the next one."""

    def __init__(self, master: Master) -> None:
        """See the class."""
        self.master = master
        self.started_at = time.time()
        self.last_outcome: Outcome | None = None
        self.last_reload_at = 0.0
        self.reloads = 0
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._watcher: FileWatcher | None = None
        self._resolver = Resolver()

    # ---- links

    def attach(self) -> None:
        """Hang the links into the running loop."""
        loop = asyncio.get_running_loop()
        if self.master.keeper is not None:
            loop.add_reader(self.master.keeper.fileno(), self._read_keeper, self.master.keeper)
            self._read_keeper(self.master.keeper)
        self.master.publisher.attach(loop)

    def _read_keeper(self, link: Link) -> None:
        try:
            link.flush()
            while (received := link.receive()) is not None:
                self._from_keeper(*received)
        except LinkClosedError:
            self._keeper_lost(link)

    def _keeper_lost(self, link: Link) -> None:
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()
        self.master.keeper = None
        self.master.log.error(
            "the keeper is gone: workers serve on and reloads work, but nobody replaces a process or binds a listener; "
            "start a keeper on the same state directory and it will take over",
            state=self.master.state_path,
        )
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LinkClosedError("the keeper is gone"))

    def _from_keeper(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if self.master.common_message(message, descriptors):
            return
        kind = message["type"]
        if kind == "reload":
            self.spawn(self._reload_on_signal())
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    async def _ask_keeper(self, message: dict[str, Any]) -> dict[str, Any]:
        self._answer = asyncio.get_running_loop().create_future()
        self._tell_keeper(message)
        return await asyncio.wait_for(self._answer, KEEPER_TIMEOUT_S)

    def _tell_keeper(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        self.master.tell_keeper(message, descriptors)
        keeper = self.master.keeper
        if keeper is not None and keeper.wants_write:
            loop = asyncio.get_running_loop()

            def writable() -> None:
                with contextlib.suppress(LinkClosedError):
                    keeper.flush()
                if not keeper.wants_write:
                    loop.remove_writer(keeper.fileno())

            loop.add_writer(keeper.fileno(), writable)

    # ---- reload

    async def reload(self, because: str) -> Outcome:
        """Bring what the store says now into force, or keep everything as it is and say why. One at a time."""
        async with self._lock:
            self.reloads += 1
            try:
                outcome = await self._reload()
            except ConfigError as error:
                outcome = self._refused(error.problems)
            except (LinkClosedError, TimeoutError, OSError, ValueError) as error:
                problem = Problem(message=f"{type(error).__name__}: {error}", remedy="see the log; then reload again")
                outcome = self._refused((problem,))
            self.last_outcome = outcome
            self.last_reload_at = time.time()
            self._report(outcome, because)
            return outcome

    def _refused(self, problems: tuple[Problem, ...] | list[Problem]) -> Outcome:
        return Outcome(ok=False, changed=False, revision=self.master.publisher.revision, problems=tuple(problems))

    async def _reload(self) -> Outcome:
        master = self.master
        loaded = await asyncio.to_thread(configuration.load, master.options)
        if self._watcher is not None:
            self._watcher.seen(loaded.digest)
        addresses = await self._resolve(loaded)
        if master.in_force is not None and addresses == master.addresses and loaded.tree == master.in_force.tree:
            return Outcome(ok=True, changed=False, revision=master.publisher.revision)
        return await self._bring_into_force(loaded, addresses)

    async def _resolve(self, loaded: Configuration) -> dict[str, bytes]:
        """Return the addresses of all host names; one that cannot be looked up in time comes with a later snapshot."""
        names = names_of(loaded.tree)
        known = self._resolver.addresses()
        self._resolver.want(names)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._resolver.refresh([name for name in names if name not in known]), PATIENCE_S)
        return self._resolver.addresses()

    async def _readdress(self) -> None:
        """A name has another address: the same configuration, compiled anew."""
        async with self._lock:
            master = self.master
            addresses = self._resolver.addresses()
            if master.in_force is not None and addresses != master.addresses:
                outcome = await self._bring_into_force(master.in_force, addresses)
                self._report(outcome, "a host name has a new address")

    async def _bring_into_force(self, loaded: Configuration, addresses: dict[str, bytes]) -> Outcome:
        """Bind what is new, close what is gone, then swap: what can fail comes before what has an effect."""
        master, publisher = self.master, self.master.publisher
        assert master.directory is not None
        if master.in_force is None and self._same_as_running(loaded, addresses):
            self._in_force(loaded, addresses)
            return Outcome(ok=True, changed=False, revision=publisher.revision)
        compiled = loaded.compile(publisher.revision + 1, master.directory.slot, addresses)
        descriptor = _memfd(compiled.image)
        try:
            lost = await self._rebind(loaded)
        except BaseException:
            os.close(descriptor)
            raise
        publisher.publish(compiled.revision, descriptor)
        report_warnings(master.log, loaded)
        master.directory.retain(loaded.objects())
        self._in_force(loaded, addresses)
        if master.keeper is not None:
            self._tell_keeper({"type": "settings", **loaded.process_settings()})
            self._tell_keeper({"type": "snapshot", "revision": compiled.revision}, [descriptor])
        applied = await publisher.applied()
        if master.keeper is not None:
            self._tell_keeper({"type": "listen", "listeners": master.listening})
        return Outcome(
            ok=applied,
            changed=True,
            revision=compiled.revision,
            applied=applied,
            lagging=tuple(publisher.lagging()),
            connections_lost=lost,
            problems=() if applied else tuple(self._lag_problems()),
        )

    def _in_force(self, loaded: Configuration, addresses: dict[str, bytes]) -> None:
        loaded.pack()
        self.master.in_force, self.master.addresses = loaded, addresses

    async def _rebind(self, loaded: Configuration) -> int:
        master = self.master
        wanted = loaded.listeners()
        added = [entry for entry in wanted if entry not in master.listening]
        removed = [entry for entry in master.listening if entry not in wanted]
        if added:
            message = {"type": "bind", "listeners": added, "slots": loaded.settings.slots}
            answer = await self._ask_keeper(message)
            if answer["type"] == "bind_failed":
                raise loaded.bind_error(answer["problems"])
        lost = 0
        if removed:
            # Before the swap: the next snapshot no longer knows these listeners, and their queues still hold clients.
            lost = (await self._ask_keeper({"type": "unbind", "listeners": removed}))["lost"]
        master.listening = wanted
        return lost

    def _same_as_running(self, loaded: Configuration, addresses: dict[str, bytes]) -> bool:
        """Whether a successor finds its configuration in force: compilation is deterministic, so the bytes tell."""
        publisher, directory = self.master.publisher, self.master.directory
        assert directory is not None
        compiled = loaded.compile(publisher.revision, directory.slot, addresses)
        return bool(compiled.image == publisher.image())

    def _lag_problems(self) -> list[Problem]:
        return [
            Problem(
                message=f"worker {worker.number} (pid {worker.pid}) is at revision {worker.revision}"
                + (f" and refuses the new one: {worker.refused}" if worker.refused else " and does not answer"),
                remedy="it serves on as it is; if it stays behind, kill its pid and it is replaced",
            )
            for worker in self.master.publisher.serving()
            if worker.revision < self.master.publisher.revision
        ]

    def _report(self, outcome: Outcome, because: str) -> None:
        log = self.master.log
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

    async def _reload_on_signal(self) -> None:
        outcome = await self.reload("SIGHUP")
        status = f"Revision {outcome.revision} in force"
        if not outcome.ok:
            first = outcome.problems[0].render().split("\n")[0] if outcome.problems else "unknown"
            status += f"; the last reload failed: {first}"
        with contextlib.suppress(LinkClosedError):
            self._tell_keeper({"type": "reloaded", "ok": outcome.ok, "status": status})

    # ---- views

    async def status(self) -> dict[str, Any]:
        """Return the status document: bascule.admin.status.Status, and how the processes are."""
        master, publisher = self.master, self.master.publisher
        traffic = await asyncio.to_thread(_traffic, master.regions[0])
        workers = [_worker_status(worker) for _, worker in sorted(publisher.workers.items())]
        return {
            "revision": publisher.revision,
            "workers": workers,
            "traffic": traffic,
            "ready": master.ready,
            "configuration": master.in_force.origin if master.in_force else "",
            "warnings": [warning.render() for warning in master.in_force.warnings] if master.in_force else [],
            "unresolved": self._resolver.failures(),
            "published_at": publisher.published_s,
            "lagging": publisher.lagging(),
            "workers_wanted": master.workers_wanted,
            "deaths": [death for _, death in sorted(publisher.deaths.items())],
            "keeper": {"pid": master.keeper_pid, "alive": master.keeper is not None},
            "master": {"pid": os.getpid(), "started_at": self.started_at},
            "listeners": master.listening,
            "reload": {"count": self.reloads, "at": self.last_reload_at, "outcome": self.last_outcome},
        }

    async def metrics(self) -> bytes:
        """Return the statistics for Prometheus. Rendered by a thread: the time grows with the number of objects, and
        reloads and acknowledgements do not wait for it."""
        publisher = self.master.publisher
        workers = [
            WorkerStatus(number, worker.pid, worker.state, worker.revision, worker.refused)
            for number, worker in sorted(publisher.workers.items())
        ]
        return await asyncio.to_thread(_metrics, self.master.regions[0], publisher.revision, workers)

    # ---- life

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine beside the others, and log what it dies of."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.master.log.error("a task of the master failed", error=repr(task.exception()))

    async def watch_file(self) -> None:
        """Reload when the file changes, unless the configuration says not to look."""
        from bascule.store.file import FileWatcher

        options = self.master.options
        digest = self.master.in_force.digest if self.master.in_force else b""
        watcher = self._watcher = FileWatcher(options["config"], digest)
        while True:
            store = self.master.in_force.store if self.master.in_force else None
            await asyncio.sleep(duration_ms(store.poll_interval) / 1000 if store else 1.0)
            if store is not None and not store.watch:
                continue
            if watcher.changed() is not None:
                await self.reload("file change")

    def end(self) -> None:
        """Let `run` return."""
        self._ended.set()

    async def run(self, *, reload_wanted: bool) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        self.attach()
        master = self.master
        if master.in_force is not None:
            self._resolver.want(names_of(master.in_force.tree))
            master.in_force.pack()
        if reload_wanted:
            await self.reload("start of a new master")
        self.spawn(huge_pages.back_when_used(master.regions[1], master.log))
        self.spawn(self._resolver.run(lambda: self.spawn(self._readdress())))
        if master.options["command"] == "run":
            self.spawn(self.watch_file())
        from bascule.admin.server import AdminServer

        admin = AdminServer(self, os.path.join(self.master.state_path, "admin.sock"))
        serving = asyncio.ensure_future(admin.serve())
        await self._ended.wait()
        admin.stop()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(serving, 1.0)
        for task in list(self._tasks):
            task.cancel()
        self._resolver.close()


def _worker_status(worker: WorkerView) -> dict[str, Any]:
    """Return what bascule.admin.status.WorkerStatus has, and what the worker itself last reported."""
    report = worker.report
    return {
        "number": worker.number,
        "pid": worker.pid,
        "state": worker.state,
        "revision": worker.revision,
        "refused": worker.refused,
        "applied_at": worker.applied_s,
        "slots": report.get("slots", 0),
        "engine": report.get("engine", {}),
        "live_objects": report.get("live_objects", {}),
    }


def _traffic(statistics_fd: int) -> Traffic:
    return build_traffic(Reader(statistics_fd))


def _metrics(statistics_fd: int, revision: int, workers: list[WorkerStatus]) -> bytes:
    return render_metrics(Reader(statistics_fd), revision=revision, workers=workers).encode()


def _memfd(image: bytes) -> int:
    from bascule.shared.snapshot import make_memfd

    return make_memfd(image)


def run_control_loop(master: Master, *, reload_wanted: bool) -> None:
    """Run the master until it is told to end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Control(master).run(reload_wanted=reload_wanted))
