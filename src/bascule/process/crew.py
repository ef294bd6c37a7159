"""The workers of one generation: started, replaced when they die, retired when there are too many, put to rest.

    STARTING --started--> SERVING --drain--> RETIRING --exit--> gone
        \\                  |   ^              /
         \\           rest  v   | resume      / drain
          \\              RESTING ----------'
           `--------------------------------------------------> exit unasked: its slots are lent, it is replaced

Whoever is told to drain or to rest is first given heirs, which take its connections over (docs/upgrade.md).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from bascule.process import link as links
from bascule.process.backoff import Backoff
from bascule.process.link import Link, LinkClosedError
from bascule.process.member import RESTING, RETIRING, SERVING, STARTING, Worker, heirs_of
from bascule.process.spawn import describe_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.lending import Lending
    from bascule.process.log import Log
    from bascule.process.orphans import Orphan
    from bascule.process.poller import Poller, Timer
    from bascule.process.program import Program

SILENCE_MAX_S = 30.0
"""A worker that has not given its heartbeat (every five seconds) for this long hangs: its queues are starving. It is
replaced."""

KILL_AFTER_S = 2.0
RECYCLE_AFTER_S = 0.1
DEPARTED_MAX = 256
NUMBERS_MAX = 64
"""Worker numbers of all generations together: each has a segment of its own in the shared regions."""


class Crew:
    """All workers of one generation. Their slots are the business of `Lending`."""

    def __init__(
        self,
        program: Program,
        state_path: str,
        poller: Poller,
        log: Log,
        lending: Lending,
        tell_master: Callable[..., None],
    ) -> None:
        """`tell_master(message, descriptors)` sends to whatever master the generation has."""
        self.program = program
        self.state_path = state_path
        self.workers: dict[int, Worker] = {}
        self.target = 0
        self.lending = lending
        self.regions: list[int] = []
        self.revision = 0
        self.snapshot: list[int] = []
        """The newest: its records, and its routes base if it has one of its own."""
        self.stopping = False
        """No worker is started or replaced any more."""
        self.drain_timeout_ms = 30_000
        self.access_log = "off"
        self.worker_memory_bytes = 0
        self.on_change: Callable[[], None]
        self.on_death: Callable[[Worker, str], object]
        self.on_failure: Callable[[Worker, str], object]
        """Of a worker that serves on, because it has clients."""
        self.on_refusal: Callable[[str], None]
        self.on_start_failure: Callable[[str], None]
        self.tell_nobody()
        self.departed: list[tuple[int, dict[str, int]]] = []
        """Pid and last account of the workers that ended, newest last."""
        self._poller = poller
        self._log = log
        self._tell_master = tell_master
        self._backoffs: dict[int, Backoff] = {}
        self._restarts: dict[int, Timer] = {}

    def tell_nobody(self) -> None:
        """Forget who wants to know what happens here."""
        self.on_change = lambda: None
        self.on_death = self.on_failure = lambda worker, reason: None
        self.on_refusal = self.on_start_failure = lambda reason: None

    # ---- the number of workers

    def resize(self, target: int) -> None:
        """Have `target` workers: start what is missing, retire the highest numbers of what is too many."""
        self.target = target
        active = sorted(number for number, worker in self.workers.items() if worker.state != RETIRING)
        for number in sorted(self._restarts, reverse=True)[: max(len(active) + len(self._restarts) - target, 0)]:
            self._restarts.pop(number).cancel()
        missing = target - len(active) - len(self._restarts)
        for _ in range(missing):
            number = self._free_number()
            if number >= NUMBERS_MAX:
                self._log.error(
                    "no more workers can be started: the shared regions have room for so many, of all generations",
                    workers=NUMBERS_MAX,
                    remedy="run fewer, or end the probation: bascule upgrade --finish",
                )
                break
            self.start(number)
        for number in active[target:] if missing < 0 else ():
            self.retire(self.workers[number])

    def _free_number(self) -> int:
        taken = {number for crew in self.lending.crews for number in (*crew.workers, *crew._restarts)}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def start(self, number: int) -> None:
        """Start worker `number`; try again later when the system cannot."""
        self._restarts.pop(number, None)
        ends: list[int] = []
        try:
            for _ in range(2):
                ends.extend(links.pair())
            ours, theirs, master_end, worker_end = ends
            pid = self.program.spawn(
                "bascule.process.worker", [str(number), str(theirs), str(worker_end)], [theirs, worker_end]
            )
        except OSError as error:
            for end in ends:
                os.close(end)
            self._restart_later(number, 0.0, f"cannot be started: {error.strerror}", 0)
            self.on_start_failure(str(error.strerror))
            return
        os.close(theirs)
        os.close(worker_end)
        worker = Worker(self, number, pid, Link(ours), master_end)
        self.take_in(worker)
        self.introduce(worker)
        if any(crew.serving() for crew in self.lending.crews):
            worker.tell({"type": "settle"})  # it is in no hurry, and what it does before it serves delays no request
        worker.tell(self._settings())
        if self.regions:
            worker.tell({"type": "regions"}, self.regions)
        if self.snapshot:
            worker.tell({"type": "snapshot", "revision": self.revision}, self.snapshot)
        self.on_change()

    def adopt(self, orphan: Orphan) -> None:
        """Take over a worker of a killed keeper. It is not our child: that its link closes is how we hear of its end."""
        greeting = orphan.greeting
        worker = Worker(self, greeting["number"], greeting["pid"], orphan.link, -1)
        worker.state = SERVING
        worker.revision = greeting["revision"]
        worker.holding = {(key[0], number) for key, numbers in orphan.slots.items() for number in numbers}
        self.take_in(worker)

    def take_in(self, worker: Worker) -> None:
        """Go on with a worker that runs already."""
        self.workers[worker.number] = worker
        self._watch(worker)

    def _watch(self, worker: Worker) -> None:
        self._poller.watch(
            worker.link,
            lambda message, descriptors: self._received(worker, message, descriptors),
            lambda: self._silent(worker),
        )

    def is_quiet(self) -> bool:
        """Whether no worker is starting, dying or slow to read: nothing is under way that only this process knows of."""
        return not self._restarts and all(
            worker.state != STARTING and worker.link.fileno() >= 0 and not worker.link.wants_write
            for worker in self.workers.values()
        )

    def is_complete(self) -> bool:
        """Whether as many workers serve as should, and none is being started."""
        return len(self.serving()) >= self.target and not self._restarts

    def serving(self) -> list[Worker]:
        """Return the workers that may hold slots, by number."""
        return self._in_state(SERVING)

    def retiring(self) -> list[Worker]:
        """Return the workers that are on their way out, by number."""
        return self._in_state(RETIRING)

    def apply_settings(self, drain_timeout_ms: int, access_log: str, worker_memory_bytes: int = 0) -> None:
        """Tell the workers there are, and those to come, how to be. 0 bytes: the engine's own budget."""
        before = self._settings()
        self.drain_timeout_ms, self.access_log = drain_timeout_ms, access_log
        self.worker_memory_bytes = worker_memory_bytes
        if self._settings() != before:
            self.tell_all(self._settings(), [])

    def _settings(self) -> dict[str, Any]:
        return {
            "type": "settings",
            "state": self.state_path,
            "log_json": self._log.json,
            "drain_timeout_ms": self.drain_timeout_ms,
            "access_log": self.access_log,
            "worker_memory_bytes": self.worker_memory_bytes,
        }

    def retire(self, worker: Worker) -> None:
        """Let a worker end: others take its slots first, then it hands over, drains and exits."""
        if worker.state == STARTING:
            worker.state = RETIRING
            self._kill(worker, _signal.SIGKILL)
            return
        worker.state = RETIRING
        self._log.info("worker retires", worker=worker.number, worker_pid=worker.pid)
        self.introduce(worker, with_link=False)
        self.lending.rebalance()
        self._drain_if_relieved(worker)

    # ---- what the master gives

    def take_regions(self, descriptors: list[int]) -> None:
        """Keep the shared regions, and give them to every worker."""
        for old in self.regions:
            os.close(old)
        self.regions = descriptors
        self.tell_all({"type": "regions"}, descriptors)

    def take_snapshot(self, revision: int, descriptors: list[int]) -> None:
        """Keep the newest snapshot for the workers to come, and give it to those that still wait for their first.

        Records that come alone have the base of those before.
        """
        for old in self.snapshot[: len(descriptors)]:
            os.close(old)
        self.snapshot = descriptors + self.snapshot[len(descriptors) :]
        self.revision = revision
        for worker in self._in_state(STARTING):
            worker.tell({"type": "snapshot", "revision": revision}, self.snapshot)

    def give_snapshot(self, revision: int, descriptors: Sequence[int]) -> None:
        """Have every worker adopt another generation's snapshot; each says so, or refuses."""
        self.take_snapshot(revision, [os.dup(descriptor) for descriptor in descriptors])
        self.confirm_snapshot()

    def confirm_snapshot(self) -> None:
        """Have every worker adopt the newest snapshot, unless its master has given it that already, and say so."""
        for worker in self.workers.values():
            worker.tell({"type": "snapshot", "revision": self.revision, "answer": True}, self.snapshot)

    def introduce(self, worker: Worker, *, with_link: bool = True) -> None:
        """Tell the master of a worker, and hand it the worker's link."""
        message = {"type": "worker", "number": worker.number, "pid": worker.pid, "state": worker.state}
        self._tell_master(message, [worker.master_link] if with_link and worker.master_link >= 0 else [])

    # ---- rest

    def rest(self, deadline_ms: int) -> None:
        """Have every worker hand its connections to the active crew, finish what cannot be handed over, and wait."""
        self.cancel_restarts()
        self.stopping = True
        for worker in list(self.workers.values()):
            if worker.state == STARTING:
                self._kill(worker, _signal.SIGKILL)
            elif worker.state == SERVING:
                worker.state = RESTING
                self.introduce(worker, with_link=False)
                self._give_heirs(worker)
                worker.account.pop("in_flight", None)  # it is to say anew what is left
                worker.tell({"type": "rest", "deadline_ms": deadline_ms})

    def resume(self) -> None:
        """Let the resting workers serve again."""
        self.stopping = False
        for worker in self._in_state(RESTING):
            worker.state = SERVING
            worker.tell({"type": "resume"})
            self.introduce(worker, with_link=False)

    def _give_heirs(self, worker: Worker) -> None:
        """Open a way from a worker to each of those that may take its connections over."""
        for heir in heirs_of(worker, self.lending.active):
            try:
                given, taken = links.pair()
            except OSError as error:
                self._log.warning("connections cannot be handed over", worker=worker.number, error=error.strerror)
                return
            heir.tell({"type": "inherit", "from": worker.number}, [taken])
            worker.tell({"type": "heir", "to": heir.number}, [given])
            os.close(given)
            os.close(taken)

    # ---- what a worker says

    def _received(self, worker: Worker, message: dict[str, Any], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        worker.beat_s = time.monotonic()
        try:
            self._said(worker, message)
        except (KeyError, TypeError, ValueError) as error:
            worker.failure = f"it says what is not known here: {type(error).__name__}: {error}"
            self._kill(worker, _signal.SIGKILL)

    def _said(self, worker: Worker, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "started":
            worker.revision = message["revision"]
            self._started(worker)
        elif kind == "accepting":
            self.lending.accepting(worker, message["listener"], message["slots"])
            self.on_change()
        elif kind == "returned":
            worker.holding.difference_update((message["listener"], number) for number in message["slots"])
            self._drain_if_relieved(worker)
            self.on_change()
        elif kind == "adopted":
            worker.revision = message["revision"]
            self.on_change()
        elif kind == "refused":
            self.on_refusal(message["reason"])
        elif kind == "account":
            worker.account = {str(name): int(count) for name, count in dict(message["counts"]).items()}
            self.on_change()
        elif kind == "terminate":
            # A service manager may send TERM to the whole group: give the keeper's own time to arrive.
            self._poller.call_later(RECYCLE_AFTER_S, lambda: self._recycle(worker))
        elif kind == "failed":
            worker.failure = str(message["reason"])
            if message.get("serves"):
                self._log.error("worker failed, and serves on", worker=worker.number, reason=worker.failure)
                self.on_failure(worker, worker.failure)
            self.on_change()

    def _recycle(self, worker: Worker) -> None:
        """Replace a worker that was told to end by somebody else, and let it drain."""
        if self.stopping or self.workers.get(worker.number) is not worker or worker.state != SERVING:
            return
        self._log.info("worker is replaced because it was sent TERM", worker=worker.number, worker_pid=worker.pid)
        self.retire(worker)
        self.resize(self.target)

    def _started(self, worker: Worker) -> None:
        if worker.state != STARTING:
            return
        worker.state = SERVING
        self.introduce(worker, with_link=False)
        if self.lending.active is self:
            self.lending.rebalance()
        self.on_change()

    def _drain_if_relieved(self, worker: Worker) -> None:
        if worker.state == RETIRING and not self.lending.owns(worker) and not worker.holding:
            self._drain(worker, self.drain_timeout_ms)

    def _drain(self, worker: Worker, deadline_ms: int) -> None:
        self._give_heirs(worker)
        worker.tell({"type": "drain", "deadline_ms": deadline_ms})
        # Its own deadline comes first; this is for a worker that cannot keep it.
        self._poller.call_later(deadline_ms / 1000 + KILL_AFTER_S, lambda: self._kill(worker, _signal.SIGKILL))

    # ---- death

    def check_heartbeats(self) -> None:
        """Kill workers that hang; their replacement is started when they are reaped."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if worker.state in {SERVING, RESTING} and now - worker.beat_s > SILENCE_MAX_S:
                worker.failure = f"no heartbeat for {SILENCE_MAX_S:g} s"
                self._log.error("worker hangs and is killed", worker=worker.number, worker_pid=worker.pid)
                self._kill(worker, _signal.SIGKILL)

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a dead child; False when it is none of the workers."""
        worker = next((worker for worker in self.workers.values() if worker.pid == pid), None)
        if worker is None:
            return False
        self._drain_messages(worker)
        del self.workers[worker.number]
        self._poller.unwatch(worker.link)
        worker.link.close()
        if worker.master_link >= 0:
            os.close(worker.master_link)
        expected = worker.state == RETIRING or self.stopping
        self.lending.disown(worker)
        self.departed = [*self.departed[-DEPARTED_MAX:], (pid, worker.account)]
        reason = describe_exit(status) + (f": {worker.failure}" if worker.failure else "")
        if expected:
            self._log.info("worker ended", worker=worker.number, worker_pid=pid, how=describe_exit(status))
            self._gone(worker, "asked to end", 0.0)
        else:
            if self.lending.active is self:
                self.lending.rebalance()
            self._restart_later(worker.number, time.monotonic() - worker.started_s, reason, pid)
        if not self.stopping:
            self.resize(self.target)
        if worker.state != RETIRING:
            self.on_death(worker, reason)
        self.on_change()
        return True

    def kill_all(self) -> None:
        """End every worker at once."""
        self.stopping = True
        self.cancel_restarts()
        for worker in self.workers.values():
            self._kill(worker, _signal.SIGKILL)

    def drain_all(self, deadline_ms: int) -> None:
        """Let every worker hand over or finish what it has and exit; those still there at the deadline are killed."""
        self.stopping = True
        self.cancel_restarts()
        for worker in list(self.workers.values()):
            if worker.state == STARTING:
                self._kill(worker, _signal.SIGKILL)
                continue
            worker.state = RETIRING
            self._drain(worker, deadline_ms)  # to another crew's workers, if there is one that serves

    def cancel_restarts(self) -> None:
        """Start nobody any more."""
        for timer in self._restarts.values():
            timer.cancel()
        self._restarts.clear()

    def tell_all(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Send a message to every worker."""
        for worker in list(self.workers.values()):
            worker.tell(message, descriptors)

    def release(self) -> None:
        """Close the descriptors of regions and snapshot: the last worker is gone."""
        for descriptor in (*self.regions, *self.snapshot):
            os.close(descriptor)
        self.regions, self.snapshot = [], []

    def _drain_messages(self, worker: Worker) -> None:
        """Read what the dead worker said last: its reason."""
        try:
            while (received := worker.link.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                if message["type"] == "failed":
                    worker.failure = str(message["reason"])
                elif message["type"] == "account":
                    worker.account = message["counts"]
        except (LinkClosedError, ValueError, OSError):
            return

    def _restart_later(self, number: int, uptime_s: float, reason: str, pid: int) -> None:
        backoff = self._backoffs.setdefault(number, Backoff())
        delay_s = backoff.died(uptime_s)
        self._log.error(
            "worker died",
            worker=number,
            worker_pid=pid,
            reason=reason,
            uptime_s=round(uptime_s, 1),
            deaths=backoff.deaths,
            restart_in_s=delay_s,
        )
        self._restarts[number] = self._poller.call_later(delay_s, lambda: self.start(number))
        self._tell_master(
            {
                "type": "worker_gone",
                "number": number,
                "pid": pid,
                "reason": reason,
                "deaths": backoff.deaths,
                "restart_in_ms": int(delay_s * 1000),
            },
            [],
        )

    def _gone(self, worker: Worker, reason: str, delay_s: float) -> None:
        message = {"type": "worker_gone", "number": worker.number, "pid": worker.pid, "reason": reason, "deaths": 0}
        self._tell_master({**message, "restart_in_ms": int(delay_s * 1000)}, [])
        self._backoffs.pop(worker.number, None)

    def _silent(self, worker: Worker) -> None:
        """The worker closed its link: it is dying, or does not know what it does. Either way it is reaped soon."""
        if worker.master_link < 0:
            self.reaped(worker.pid, 0)
            return
        self._poller.call_later(KILL_AFTER_S, lambda: self._kill(worker, _signal.SIGKILL))

    def _kill(self, worker: Worker, number: int) -> None:
        if self.workers.get(worker.number) is worker:
            try:
                os.kill(worker.pid, number)
            except ProcessLookupError:
                return  # one that a killed keeper had started: somebody else has reaped it, and its link will tell

    def _in_state(self, state: str) -> list[Worker]:
        return sorted((w for w in self.workers.values() if w.state == state), key=lambda worker: worker.number)
