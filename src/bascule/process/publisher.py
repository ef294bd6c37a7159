"""One snapshot to all workers: the master's links to them, what each has applied, and who has not yet."""

from __future__ import annotations

import os
import time

from bascule.process.link import Link, LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from bascule.process.log import Log

APPLY_TIMEOUT_S = 10.0
STATE_TIMEOUT_S = 0.5


class WorkerView:
    """One worker as the master knows it. `revision` is what it has acknowledged, 0 before the first."""

    def __init__(self, number: int, pid: int, state: str, link: Link) -> None:
        """See the class."""
        self.number = number
        self.pid = pid
        self.state = state
        self.link = link
        self.revision = 0
        self.offered = 0
        """The revision on its way to it; no other is sent until this one is answered, so a slow worker skips some."""
        self.base = 0
        """Number of the routes base that it was last sent."""
        self.applied_s = 0.0
        self.refused = ""
        self.report: dict[str, Any] = {}
        self.reports = 0


class Publisher:
    """Workers by number, and the snapshot in force. Works without a loop until `attach`: the boot needs no asyncio."""

    def __init__(self, log: Log) -> None:
        """See the class."""
        self.workers: dict[int, WorkerView] = {}
        self.deaths: dict[int, dict[str, Any]] = {}
        """Of each worker number that died unasked: how often in a row, why last, and when it starts again."""
        self.revision = 0
        self.published_s = 0.0
        self._snapshot = -1
        self._base = -1
        self._base_number = 0
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the links in this loop from now on."""
        self._loop = loop
        for worker in list(self.workers.values()):
            self._watch(worker)
            self._send(worker, {"type": "state?"})

    def hold(self, revision: int, descriptor: int, base: int = -1) -> None:
        """Make this the snapshot in force (owns the descriptors) without sending it to anybody.

        `base` is the routes base that a records image names, when it is another than before.
        """
        if self._snapshot >= 0:
            os.close(self._snapshot)
        if base >= 0:
            if self._base >= 0:
                os.close(self._base)
            self._base = base
            self._base_number += 1
        self.revision, self._snapshot = revision, descriptor
        self.published_s = time.time()

    def images(self) -> list[int]:
        """Return the descriptors of the snapshot in force, which stay ours: the snapshot, or its records and routes base."""
        return [descriptor for descriptor in (self._snapshot, self._base) if descriptor >= 0]

    def detach(self) -> None:
        """Read the links no more: the loop ends."""
        for worker in self.workers.values():
            self._unwatch(worker)
        self._loop = None
        self._changed()

    def image(self) -> bytes:
        """Return the bytes of the snapshot in force (without its routes base), empty when there is none."""
        if self._snapshot < 0:
            return b""
        return os.pread(self._snapshot, os.fstat(self._snapshot).st_size, 0)

    def publish(self, revision: int, descriptor: int, base: int = -1) -> None:
        """Make this the snapshot in force and send it to every worker. See `hold`."""
        self.hold(revision, descriptor, base)
        for worker in list(self.workers.values()):
            worker.refused = ""
            self._offer(worker)

    def serving(self) -> list[WorkerView]:
        """Return the workers that are to apply every snapshot, by number."""
        return [worker for _, worker in sorted(self.workers.items()) if worker.state == "serving"]

    def lagging(self) -> list[int]:
        """Return the numbers of the workers that have not applied the snapshot in force."""
        return [worker.number for worker in self.serving() if worker.revision < self.revision]

    async def applied(self, timeout_s: float = APPLY_TIMEOUT_S) -> bool:
        """Wait until every serving worker has applied the snapshot in force; False when one refused it or time is
        up."""
        deadline_s = time.monotonic() + timeout_s
        while self.lagging():
            if any(worker.refused for worker in self.serving()) or not await self._change(deadline_s):
                return False
        return True

    async def reached(self, revision: int, timeout_s: float) -> bool:
        """Wait until every serving worker, and at least one, has applied this snapshot or a later one; False when time is
        up."""
        deadline_s = time.monotonic() + timeout_s
        while not (serving := self.serving()) or any(worker.revision < revision for worker in serving):
            if not await self._change(deadline_s):
                return False
        return True

    async def reports(self, timeout_s: float = STATE_TIMEOUT_S) -> None:
        """Ask every worker for its state and wait for the answers, or until time is up."""
        deadline_s = time.monotonic() + timeout_s
        asked = {number: worker.reports for number, worker in self.workers.items()}
        for worker in list(self.workers.values()):
            self._send(worker, {"type": "state?"})
        while any(
            worker.state != "starting" and worker.reports == asked.get(number)
            for number, worker in self.workers.items()
        ):
            if not await self._change(deadline_s):
                return

    def problems(self) -> list[str]:
        """Return what the workers said in their last reports that an operator should know."""
        return [
            f"worker {number}: {problem}"
            for number, worker in sorted(self.workers.items())
            for problem in worker.report.get("problems", ())
        ]

    # ---- from the keeper

    def introduce(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Take note of a worker; with a descriptor it is a new one, or we are a new master."""
        number = message["number"]
        if descriptors:
            self._forget(number)
            worker = WorkerView(number, message["pid"], message["state"], Link(descriptors[0]))
            self.workers[number] = worker
            if self._loop is not None:
                self._watch(worker)
                self._send(worker, {"type": "state?"})
        elif number in self.workers:
            self.workers[number].state = message["state"]
            if message["state"] == "serving":
                self.deaths.pop(number, None) if self.deaths.get(number, {}).get("deaths", 0) < 2 else None
        self._changed()

    def gone(self, message: dict[str, Any]) -> None:
        """Forget a worker that ended, and remember why when it was not asked to."""
        number = message["number"]
        self._forget(number)
        if message["deaths"]:
            self.deaths[number] = {
                "worker": number,
                "pid": message["pid"],
                "reason": message["reason"],
                "deaths": message["deaths"],
                "at": time.time(),
                "restart_in_ms": message["restart_in_ms"],
            }
        else:
            self.deaths.pop(number, None)
        self._changed()

    # ---- links

    def _watch(self, worker: WorkerView) -> None:
        assert self._loop is not None
        self._loop.add_reader(worker.link.fileno(), self._read, worker)

    def _read(self, worker: WorkerView) -> None:
        try:
            worker.link.flush()
            while (received := worker.link.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                self._handle(worker, message)
        except LinkClosedError:
            # The keeper holds a spare of our end, not of the worker's: this worker is dead, and the keeper says so
            # next.
            self._unwatch(worker)

    def _handle(self, worker: WorkerView, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "applied":
            self._applied(worker, message["revision"])
        elif kind == "base?":
            worker.offered = worker.base = 0
            self._offer(worker)
        elif kind == "refused":
            worker.refused = message["reason"]
            worker.offered = 0
            self._log.error(
                "a worker refuses the snapshot",
                worker=worker.number,
                revision=message["revision"],
                reason=message["reason"],
            )
            if message["revision"] < self.revision:
                self._offer(worker)
        elif kind == "state":
            worker.report = message
            worker.reports += 1
            self._applied(worker, message["revision"])
        self._changed()

    def _applied(self, worker: WorkerView, revision: int) -> None:
        if revision > worker.revision:
            worker.revision = revision
            worker.applied_s = time.time()
        if worker.offered <= revision < self.revision and revision:  # the first one is the keeper's to give
            self._offer(worker)

    def _offer(self, worker: WorkerView) -> None:
        """Send the snapshot in force, with its base unless the worker was sent that before; or later, after an answer."""
        if self._snapshot < 0 or worker.offered > worker.revision:
            return
        worker.offered = self.revision
        descriptors = [self._snapshot]
        if self._base >= 0 and worker.base != self._base_number:
            worker.base = self._base_number
            descriptors.append(self._base)
        self._send(worker, {"type": "snapshot", "revision": self.revision}, descriptors)

    def _send(self, worker: WorkerView, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        try:
            worker.link.send(message, descriptors or [])
        except (LinkClosedError, OSError):
            self._unwatch(worker)
            return
        if worker.link.wants_write and self._loop is not None:
            self._loop.add_writer(worker.link.fileno(), self._flush, worker)

    def _flush(self, worker: WorkerView) -> None:
        try:
            worker.link.flush()
        except LinkClosedError:
            self._unwatch(worker)
            return
        if not worker.link.wants_write and self._loop is not None:
            self._loop.remove_writer(worker.link.fileno())

    def _unwatch(self, worker: WorkerView) -> None:
        if self._loop is not None and worker.link.fileno() >= 0:
            self._loop.remove_reader(worker.link.fileno())
            self._loop.remove_writer(worker.link.fileno())

    def _forget(self, number: int) -> None:
        worker = self.workers.pop(number, None)
        if worker is not None:
            self._unwatch(worker)
            worker.link.close()

    # ---- waiting

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, deadline_s: float) -> bool:
        """Wait for anything to change; False at the deadline."""
        import asyncio

        assert self._loop is not None
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter, max(deadline_s - time.monotonic(), 0.0))
        except TimeoutError:
            return False
        return True
