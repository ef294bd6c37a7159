"""The keeper's workers: started, lent slots, replaced when they die, retired when there are too many.

    STARTING --started--> SERVING --drain--> RETIRING --exit--> gone
        \\________________________________________________________/   exit unasked: its slots are lent, it is replaced

A slot in use is never without a holder while any worker lives: it is lent to the new holder first, and taken back from
the old one when the new one says that it accepts. Two holders for a moment do no harm, none for a moment delays
connections.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from bascule.process import link as links
from bascule.process.backoff import Backoff
from bascule.process.link import Link, LinkClosedError
from bascule.process.spawn import describe_exit, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from bascule.process.listeners import Listener
    from bascule.process.log import Log
    from bascule.process.poller import Poller, Timer

STARTING, SERVING, RETIRING = "starting", "serving", "retiring"
SILENCE_MAX_S = 30.0
"""A worker that has not given its heartbeat (every five seconds) for this long hangs: its queues are starving. It is
replaced."""

KILL_AFTER_S = 2.0
RECYCLE_AFTER_S = 0.1


class Worker:
    """One worker process as the keeper knows it. `master_link` is the keeper's spare of the master's end."""

    __slots__ = ("beat_s", "failure", "holding", "link", "master_link", "number", "pid", "started_s", "state")

    def __init__(self, number: int, pid: int, link: Link, master_link: int) -> None:
        """See the class."""
        self.number = number
        self.pid = pid
        self.link = link
        self.master_link = master_link
        self.state = STARTING
        self.started_s = self.beat_s = time.monotonic()
        self.failure = ""
        self.holding: set[tuple[str, int]] = set()


class Crew:
    """All workers of a keeper, and who of them holds which slot."""

    def __init__(self, poller: Poller, log: Log, tell_master: Callable[..., None], arguments: list[str]) -> None:
        """`tell_master(message, descriptors)` sends to whatever master there is; `arguments` go to every worker."""
        self.workers: dict[int, Worker] = {}
        self.target = 0
        self.listeners: dict[tuple[str, str], Listener] = {}
        self.listening: set[tuple[str, str]] = set()
        self.regions: list[int] = []
        self.revision = 0
        self.snapshot: list[int] = []
        """The newest: its records, and its routes base if it has one of its own."""
        self.stopping = False
        self.drain_timeout_ms = 30_000
        self.access_log = "off"
        self.worker_memory_bytes = 0
        self.on_change: Callable[[], None] = lambda: None
        self._poller = poller
        self._log = log
        self._tell_master = tell_master
        self._arguments = arguments
        self._backoffs: dict[int, Backoff] = {}
        self._restarts: dict[int, Timer] = {}
        self._handovers: dict[tuple[str, int], set[int]] = {}

    # ---- the number of workers

    def resize(self, target: int) -> None:
        """Have `target` workers: start what is missing, retire the highest numbers of what is too many."""
        self.target = target
        active = sorted(number for number, worker in self.workers.items() if worker.state != RETIRING)
        for number in [number for number in self._restarts if number >= target]:
            self._restarts.pop(number).cancel()
        missing = target - len(active) - len(self._restarts)
        free = (number for number in range(1 << 16) if number not in self.workers and number not in self._restarts)
        for _ in range(missing):
            self.start(next(free))
        for number in active[target:] if missing < 0 else ():
            self.retire(self.workers[number])

    def start(self, number: int) -> None:
        """Start worker `number`; try again later when the system cannot."""
        self._restarts.pop(number, None)
        ours, theirs = links.pair()
        master_end, worker_end = links.pair()
        try:
            pid = spawn(
                "bascule.process.worker",
                [str(number), str(theirs), str(worker_end), *self._arguments],
                [theirs, worker_end],
            )
        except OSError as error:
            os.close(ours)
            os.close(master_end)
            self._restart_later(number, 0.0, f"cannot be started: {error.strerror}", 0)
            return
        finally:
            os.close(theirs)
            os.close(worker_end)
        worker = Worker(number, pid, Link(ours), master_end)
        self.workers[number] = worker
        self._poller.watch(
            worker.link,
            lambda message, descriptors: self._received(worker, message, descriptors),
            lambda: self._silent(worker),
        )
        self.introduce(worker)
        self._send(worker, self._settings())
        if self.regions:
            self._send(worker, {"type": "regions"}, self.regions)
        if self.snapshot:
            self._send(worker, {"type": "snapshot", "revision": self.revision}, self.snapshot)
        self.on_change()

    def apply_settings(self, drain_timeout_ms: int, access_log: str, worker_memory_bytes: int = 0) -> None:
        """Tell the workers there are, and those to come, how to be. 0 bytes: the engine's own budget."""
        before = self._settings()
        self.drain_timeout_ms, self.access_log = drain_timeout_ms, access_log
        self.worker_memory_bytes = worker_memory_bytes
        if self._settings() != before:
            self._broadcast(self._settings(), [])

    def _settings(self) -> dict[str, Any]:
        return {
            "type": "settings",
            "log_json": self._log.json,
            "drain_timeout_ms": self.drain_timeout_ms,
            "access_log": self.access_log,
            "worker_memory_bytes": self.worker_memory_bytes,
        }

    def retire(self, worker: Worker) -> None:
        """Let a worker end: others take its slots first, then it drains and exits."""
        if worker.state == STARTING:
            worker.state = RETIRING
            self._kill(worker, _signal.SIGKILL)
            return
        worker.state = RETIRING
        self._log.info("worker retires", worker=worker.number, worker_pid=worker.pid)
        self.introduce(worker, with_link=False)
        self.rebalance()
        self._drain_if_relieved(worker)

    # ---- what the master gives

    def take_regions(self, descriptors: list[int]) -> None:
        """Keep the shared regions, and give them to every worker."""
        self.regions = descriptors
        self._broadcast({"type": "regions"}, descriptors)

    def take_snapshot(self, revision: int, descriptors: list[int]) -> None:
        """Keep the newest snapshot for the workers to come, and give it to those that still wait for their first.

        Records that come alone have the base of those before.
        """
        for old in self.snapshot[: len(descriptors)]:
            os.close(old)
        self.snapshot = descriptors + self.snapshot[len(descriptors) :]
        self.revision = revision
        for worker in self._in_state(STARTING):
            self._send(worker, {"type": "snapshot", "revision": revision}, self.snapshot)

    def introduce(self, worker: Worker, *, with_link: bool = True) -> None:
        """Tell the master of a worker, and hand it the worker's link."""
        message = {"type": "worker", "number": worker.number, "pid": worker.pid, "state": worker.state}
        self._tell_master(message, [worker.master_link] if with_link else [])

    # ---- slots

    def rebalance(self) -> None:
        """Lend every slot in use to a serving worker, evenly, moving as few as possible."""
        serving = [worker.number for worker in self._in_state(SERVING)]
        if not serving:
            return
        for key in sorted(self.listening):
            listener = self.listeners[key]
            if listener.shared:
                if listener.lendable:
                    self._lend_shared(listener)
                continue
            wanted = listener.assign(serving)
            moves: dict[int, list[tuple[int, int]]] = {}
            for place, owner in enumerate(wanted):
                if owner is not None and owner != listener.owners[place]:
                    moves.setdefault(owner, []).append((listener.first_slot + place, listener.descriptors[place]))
            listener.owners = wanted
            for number, moved in moves.items():
                self._lend(self.workers[number], listener, moved)
        for worker in self._in_state(RETIRING):
            self._relieve_shared(worker)

    def lent_everything(self) -> bool:
        """Whether every worker that is to serve does, and accepts on every slot it was lent."""
        serving = self._in_state(SERVING)
        if len(serving) < self.target or self._restarts:
            return False
        for key in self.listening:
            listener = self.listeners[key]
            for place, number in enumerate(listener.lendable_numbers()):
                holders = serving if listener.shared else [w for w in serving if w.number == listener.owners[place]]
                if not holders or any((listener.id, number) not in worker.holding for worker in holders):
                    return False
        return True

    def take_back(self, listener: Listener) -> None:
        """Take the slots of a listener that are to be given back from everybody who has them."""
        numbers = list(listener.given_back_numbers())
        for worker in self.workers.values():
            if worker.link.fileno() >= 0:
                self._send(worker, {"type": "take_back", "listener": listener.id, "slots": numbers})

    def holders(self, listener: Listener) -> int:
        """Return how many workers have not yet given back slots of a listener that they are to give back."""
        numbers = listener.given_back_numbers()
        return sum(
            any(held == listener.id and number in numbers for held, number in worker.holding)
            for worker in self.workers.values()
        )

    def held(self, listener: Listener) -> bool:
        """Whether every slot of a listener that is to be held is held by a worker."""
        held = {number for worker in self.workers.values() for name, number in worker.holding if name == listener.id}
        return held.issuperset(listener.lendable_numbers())

    def _lend(self, worker: Worker, listener: Listener, moved: list[tuple[int, int]]) -> None:
        for batch in links.batches(moved):
            message = {"type": "lend", "listener": listener.id, "slots": [number for number, _ in batch]}
            self._send(worker, message, [descriptor for _, descriptor in batch])

    def _lend_shared(self, listener: Listener) -> None:
        slot = listener.first_slot
        for worker in self._in_state(SERVING):
            if (listener.id, slot) not in worker.holding:
                self._lend(worker, listener, [(slot, listener.descriptors[0])])

    def _relieve_shared(self, worker: Worker) -> None:
        for listener in self.listeners.values():
            if listener.shared and (listener.id, listener.first_slot) in worker.holding:
                self._send(worker, {"type": "take_back", "listener": listener.id, "slots": [listener.first_slot]})

    def _accepting(self, worker: Worker, listener_id: str, numbers: Iterable[int]) -> None:
        worker.holding.update((listener_id, number) for number in numbers)
        for other in list(self.workers.values()):
            if other is worker:
                continue
            superseded = [
                number
                for number in numbers
                if (listener_id, number) in other.holding and self._owner(listener_id, number) == worker.number
            ]
            if superseded:
                self._send(other, {"type": "take_back", "listener": listener_id, "slots": superseded})
        # The slot may have been given to a third worker since it was lent to this one.
        stale = [n for n in numbers if self._owner(listener_id, n) not in {worker.number, None}]
        taken = [n for n in stale if self._held_by_owner(listener_id, n)]
        if taken:
            self._send(worker, {"type": "take_back", "listener": listener_id, "slots": taken})

    def _held_by_owner(self, listener_id: str, number: int) -> bool:
        owner = self.workers.get(self._owner(listener_id, number) or 0)
        return owner is not None and (listener_id, number) in owner.holding

    def _owner(self, listener_id: str, number: int) -> int | None:
        for listener in self.listeners.values():
            if listener.id == listener_id and number in listener.slot_numbers() and not listener.shared:
                return listener.owners[number - listener.first_slot]
        return None

    # ---- what a worker says

    def _received(self, worker: Worker, message: dict[str, Any], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        worker.beat_s = time.monotonic()
        kind = message["type"]
        if kind == "started":
            self._started(worker)
        elif kind == "accepting":
            self._accepting(worker, message["listener"], message["slots"])
            self.on_change()
        elif kind == "returned":
            worker.holding.difference_update((message["listener"], number) for number in message["slots"])
            self._drain_if_relieved(worker)
            self.on_change()
        elif kind == "terminate":
            # A service manager may send TERM to the whole group: give the keeper's own time to arrive.
            self._poller.call_later(RECYCLE_AFTER_S, lambda: self._recycle(worker))
        elif kind == "failed":
            worker.failure = str(message["reason"])

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
        self.rebalance()
        self.on_change()

    def _drain_if_relieved(self, worker: Worker) -> None:
        if worker.state == RETIRING and not self._owned(worker) and not worker.holding:
            self._send(worker, {"type": "drain", "deadline_ms": self.drain_timeout_ms})
            # Its own deadline comes first; this is for a worker that cannot keep it.
            self._poller.call_later(
                self.drain_timeout_ms / 1000 + KILL_AFTER_S, lambda: self._kill(worker, _signal.SIGKILL)
            )

    def _owned(self, worker: Worker) -> bool:
        return any(worker.number in listener.owners for listener in self.listeners.values())

    # ---- death

    def check_heartbeats(self) -> None:
        """Kill workers that hang; their replacement is started when they are reaped."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if worker.state == SERVING and now - worker.beat_s > SILENCE_MAX_S:
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
        os.close(worker.master_link)
        expected = worker.state == RETIRING or self.stopping
        self._disown(worker)
        if expected:
            self._log.info("worker ended", worker=worker.number, worker_pid=pid, how=describe_exit(status))
            self._gone(worker, "asked to end", 0.0)
        else:
            reason = describe_exit(status) + (f": {worker.failure}" if worker.failure else "")
            self.rebalance()
            self._restart_later(worker.number, time.monotonic() - worker.started_s, reason, pid)
        if not self.stopping:
            self.resize(self.target)
        self.on_change()
        return True

    def kill_all(self) -> None:
        """End every worker at once."""
        self.stopping = True
        self.cancel_restarts()
        for worker in self.workers.values():
            self._kill(worker, _signal.SIGKILL)

    def drain_all(self, deadline_ms: int) -> None:
        """Let every worker finish what it has and exit; those still there at the deadline are killed."""
        self.stopping = True
        self.cancel_restarts()
        for worker in list(self.workers.values()):
            if worker.state == STARTING:
                self._kill(worker, _signal.SIGKILL)
                continue
            worker.state = RETIRING
            self._send(worker, {"type": "drain", "deadline_ms": deadline_ms})
        self._poller.call_later(deadline_ms / 1000 + KILL_AFTER_S, self.kill_all)

    def cancel_restarts(self) -> None:
        """Start nobody any more."""
        for timer in self._restarts.values():
            timer.cancel()
        self._restarts.clear()

    def tell_all(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Send a message to every worker."""
        self._broadcast(message, descriptors)

    def _drain_messages(self, worker: Worker) -> None:
        """Read what the dead worker said last: its reason."""
        try:
            while (received := worker.link.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                if message["type"] == "failed":
                    worker.failure = str(message["reason"])
        except (LinkClosedError, ValueError, OSError):
            return

    def _disown(self, worker: Worker) -> None:
        for listener in self.listeners.values():
            listener.owners = [None if owner == worker.number else owner for owner in listener.owners]

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
        self._poller.call_later(KILL_AFTER_S, lambda: self._kill(worker, _signal.SIGKILL))

    def _kill(self, worker: Worker, number: int) -> None:
        if self.workers.get(worker.number) is worker:
            os.kill(worker.pid, number)

    def _send(self, worker: Worker, message: dict[str, Any], descriptors: list[int] | tuple[int, ...] = ()) -> None:
        try:
            worker.link.send(message, descriptors)
        except LinkClosedError:
            return  # it is dead or dying: the wait status tells the rest

    def _broadcast(self, message: dict[str, Any], descriptors: list[int]) -> None:
        for worker in list(self.workers.values()):
            self._send(worker, message, descriptors)

    def _in_state(self, state: str) -> list[Worker]:
        return sorted((w for w in self.workers.values() if w.state == state), key=lambda worker: worker.number)
