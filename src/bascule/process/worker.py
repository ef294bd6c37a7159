"""The worker: an engine, the loop it hangs in (worker_loops), and the two links that tell it what to do.

    BOOTING --regions, snapshot--> STARTED --lend--> ACCEPTING --drain--> DRAINING --drained--> exit 0
                                                      |  ^ resume
                                                 rest v  |
                                                     RESTING --drain--> DRAINING

STARTED is said at once by a worker that is needed at once; one that was told to settle hangs in its second loop by then.
Who rests or drains gives its connections to its heirs, which the keeper named before (docs/upgrade.md); the engine does that.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys
import time

from bascule import __version__
from bascule.process import access_log, listeners, steering
from bascule.process.link import Link, LinkClosedError
from bascule.process.log import Log
from bascule.process.orphaned import MeetingPlace, introduce
from bascule.process.spawn import name_process
from bascule.process.worker_loops import FirstLoop, run_uvloop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bascule.engine.engine import Engine

HEARTBEAT_S = 5.0
FLUSH_S = 0.05
DRAIN_LOOK_S = 0.02
DRAIN_TIMEOUT_MS = 30_000
LEAVING_MAX_S = 5.0
"""How long a worker without a keeper that is to leave may take to empty its queues."""
CUT_S = 1.0
"""After the deadline of a drain: for the engine to cut what is left, and say so to whom it can."""
COUNTED = (
    "handed_over_idle",
    "handed_over_tunnels",
    "inherited",
    "refused",
    "taken_back",
    "drained_closed",
    "cut_at_deadline",
)
"""Of the engine's state, what goes into an account."""


