"""Replacing the active generation: by the program on disk, or back by the one that rests. See docs/upgrade.md.

    IDLE -upgrade-> ASKING -program-> STARTING -standing by-> FILLING -workers started-> TESTING -tested-> HOLDING
    IDLE -back----------------------------------------------------------------------------------------> HOLDING
    HOLDING -no change under way-> ADOPTING -same snapshot-> LENDING -all accept-> COMMIT -> TAKING_OVER -> EMPTYING -> IDLE

Every phase before COMMIT may fail, and failing is always the same: the candidate leaves (or goes on resting), and the
active generation goes on as if nothing had been.
"""

from __future__ import annotations

import os

from bascule.process import link as links
from bascule.process.asking import Asking
from bascule.process.generation import CANDIDATE, RESTING, Generation
from bascule.process.newest import Newest
from bascule.process.phases import (
    ADOPTING,
    ASKING,
    BACK_HOLDING_S,
    EMPTYING,
    FILLING,
    HOLDING,
    LENDING,
    PATIENCE_S,
    SAYINGS,
    SEE_LOG,
    STARTING,
    TAKING_OVER,
    TESTING,
    failed,
)
from bascule.process.probation import Probation
from bascule.process.receipt import Receipt, summary
from bascule.process.room import shortage
from bascule.process.self_test import SelfTest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.keeper import Keeper
    from bascule.process.lending import Lending
    from bascule.process.log import Log
    from bascule.process.poller import Poller, Timer
    from bascule.process.program import Program

    Report = Callable[[dict[str, Any]], None]

_LOOK_S = 0.02


