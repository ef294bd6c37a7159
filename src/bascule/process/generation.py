"""A generation: a master and its workers, all of one program. States and moves: docs/upgrade.md.

CANDIDATE -> ACTIVE <-> RESTING -> LEAVING -> gone;  CANDIDATE -> LEAVING;  RESTING becomes ACTIVE only by a switch back
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from bascule.process import link as links
from bascule.process.backoff import Backoff
from bascule.process.crew import Crew
from bascule.process.link import Link, LinkClosedError
from bascule.process.spawn import describe_exit, make_patient, may_hurry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.lending import Lending
    from bascule.process.log import Log
    from bascule.process.poller import Poller
    from bascule.process.program import Program

CANDIDATE, ACTIVE, RESTING, LEAVING = "candidate", "active", "resting", "leaving"
MASTER_PATIENCE_S = 2.0


class Generation:
    """One generation as the keeper knows it. Owns its master's process and link, and its crew."""

    def __init__(
        self,
        number: int,
        program: Program,
        state: str,
        state_path: str,
        poller: Poller,
        log: Log,
        lending: Lending,
    ) -> None:
        """See the class. `state_path` is of the directory. Nothing is started yet."""
        self.number = number
        self.program = program
        self.state = state
        self.crew = Crew(program, state_path, poller, log, lending, self.tell_master)
        self.master_pid = 0
        self.greeting: Callable[[], tuple[dict[str, Any], list[int]]] = lambda: ({"type": "hello"}, [])
        """What a master is told first."""
        self.on_message: Callable[[dict[str, Any], list[int]], None] = lambda message, descriptors: None
        self.on_master_death: Callable[[str], bool] = lambda reason: False
        """Returns whether another one is to be started."""
        self.on_change: Callable[[], None] = lambda: None
        self.may_start_master = True
        self.lineage = 0
        """See process/newest.py."""
        self._poller = poller
        self._log = log
        self.link: Link | None = None
        """To the master."""
        self._backoff = Backoff()
        self._started_s = 0.0
        lending.crews.append(self.crew)

    @property
    def alive(self) -> bool:
        """Whether any process of it runs."""
        return bool(self.master_pid or self.crew.workers)

    def pids(self) -> list[int]:
        """Return the pids of its processes, the master's last."""
        return [worker.pid for worker in self.crew.workers.values()] + ([self.master_pid] if self.master_pid else [])

    def be_patient(self) -> None:
        """Leave the processors to the generation that serves, while this one only gets ready."""
        self.program.patient = may_hurry()

    def hurry(self) -> None:
        """Have as much of the processors as this process from now on."""
        if self.program.patient:
            self.program.patient = False
            for pid in self.pids():
                make_patient(pid, patient=False)

    # ---- the master

    def start_master(self) -> None:
        """Start the master, greet it and introduce the workers; try again later when the system cannot."""
        if self.state in {RESTING, LEAVING} or self.master_pid or not self.may_start_master:
            return
        ours = theirs = -1
        try:
            ours, theirs = links.pair()
            self.master_pid = self.program.spawn("bascule.process.master", [str(theirs)], [theirs])
        except OSError as error:
            if ours >= 0:
                os.close(ours)
            if not self.on_master_death(f"cannot be started: {error.strerror}"):
                return
            delay_s = self._backoff.died(0.0)
            self._log.error("the master cannot be started", error=error.strerror, retry_in_s=delay_s)
            self._poller.call_later(max(delay_s, 0.1), self.start_master)
            return
        finally:
            if theirs >= 0:
                os.close(theirs)
        self.adopt_master(self.master_pid, Link(ours))
        self.tell_master(*self.greeting())
        for worker in self.crew.workers.values():
            self.crew.introduce(worker)
        self.on_change()

    def adopt_master(self, pid: int, link: Link) -> None:
        """Go on with a master that runs already."""
        self._started_s = time.monotonic()
        self.master_pid, self.link = pid, link
        self._poller.watch(link, self._received, self._silent)

    def is_quiet(self) -> bool:
        """Whether nothing is under way that only this process knows of."""
        master = self.link is not None and not self.link.wants_write
        return self.crew.is_quiet() and (master or (self.state == LEAVING and not self.master_pid))

    def tell_master(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send to the master, if there is one."""
        if self.link is None:
            return
        try:
            self.link.send(message, descriptors)
        except LinkClosedError:
            return  # it is dying; the next one is told everything anew
        except OSError:
            self._silent()  # no descriptor is left for a message that has to wait, so the next one is told it

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a dead child; False when it is none of ours."""
        if pid != self.master_pid:
            return self.crew.reaped(pid, status)
        self.master_pid = 0
        if self.link is not None:
            self._poller.drain(self.link)  # its last words may be why there is nothing to start again
        self._silent()
        reason = describe_exit(status)
        if not self.on_master_death(reason):
            return True
        delay_s = self._backoff.died(time.monotonic() - self._started_s)
        self._log.error(
            "master died; the workers serve on with the snapshot they have",
            reason=reason,
            deaths=self._backoff.deaths,
            restart_in_s=delay_s,
        )
        self._poller.call_later(delay_s, self.start_master)
        return True

    def end_master(self) -> None:
        """Have the master end, and kill it when it takes too long."""
        if self.master_pid:
            os.kill(self.master_pid, _signal.SIGTERM)
            self._poller.call_later(MASTER_PATIENCE_S, self.kill_master)

    def kill_master(self) -> None:
        """End the master at once."""
        if self.master_pid:
            os.kill(self.master_pid, _signal.SIGKILL)

    # ---- ends

    def leave(self, deadline_ms: int) -> None:
        """Let everybody end: the master at once, the workers when their connections are handed over or finished."""
        self.state = LEAVING
        self.end_master()
        self.crew.drain_all(deadline_ms)

    def kill(self) -> None:
        """End every process at once."""
        self.state = LEAVING
        self.crew.kill_all()
        self.kill_master()

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.on_message(message, descriptors)

    def _silent(self) -> None:
        """The master closed its link, or said what is no message: it is dying, or of no use."""
        if self.link is not None:
            self._poller.unwatch(self.link)
            self.link.close()
            self.link = None
        pid = self.master_pid
        if pid:
            self._poller.call_later(MASTER_PATIENCE_S, lambda: self.kill_master() if self.master_pid == pid else None)