class Worker:
    """One worker process: the messages of its links, applied to its engine."""

    def __init__(self, number: int, keeper: Link, master: Link) -> None:
        """See the class."""
        self.number = number
        self.keeper: Link | None = keeper
        self.master: Link | None = master
        self.engine: Engine | None = None
        self.revision = 0
        self.settles = False
        """It is STARTED only when it hangs in its second loop: others serve meanwhile."""
        self.drain_timeout_ms = DRAIN_TIMEOUT_MS
        self.access_log = "off"
        self.memory_bytes = 0
        self.slots: dict[tuple[str, int], int] = {}
        """The worker's own copy of every lent descriptor: the engine's are the engine's to close."""
        self.addresses: dict[str, str] = {}
        """Of the listeners of these slots, by id."""
        self.state_path = ""
        self.waiting: MeetingPlace | None = None
        """Where a worker without a keeper waits for the next one."""
        self.draining_until_s = 0.0
        self.emptying = False
        """It rests or drains, and the keeper has not heard yet that no connection is left."""
        self.leaving_until_s = 0.0
        self.ended = False
        self.log = Log(process="worker", worker=number, pid=os.getpid())
        self._regions: list[int] = []
        self._snapshot: list[int] = []
        """Of the newest: its records, and its routes base if it has one of its own. For a keeper that has none."""
        self._next_beat_s = 0.0
        self._access_log_problem = ""
        self._lines_lost = 0
        self._losing = False

    # ---- links

    def read(self, link: Link) -> None:
        """Handle every message that waits on a link; forget the link when the peer is gone."""
        try:
            link.flush()
            while (received := link.receive()) is not None:
                self._handle(*received)
        except LinkClosedError:
            self._lost(link)

    def tell_keeper(self, message: dict[str, Any]) -> None:
        """Send to the keeper, if there still is one."""
        self._tell(self.keeper, message)

    def _tell(self, link: Link | None, message: dict[str, Any]) -> None:
        if link is None:
            return
        try:
            link.send(message)
        except LinkClosedError:
            self._lost(link)

    def _lost(self, link: Link) -> None:
        if link is self.keeper:
            self.keeper = None
            self.log.error("the keeper is gone; serving on with the slots and the snapshot there are")
            if self.engine is None or not self.revision:
                self.ended = True
            else:
                self._await_keeper()
        elif link is self.master:
            self.master = None
        self.on_lost(link)
        link.close()

    def on_lost(self, link: Link) -> None:
        """Take a link out of the loop; the loop in use replaces this."""

    def on_waiting(self, place: MeetingPlace) -> None:
        """Call `keeper_came` when a keeper has come; the loop in use replaces this."""

    def on_found(self, link: Link) -> None:
        """Take a new link into the loop; the loop in use replaces this."""

    def _await_keeper(self) -> None:
        if not self.state_path or self.draining_until_s:
            return
        try:
            self.waiting = MeetingPlace(self.state_path, self.log)
        except OSError as error:
            self.log.error("no keeper can find this worker", state=self.state_path, error=error.strerror)
            return
        self.on_waiting(self.waiting)

    def keeper_came(self) -> None:
        """Give the keeper that followed what the one before had lent, and obey it from now on."""
        assert self.waiting is not None
        link = self.waiting.accept()
        if link is None:  # a stranger, somebody who is gone again, or no descriptor for him: wait for the next
            self.waiting.close()
            self.waiting = None
            self._await_keeper()
            return
        self.waiting = None
        greeting = {
            "number": self.number,
            "pid": os.getpid(),
            "version": __version__,
            "revision": self.revision,
            "regions": len(self._regions),
        }
        try:
            introduce(link, greeting, [*self._regions, *self._snapshot], self.slots, self.addresses)
        except LinkClosedError:
            link.close()
            self._await_keeper()
            return
        self.log.info("a keeper has come")
        self.keeper = link
        self.on_found(link)

    # ---- messages

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        handler: Callable[[dict[str, Any], list[int]], None] | None = {
            "settle": self._settle,
            "settings": self._settings,
            "regions": self._take_regions,
            "snapshot": self._adopt,
            "lend": self._lend,
            "take_back": self._take_back,
            "heir": self._bequeath,
            "inherit": self._inherit,
            "rest": self._rest,
            "resume": self._resume,
            "drain": self._drain,
            "stop": self._stop,
            "state?": self._state,
            "reopen_logs": self._reopen_logs,
        }.get(message["type"])
        if handler is not None:
            handler(message, descriptors)

    def _settle(self, _: dict[str, Any], __: list[int]) -> None:
        self.settles = True

    def settled(self) -> None:
        """It hangs in its second loop: nothing that costs much is left to be done beside requests."""
        if self.settles:
            self.tell_keeper({"type": "started", "revision": self.revision})

    def _settings(self, message: dict[str, Any], _: list[int]) -> None:
        self.log.json = message["log_json"]
        self.state_path = message["state"]
        self.drain_timeout_ms = message["drain_timeout_ms"]
        self.memory_bytes = message["worker_memory_bytes"]
        self._limit_memory()
        if message["access_log"] != self.access_log:
            self.access_log = message["access_log"]
            self._open_access_log()

    def _open_access_log(self) -> None:
        """Open what the settings name, or go on with what is open and say why."""
        if self.engine is None:
            return
        try:
            with access_log.opened(self.access_log) as descriptor:
                self.engine.log_to(descriptor)
            self._access_log_problem = ""
        except OSError as error:
            self._access_log_problem = f"the access log {self.access_log} cannot be opened: {error.strerror}"
            self.log.error(
                "the access log cannot be opened; what was in use stays in use, a new worker writes none",
                file=self.access_log,
                error=error.strerror,
                remedy="make the directory writable for the workers, then send the keeper USR1",
            )

    def _take_regions(self, _: dict[str, Any], descriptors: list[int]) -> None:
        if self.engine is not None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        from bascule.engine.engine import Engine

        statistics, limits, verdicts = descriptors
        self.engine = Engine(worker=self.number, statistics_fd=statistics, limits_fd=limits, verdicts_fd=verdicts)
        self._regions = descriptors
        self._limit_memory()
        self._open_access_log()

    def _limit_memory(self) -> None:
        if self.engine is not None and self.memory_bytes:
            self.engine.limit_memory(self.memory_bytes)

    def _adopt(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Adopt a newer snapshot; refuse a bad one and keep what there is. Repeating one is harmless."""
        revision, base = message["revision"], descriptors[1] if len(descriptors) > 1 else -1
        try:
            if self.engine is None:
                raise ValueError("it came before the shared regions")
            if revision > self.revision:
                first = not self.revision
                self.revision = self.engine.adopt(descriptors[0], base)
                self._remember(descriptors)
                if first and not self.settles:
                    self.tell_keeper({"type": "started", "revision": self.revision})
            if message.get("answer"):
                self.tell_keeper({"type": "adopted", "revision": self.revision})
        except Exception as error:
            from bascule.engine.engine import UnknownBaseError

            if isinstance(error, UnknownBaseError):
                self._tell(self.master, {"type": "base?", "revision": revision})
                return
            self.log.error("a snapshot is refused; the one in force stays", revision=revision, reason=str(error))
            refusal = {"type": "refused", "revision": revision, "reason": str(error)}
            self._tell(self.master, refusal)
            if message.get("answer") or not self.revision:
                self.tell_keeper(refusal)
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._tell(self.master, {"type": "applied", "revision": self.revision})

    def _remember(self, descriptors: list[int]) -> None:
        """Keep the newest snapshot's descriptors. Records that come alone have the base of those before."""
        for old in self._snapshot[: len(descriptors)]:
            os.close(old)
        self._snapshot = [os.dup(descriptor) for descriptor in descriptors] + self._snapshot[len(descriptors) :]

    def _lend(self, message: dict[str, Any], descriptors: list[int]) -> None:
        assert self.engine is not None
        listener, numbers = message["listener"], message["slots"]
        self.addresses[listener] = message.get("address", "")
        for slot, descriptor in zip(numbers, descriptors, strict=True):
            if (listener, slot) in self.slots:
                os.close(descriptor)
                continue
            self.slots[listener, slot] = descriptor
            self.engine.lend(listener, slot, os.dup(descriptor))
        self.tell_keeper({"type": "accepting", "listener": listener, "slots": numbers})

    def _take_back(self, message: dict[str, Any], _: list[int]) -> None:
        for slot in message["slots"]:
            self._give_back(message["listener"], slot)
        self.tell_keeper({"type": "returned", "listener": message["listener"], "slots": message["slots"]})

    def _give_back(self, listener: str, slot: int) -> None:
        descriptor = self.slots.pop((listener, slot), None)
        if descriptor is not None and self.engine is not None:
            self.engine.take_back(listener, slot)
            os.close(descriptor)

    def _bequeath(self, message: dict[str, Any], descriptors: list[int]) -> None:
        assert self.engine is not None
        try:
            self.engine.bequeath(descriptors[0])
        except OSError as error:
            self.log.warning("no connections go to this worker", to=message.get("to"), error=error.strerror)

    def _inherit(self, message: dict[str, Any], descriptors: list[int]) -> None:
        assert self.engine is not None
        try:
            self.engine.inherit(descriptors[0])
        except OSError as error:
            self.log.warning("no connections come from this worker", giver=message.get("from"), error=error.strerror)

    def _give_back_all(self) -> None:
        for listener, slot in list(self.slots):
            self._give_back(listener, slot)

    def _rest(self, message: dict[str, Any], _: list[int]) -> None:
        if self.engine is None or self.draining_until_s:
            return
        self._give_back_all()
        self.emptying = True
        self.engine.rest(message["deadline_ms"])

    def _resume(self, _: dict[str, Any], __: list[int]) -> None:
        if self.engine is not None and not self.draining_until_s:
            self.emptying = False
            self.engine.resume()

    def _drain(self, message: dict[str, Any], _: list[int]) -> None:
        if self.engine is None or self.draining_until_s:
            return
        self._give_back_all()
        self.emptying = True
        self.draining_until_s = time.monotonic() + message["deadline_ms"] / 1000
        self.engine.drain(message["deadline_ms"])

    def _stop(self, _: dict[str, Any], __: list[int]) -> None:
        self.ended = True

    def _state(self, _: dict[str, Any], __: list[int]) -> None:
        engine = self.engine.state() if self.engine is not None else {}
        live = self.engine.live_objects() if self.engine is not None else {}
        self._tell(
            self.master,
            {
                "type": "state",
                "number": self.number,
                "pid": os.getpid(),
                "revision": self.revision,
                "slots": len(self.slots),
                "draining": bool(self.draining_until_s),
                "engine": engine,
                "live_objects": live,
                "problems": self._problems(),
            },
        )

    def _reopen_logs(self, _: dict[str, Any], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.dup2(descriptor, 2)
            os.close(descriptor)
        self._open_access_log()

    # ---- time

    def tick(self) -> float:
        """Do what is due and return in how many seconds to be called again."""
        now = time.monotonic()
        if now >= self._next_beat_s:
            self._next_beat_s = now + HEARTBEAT_S
            self.tell_keeper({"type": "beat"})
            self._watch_access_log()
            self._account()
        if self.leaving_until_s:
            self._leave_when_empty(now)
            return DRAIN_LOOK_S
        if self.emptying and self.engine is not None and not self.engine.state()["clients"]:
            self.emptying = False
            self._account()
        if not self.draining_until_s:
            if self.emptying:
                return DRAIN_LOOK_S
            waiting = any(link is not None and link.wants_write for link in (self.keeper, self.master))
            return FLUSH_S if waiting else max(self._next_beat_s - now, 0.0)
        assert self.engine is not None
        if self.engine.drained or now >= self.draining_until_s + CUT_S:
            self.ended = True
        return DRAIN_LOOK_S

    def _account(self) -> None:
        """Tell the keeper what became of the connections; `in_flight` are those that are still here, whatever they do."""
        if self.engine is not None:
            state = self.engine.state()
            counts = {name: state[name] for name in COUNTED}
            self.tell_keeper({"type": "account", "counts": {**counts, "in_flight": state["clients"]}})

    def _watch_access_log(self) -> None:
        """Say when lines are lost, and when no more are; the metrics have the count."""
        lost = (self.engine.state()["log_lines_lost"] or 0) if self.engine is not None else 0
        losing = lost > self._lines_lost
        if losing and not self._losing:
            self.log.warning("access log lines are lost: its reader is too slow, or its disk full", lost=lost)
        elif self._losing and not losing:
            self.log.info("no more access log lines are lost", lost=lost)
        self._losing, self._lines_lost = losing, lost

    def _problems(self) -> list[str]:
        """Return what an operator should know of this worker."""
        found = [self._access_log_problem] if self._access_log_problem else []
        return [*found, f"access log lines are being lost, {self._lines_lost} so far"] if self._losing else found

    def terminate(self) -> None:
        """SIGTERM: have the keeper replace this worker; without a keeper, leave when the queues are empty."""
        if self.keeper is not None:
            self.tell_keeper({"type": "terminate"})
        elif self.engine is None:
            self.ended = True
        elif not self.leaving_until_s and not self.draining_until_s:
            self.log.info("draining without a keeper", drain_timeout_s=self.drain_timeout_ms / 1000)
            for descriptor in self.slots.values():
                steering.drop_handshakes(descriptor)
            self.leaving_until_s = time.monotonic() + LEAVING_MAX_S

    def serves_on(self, error: BaseException) -> bool:
        """Whether there are clients that an end because of this error would cost; then the keeper hears of it."""
        if self.engine is None or not self.engine.state()["clients"]:
            return False
        _fail(self, error, serves=True)
        return True

    def _leave_when_empty(self, now_s: float) -> None:
        queued = any(listeners.queue_length(descriptor) for descriptor in self.slots.values())
        if not queued or now_s >= self.leaving_until_s:
            self.leaving_until_s = 0.0
            self._drain({"deadline_ms": self.drain_timeout_ms}, [])


def _fail(worker: Worker, error: BaseException, **more: bool) -> None:
    """Let the keeper say why this worker died or does not do what it should, and let the log show where."""
    worker.tell_keeper({"type": "failed", "reason": f"{type(error).__name__}: {error}"[:2000], **more})
    import traceback

    traceback.print_exception(error)


def main() -> None:
    """Entry point: `worker NUMBER KEEPER_LINK_FD MASTER_LINK_FD`."""
    number, keeper, master = (int(word) for word in sys.argv[1:4])
    name_process(f"bascule-work-{number}")
    worker = Worker(number, Link(keeper), Link(master))
    for ignored in (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGPIPE):
        _signal.signal(ignored, _signal.SIG_IGN)  # a terminal sends them to the whole group; the keeper decides
    gc.disable()
    try:
        FirstLoop(worker).run()
        if not worker.ended:
            run_uvloop(worker)
        if worker.engine is not None:
            worker.engine.close()
    except BaseException as error:
        _fail(worker, error)
        sys.exit(1)
    os._exit(0)