class Upgrade:
    """The keeper's upgrades, one at a time, and the generation that rests after one."""

    def __init__(self, keeper: Keeper, poller: Poller, log: Log, lending: Lending) -> None:
        """See the class."""
        self.phase = ""  # nothing is under way
        self.usual_probation_ms = 0  # when nobody says how long
        self.probation = Probation(poller, log, self._proven)
        self._keeper = keeper
        self._poller = poller
        self._log = log
        self._lending = lending
        self._old: Generation | None = None
        self._new: Generation | None = None
        self._is_back = False
        self._in_charge = False
        self._receipt: Receipt | None = None
        self._report: Report = lambda message: None
        self._timer: Timer | None = None
        self._probation_ms = 0
        self._asking = Asking(poller, lambda program: self._attempt(lambda: self._start(program)), self._fail)
        self._test: SelfTest | None = None
        self._baseline: dict[str, Any] = {}
        self._newest = Newest()
        self._lost = False
        self._deferred: list[tuple[dict[str, Any], list[int]]] = []

    # ---- what can be asked

    def begin(self, launcher: Sequence[str], probation_ms: int, reason: str, report: Report) -> None:
        """Replace the active generation by the program that `launcher` starts; by its own, as it is now, without one."""
        if self._refused(report):
            return
        launcher = launcher or self._keeper.active.program.launcher
        self._log.info("upgrade", program=" ".join(launcher), because=reason)
        workers, rests = self._keeper.active.crew.target, self.probation.resting is not None
        short = shortage(self._lending, workers, one_rests=rests)
        if short is not None:
            report(failed(*short))
            return
        self._is_back, self._probation_ms = False, probation_ms
        self._begun("upgrade", reason, report)
        self._enter(ASKING)
        self._asking.begin(launcher)

    def back(self, reason: str, report: Report) -> None:
        """Return to the generation that rests."""
        if self._refused(report):
            return
        left_s = self.probation.left_s
        resting = self.probation.take()
        if resting is None:
            remedy = "there is nothing to switch back to; upgrade to the version you want"
            report(failed("no generation rests", remedy))
            return
        self._is_back, self._probation_ms = True, int(left_s * 1000)
        self._begun("back", reason, report)
        self._new = resting
        self._watch_candidate(resting)
        self._hold()

    def finish(self, report: Report) -> None:
        """End the probation: the generation that rests leaves, and the keeper becomes the new version too."""
        if self._refused(report):
            return
        resting = self.probation.resting
        if resting is None:
            report(failed("no generation rests", "there is no probation to end"))
            return
        report({"type": "finished", "generation": resting.number})
        self.probation.proven()

    def state(self) -> dict[str, Any]:
        """Return what is under way, for status and `upgrade?`."""
        active = self._keeper.active
        serving = {"generation": active.number, "version": active.program.version}
        return {"phase": self.phase, **serving, **self.probation.state()}

    def stop(self) -> None:
        """The keeper stops: nothing is replaced any more."""
        if self.phase == EMPTYING:
            assert self._old is not None
            if self._old.state == RESTING:
                self._old.leave(self._old.crew.drain_timeout_ms)
        elif self.phase == TAKING_OVER:
            self._probation_ms = 0
        elif self.phase:
            self._fail("the load balancer is being stopped", "start it again")
        self.probation.end()

    def defers(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        """Whether a message of the active master has to wait: slots must not change while they are lent twice."""
        if self.phase not in {ADOPTING, LENDING} or message["type"] not in {"bind", "listen", "unbind", "settings"}:
            return False
        self._deferred.append((message, descriptors))
        return True

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a dead child; False when it was not the program that was asked."""
        return self._asking.reaped(pid, status)

    def crashed(self, what: str) -> None:
        """A process of the active generation died unasked: twice on probation is once too often."""
        if self.probation.crashed_too_often() and not self.phase:
            self.back(f"the new version crashes: {what}", lambda message: None)

    def goes_on_without_master(self) -> bool:
        """Whether the active master that has just died is not to be replaced yet: until the commit, or the failure, nothing
        is to change, and of that its death is as good a promise as its word."""
        if self.phase not in {HOLDING, ADOPTING, LENDING}:
            return False
        self._poller.call_later(0.0, lambda: self.held({}))
        return True

    # ---- the candidate

    def _start(self, program: Program) -> None:
        self._enter(STARTING)
        old, keeper = self._old, self._keeper
        assert old is not None
        new = self._new = keeper.new_generation(program, CANDIDATE)
        self._watch_candidate(new)
        new.crew.apply_settings(old.crew.drain_timeout_ms, old.crew.access_log, old.crew.worker_memory_bytes)
        new.crew.regions = [os.dup(descriptor) for descriptor in old.crew.regions]
        self._newest.begin(old, new)
        new.be_patient()
        new.start_master()

    def _watch_candidate(self, new: Generation) -> None:
        self._lost = False
        new.on_message = lambda message, descriptors: self._attempt(lambda: self._from_candidate(message, descriptors))
        new.on_master_death = lambda reason: self._candidate_lost(f"the new master died: {reason}")
        new.crew.on_death = lambda worker, why: self._candidate_lost(f"new worker {worker.number} died: {why}")
        new.crew.on_failure = lambda worker, why: self._fail(f"new worker {worker.number} failed: {why}", SEE_LOG)
        new.crew.on_start_failure = lambda why: self._fail(f"a new worker cannot be started: {why}", SEE_LOG)
        new.crew.on_refusal = lambda why: self._fail(f"a new worker refuses the snapshot in force: {why}", SEE_LOG)
        new.crew.on_change = lambda: self._attempt(self._look)

    def _candidate_lost(self, what: str) -> bool:
        self._lost = True
        self._fail(what, SEE_LOG)
        return False

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do what the system may refuse, or what a version to come words otherwise: this fails the upgrade, nothing else."""
        try:
            step()
        except (OSError, KeyError, TypeError, ValueError) as error:
            if not self._is_undecided():
                raise
            what = error.strerror if isinstance(error, OSError) else f"not known here: {type(error).__name__}: {error}"
            self._fail(f"{SAYINGS[self.phase]}: {what}", SEE_LOG)

    def failed_inside(self, error: Exception) -> None:
        """The keeper failed at something that had to be done: what can still fail, fails."""
        if self._is_undecided():
            self._fail(f"{SAYINGS[self.phase]}: the keeper failed: {type(error).__name__}: {error}", SEE_LOG)

    def _is_undecided(self) -> bool:
        """Whether something is under way that can still fail."""
        return bool(self.phase) and self.phase not in {TAKING_OVER, EMPTYING}

    def _from_candidate(self, message: dict[str, Any], descriptors: list[int]) -> None:
        assert self._new is not None
        crew, kind = self._new.crew, message["type"]
        if kind == "regions":
            crew.take_regions(descriptors)
        elif kind == "snapshot":
            self._newest.made(self._new, message.get("of", 0))
            crew.take_snapshot(message["revision"], descriptors)
            if self.phase == ADOPTING:
                crew.confirm_snapshot()
        elif kind == "standing_by" and self.phase == STARTING:
            if message["restarted"] and self._receipt is not None:
                self._receipt.note("regions_restarted", message["restarted"])
                self._log.warning("the new version begins these anew", regions=",".join(message["restarted"]))
            self._newest.give(self._keeper.active, self._new)
            self._enter(FILLING)
            crew.resize(self._keeper.active.crew.target)
        elif kind == "self_tested" and self.phase == TESTING:
            self._tested(message)
        elif kind == "fatal":
            self._fail(f"the new master cannot take over: {message['reason']}", SEE_LOG)
        else:
            links.close_all(descriptors)

    def _tested(self, message: dict[str, Any]) -> None:
        self._close_test()
        if message["problems"]:
            self._fail(f"the self-test failed: {message['problems'][0]}", SEE_LOG)
            return
        if self._receipt is not None:
            self._receipt.note("self_test_requests", message["requests"])
        self._hold()

    # ---- phases

    def _look(self) -> None:
        """Something changed in the candidate: is the phase over?"""
        new, phase = self._new, self.phase
        if new is None:
            return
        if phase == FILLING and new.crew.is_complete():
            self._begin_test()
        elif phase == TESTING and self._test is not None and self._test.begins():
            new.tell_master({"type": "self_test", "ports": self._test.ports()}, new.crew.snapshot)
        elif phase == ADOPTING and self._newest.is_reached(self._keeper.active, new, is_back=self._is_back):
            self._enter(LENDING)
            self._lending.lend_beside(new.crew)
            self._look()
        elif phase == LENDING and self._lending.beside_complete():
            self._commit()

    def _begin_test(self) -> None:
        assert self._new is not None
        self._enter(TESTING)
        try:
            self._test = SelfTest(self._new.crew)
        except OSError as error:
            self._fail(f"the self-test cannot listen on 127.0.0.1: {error.strerror}", "is the loopback interface up?")

    def _hold(self) -> None:
        """Have the active master finish its change and begin no other."""
        assert self._old is not None
        assert self._new is not None
        self._enter(HOLDING)
        self._new.hurry()
        self._old.may_start_master = False
        self._old.tell_master({"type": "hold"})
        if not self._old.master_pid:
            self.held({})

    def held(self, baseline: dict[str, Any]) -> None:
        """The active master holds still: from here to the commit nothing changes. `baseline`: what the new generation is
        to be measured by, empty when nobody knows."""
        if self.phase != HOLDING:
            return
        self._baseline = baseline
        if self._lending.leaving:
            self._poller.call_later(_LOOK_S, lambda: self.held(baseline))  # who empties its queue must not lose it
            return
        assert self._new is not None
        self._enter(ADOPTING)
        if self._is_back:
            self._new.crew.resume()
        self._attempt(self._catch_up)
        self._attempt(self._look)

    def _catch_up(self) -> None:
        assert self._old is not None
        assert self._new is not None
        (self._newest.come_back if self._is_back else self._newest.catch_up)(self._old, self._new)

    def _commit(self) -> None:
        old, new = self._old, self._new
        assert old is not None
        assert new is not None
        assert self._receipt is not None
        self._lending.commit()
        # Whatever goes wrong from here on, nothing may be taken for a failure before the commit: who has no slots any more
        # cannot serve on. At worst the patience of this phase ends, and the old generation leaves.
        self._receipt.phase_ended(self.phase)
        self.phase = TAKING_OVER
        self.probation.end()
        self.probation.baseline = self._baseline
        self._receipt.committed(old, new, self._lending)
        new.crew.tell_nobody()  # of this upgrade any more
        self._keeper.activate(new)
        new.crew.resize(old.crew.target)  # which may have changed while one of them rested, or started
        deadline_ms = old.crew.drain_timeout_ms
        old.tell_master({"type": "rest"})
        old.on_message = self._from_old
        old.state, old.may_start_master = RESTING, True
        self._watch_resting(old)
        old.crew.on_change = self._emptied
        old.crew.rest(deadline_ms)
        self._log.info("the new generation serves", generation=new.number, version=new.program.version)
        self._enter(TAKING_OVER)
        for message, descriptors in self._deferred:
            for descriptor in descriptors:
                os.close(descriptor)  # the new master reads the store for itself
            self._log.info("a change in the middle of an upgrade is left to the new master", what=message["type"])
        self._deferred = []
        if not old.master_pid:
            self._resting_lost(old, "its master died before the new generation served")

    def _watch_resting(self, old: Generation) -> None:
        old.on_master_death = lambda reason: self._resting_lost(old, f"its master died: {reason}")
        old.crew.on_death = lambda worker, why: self._resting_lost(old, f"its worker {worker.number} died: {why}")

    def _from_old(self, message: dict[str, Any], descriptors: list[int]) -> None:
        links.close_all(descriptors)
        if message["type"] == "rested" and self.phase == TAKING_OVER:
            self._promote()

    def _promote(self) -> None:
        """Put the new master in charge; what remains is to wait until the old workers are empty."""
        assert self._old is not None
        self._in_charge = False
        self._keeper.promote()
        self._enter(EMPTYING)
        if self._is_back or not self._probation_ms:
            if not self._is_back:
                self._keeper.renew()
            self._old.leave(self._old.crew.drain_timeout_ms)
        self._emptied()

    def in_charge(self) -> None:
        """The new master follows the store and answers on the admin socket."""
        self._in_charge = True
        self._emptied()

    def _emptied(self) -> None:
        old = self._old
        if self.phase != EMPTYING or old is None or not self._in_charge:
            return
        workers = old.crew.workers.values()
        if any(worker.account.get("in_flight", 1) for worker in workers):
            return
        self._done()

    def _done(self) -> None:
        old, receipt = self._old, self._receipt
        assert old is not None
        assert receipt is not None
        receipt.phase_ended(self.phase)
        receipt.note("master_in_charge", self._in_charge)
        document = receipt.done(old.crew)
        if old.state == RESTING:
            self.probation.begin(old, self._probation_ms)
        self._ended(document)

    def _proven(self) -> None:
        self._log.info("the new version is proven", version=self._keeper.active.program.version)
        self._keeper.announce({"phase": "proven", "text": "the probation is over: the version before ends"})
        self._keeper.renew()

    def _resting_lost(self, generation: Generation, why: str) -> bool:
        if generation.state == RESTING:
            self.probation.lost(generation, why)
            self._keeper.announce({"phase": "lost", "text": f"there is no way back to the version before: {why}"})
        if self.phase == TAKING_OVER and not generation.master_pid:
            self._promote()
        return False

    # ---- ends

    def _refused(self, report: Report) -> bool:
        if self.phase:
            remedy = "wait for its end: bascule upgrade --status"
            report(failed(f"an upgrade is under way: {SAYINGS[self.phase]}", remedy))
        elif not self._keeper.can_upgrade:
            report(failed("the load balancer is starting or stopping", "wait until it is ready"))
        else:
            return False
        return True

    def _begun(self, kind: str, reason: str, report: Report) -> None:
        self._old, self._report, self._deferred = self._keeper.active, report, []
        self._receipt = Receipt(kind, reason, self._old, self._lending)

    def _enter(self, phase: str) -> None:
        if self.phase and self._receipt is not None:
            self._receipt.phase_ended(self.phase)
        self.phase = phase
        self._report({"type": "progress", "phase": phase, "text": SAYINGS[phase]})
        self._keeper.announce({"phase": phase, "text": SAYINGS[phase]})
        if self._timer is not None:
            self._timer.cancel()
        patience_s = min(PATIENCE_S[phase], BACK_HOLDING_S) if phase == HOLDING and self._is_back else PATIENCE_S[phase]
        self._timer = self._poller.call_later(patience_s, self._late)

    def _late(self) -> None:
        if self.phase == TAKING_OVER:
            assert self._old is not None
            self._log.error("the old master does not let go and is killed")
            self._old.kill_master()
            self._promote()
        elif self.phase == EMPTYING:
            if not self._in_charge:
                self._log.error("the new master has not taken charge yet", remedy="kill it: it is replaced; or go back")
            self._done()
        elif self.phase == HOLDING and self._is_back:
            assert self._old is not None
            self._log.error("the master does not end its change and is killed: its version is on the way out")
            self._old.kill_master()
        else:
            self._fail(f"{SAYINGS[self.phase]} took longer than {PATIENCE_S[self.phase]:g} s", SEE_LOG)

    def _fail(self, reason: str, remedy: str) -> None:
        """Before the commit: nothing changes."""
        if not self._is_undecided() or self._receipt is None:
            return
        phase, self.phase = self.phase, ""
        self._asking.end()
        self._close_test()
        if phase in {HOLDING, ADOPTING, LENDING}:
            self._release_master(self._keeper.active)
        if phase == LENDING:
            self._lending.abandon()
        self._drop_candidate(lent=phase == LENDING)
        for message, descriptors in self._deferred:
            self._keeper.from_master(message, descriptors)
        self._log.error("the upgrade failed; nothing has changed", phase=phase, reason=reason, remedy=remedy)
        self._ended(self._receipt.failed(reason, remedy))

    def _release_master(self, active: Generation) -> None:
        """Let the active master change things again; one that died meanwhile is replaced now."""
        active.may_start_master = True
        active.tell_master({"type": "go_on"})
        if not active.master_pid and self._keeper.can_upgrade:
            active.start_master()

    def _drop_candidate(self, *, lent: bool) -> None:
        new, self._new = self._new, None
        if new is None:
            return
        new.crew.tell_nobody()
        new.on_master_death = lambda reason: False
        new.on_message = lambda message, descriptors: links.close_all(descriptors)
        if self._is_back and not self._lost:
            new.crew.rest(new.crew.drain_timeout_ms)
            self._watch_resting(new)
            self.probation.begin(new, self._probation_ms)
        elif lent or self._is_back:
            new.leave(new.crew.drain_timeout_ms)
        else:
            new.kill()
        self._keeper.forget_gone()

    def _ended(self, document: dict[str, Any]) -> None:
        self.phase = ""
        if self._timer is not None:
            self._timer.cancel()
        self._asking.end()
        report, self._report = self._report, lambda message: None
        self._old = self._new = self._receipt = None
        self._keeper.remember(document)
        self._keeper.announce(summary(document))
        report({"type": "receipt", "receipt": document})

    def _close_test(self) -> None:
        if self._test is not None:
            self._test.close()
            self._test = None
