"""The keeper: the pid that systemd or a shell sees. Binds, starts, lends, replaces; parses no byte of a client."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from bascule.cli import options as command_line
from bascule.process import program as programs
from bascule.process import systemd
from bascule.process.control_socket import ControlSocket
from bascule.process.generation import ACTIVE, LEAVING, Generation
from bascule.process.lending import Lending
from bascule.process.log import Log, place_of
from bascule.process.log_file import reopen_logs
from bascule.process.orders import obey, obey_signal
from bascule.process.orphans import Orphan, Orphans, give_back
from bascule.process.poller import Poller
from bascule.process.rebinding import Rebinding
from bascule.process.receipt import HISTORY_FILE, keep
from bascule.process.renewal import Renewal
from bascule.process.room import usual_workers
from bascule.process.state_directory import PROCESSES_FILE, StateDirectory
from bascule.process.storage import Storage
from bascule.process.succession import (
    Document,
    describe_generation,
    describe_listener,
    restore_generation,
    restore_listener,
    unblock,
)
from bascule.process.upgrade import Upgrade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.process.crew import Crew
    from bascule.process.listeners import Listener
    from bascule.process.program import Program

DRAIN_TIMEOUT_MS = 30_000
PROBATION_MS = 300_000
HEARTBEAT_S = 5.0
STOP_GRACE_S = 15.0
"""Beyond the drain: for queues to be emptied before it (5 s) and processes to be killed after it (2 s). Then whatever is
left has failed to end, and is ended."""
AFTER_FAILURE_S = 0.01
"""A pause, so that what fails again and again does not take a whole processor."""


class Keeper:
    """One keeper and everything it keeps.

    States: STARTING -(first configuration in force, every worker accepting)-> READY -(TERM)-> STOPPING -> ended.
    """

    def __init__(
        self,
        options: dict[str, Any],
        words: Sequence[str],
        state: StateDirectory,
        log: Log,
        document: dict[str, Any] | None,
    ) -> None:
        """`words` are the command line that `options` were read from, beginning with the command; `document` is what this
        process knew before an execve."""
        self._document = document
        self._options = options
        self._words = list(words)
        self._state = state
        self._log = log
        self._poller = Poller()
        self._notifier = systemd.Notifier(document["notifier"] if document is not None else None)
        self._lending = Lending()
        self._generations: list[Generation] = []
        self._generation_number = 0
        self._admin_socket: list[int] = []
        self.active = self.new_generation(programs.current(programs.own_launcher()), ACTIVE)
        self.active.crew.apply_settings(options["drain_timeout_ms"] or DRAIN_TIMEOUT_MS, options["access_log"] or "off")
        self._in_charge(self.active)
        self._upgrade = Upgrade(self, self._poller, log, self._lending)
        self._renewal = Renewal(self._poller, log, self._is_quiet, self._describe)
        self._upgrade.usual_probation_ms = PROBATION_MS
        inherited = systemd.inherited_sockets()
        storage = Storage(self._notifier, self._poller, log, inherited, state.path)
        self._rebinding = Rebinding(self._lending, self._poller, log, inherited, storage)
        self._rebinding.on_closed = self._listener_closed
        self._orphans = Orphans(state.read(PROCESSES_FILE) if document is None else {}, log)
        self._rebinding.exclusive = not self._orphans.living()
        self._in_force = False
        self._ready = False
        self._stopping = False
        self._exit_status: int | None = None
        self._failed = 0
        self._recorded: list[int] = []
        self._reloading = False
        """The service manager waits to hear that a reload is over."""

    def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        self._take_signals()
        self._control = ControlSocket(
            self._state.path,
            self._poller,
            lambda message, answer: obey(self._upgrade, message, answer),
            descriptor=-1 if self._document is None else self._document["control"],
        )
        if self._document is None:
            self._take_over(self._orphans.collect(self._state.path))
            self._crew.resize(self._options["workers"] or usual_workers())
            self.active.start_master()
        else:
            self._go_on(self._document)
        self._poller.on_failure = self._goes_on_after
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        if self._notifier.watchdog_s:
            self._watchdog()
        while self._exit_status is None:
            self._poller.turn()
        self._control.close()
        for listener in list(self._lending.listeners.values()):
            listener.close()
        return self._exit_status

    @property
    def _crew(self) -> Crew:
        return self.active.crew

    def _goes_on_after(self, error: Exception) -> bool:
        """A fault of our own, or a system that has run out of something: it costs what was to be done, and not the traffic
        of all workers, which the service manager may end when this process does."""
        if not self._ready:
            return False
        self._log.error("a step of the keeper failed; it goes on", error=repr(error)[:1000], where=place_of(error))
        self._upgrade.failed_inside(error)
        time.sleep(AFTER_FAILURE_S)
        return True

    # ---- generations

    def new_generation(self, program: Program, state: str, number: int = 0) -> Generation:
        """Return a generation of which nothing runs yet, with this number, or the next one."""
        number = number or self._generation_number + 1
        self._generation_number = max(self._generation_number, number)
        generation = Generation(number, program, state, self._state.path, self._poller, self._log, self._lending)
        generation.greeting = lambda: self._greeting(generation)
        generation.on_change = self._changed
        self._generations.append(generation)
        return generation

    def activate(self, generation: Generation) -> None:
        """Make this the generation that serves; its slots are lent already."""
        self.active, generation.state = generation, ACTIVE
        self._renewal.stop()  # what waited to be renewed to is not what serves
        self._in_charge(generation)

    def promote(self) -> None:
        """Put the active generation's master in charge of what is in force."""
        message, descriptors = self._greeting(self.active)
        self.active.tell_master({**message, "type": "promote"}, descriptors)

    def remember(self, receipt: dict[str, Any]) -> None:
        """Keep the receipt of an upgrade, and say in the log how it went."""
        keep(self._state.file(HISTORY_FILE), receipt, self._log)
        self._changed()

    def announce(self, what: dict[str, Any]) -> None:
        """Tell the master in charge how upgrades stand, and what has just happened."""
        self.active.tell_master({"type": "upgrade", "state": self._upgrade.state(), "happened": what})

    def renew(self) -> None:
        """Become the version that serves."""
        self._renewal.begin(self.active.program)

    # ---- another version of this process

    def _is_quiet(self) -> bool:
        return (
            self._ready
            and not self._stopping
            and not self._upgrade.phase
            and self._upgrade.probation.resting is None
            and self._control.is_idle
            and self._rebinding.is_quiet()
            and all(generation.is_quiet() for generation in self._generations)
        )

    def _describe(self) -> Document:
        document = Document()
        document.value.update(
            words=self._words,
            workers=self._options["workers"],
            state=self._state.path,
            lock=document.keep(self._state.lock),
            control=document.keep(self._control.fileno()),
            probation_ms=self._upgrade.usual_probation_ms,
            notifier=self._notifier.describe(),
            rebinding=self._rebinding.describe(document),
            listeners=[
                describe_listener(self._lending.listeners[key], document) for key in sorted(self._lending.listening)
            ],
            admin=[document.keep(descriptor) for descriptor in self._admin_socket],
            active=self.active.number,
            reloading=self._reloading,
            generations=[describe_generation(generation, document) for generation in self._generations],
        )
        return document

    def _go_on(self, document: dict[str, Any]) -> None:
        """Go on from where the program before stopped."""
        self._upgrade.usual_probation_ms = document["probation_ms"]
        self._options["workers"] = document["workers"]
        self._reloading = bool(document.get("reloading"))
        self._rebinding.restore(document["rebinding"])
        for state in document["listeners"]:
            listener = restore_listener(state)
            self._lending.listeners[listener.id, listener.address] = listener
            self._lending.listening.add((listener.id, listener.address))
        self._admin_socket = document["admin"]
        for descriptor in self._admin_socket:
            os.set_inheritable(descriptor, False)
        self._forget(self.active)
        for state in document["generations"]:
            generation = self.new_generation(programs.from_message(state["program"]), state["state"], state["number"])
            if state["number"] == document["active"]:
                self.activate(generation)
            restore_generation(generation, state)
        self._in_force = self._ready = True
        unblock()
        self._reap()
        if not self.active.master_pid:
            self.active.start_master()
        self._crew.resize(self._crew.target)
        for generation in self._generations:
            if generation.state == LEAVING:
                generation.leave(self._crew.drain_timeout_ms)
        self._changed()
        self._log.info("the keeper is another version now", version=programs.version())

    @property
    def can_upgrade(self) -> bool:
        """Whether a generation serves that could be replaced."""
        return self._ready and not self._stopping

    def _take_over(self, orphans: list[Orphan]) -> None:
        """Go on with what a killed keeper's workers give back: they serve until the new ones accept, and then leave."""
        if not orphans:
            return
        before = self.new_generation(self.active.program, LEAVING)
        before.crew.stopping = True
        before.crew.apply_settings(self._crew.drain_timeout_ms, self._crew.access_log)
        give_back(orphans, before.crew, self._crew, self._rebinding)
        self._in_force = True
        self._log.info(
            "workers of the killed keeper give back its sockets",
            workers=len(orphans),
            listeners=len(self._lending.listening),
        )

    def _in_charge(self, generation: Generation) -> None:
        self._lending.active = generation.crew
        generation.on_message = self.from_master
        generation.on_master_death = self._master_died
        generation.crew.on_change = self._changed
        generation.crew.on_death = lambda worker, reason: self._upgrade.crashed(f"worker {worker.number}: {reason}")

    def _greeting(self, generation: Generation) -> tuple[dict[str, Any], list[int]]:
        crew = generation.crew
        message = {
            "type": "hello",
            "options": self._options,
            "state": self._state.path,
            "keeper_pid": os.getpid(),
            "generation": generation.number,
            "standby": generation.state != ACTIVE,
            "regions": len(crew.regions),
            "revision": crew.revision,
            "snapshot": bool(crew.snapshot),
            "ready": self._ready,
            "workers": self._crew.target,
            "upgrade": self._upgrade.state(),
            "admin": bool(self._admin_socket),
            "listeners": [list(key) for key in self._lending.in_use()],
        }
        return message, [*crew.regions, *crew.snapshot, *self._admin_socket]

    # ---- signals

    def _take_signals(self) -> None:
        on_signal = self._poller.on_signal
        on_signal([_signal.SIGCHLD], self._reap)
        on_signal([_signal.SIGTERM], self._terminate)
        on_signal([_signal.SIGINT, _signal.SIGQUIT], self._stop_at_once)
        on_signal([_signal.SIGHUP], self._reload)
        on_signal([_signal.SIGUSR1], lambda: reopen_logs(self._options["log_file"], self._generations, self._log))
        on_signal([_signal.SIGUSR2], lambda: obey_signal(self._upgrade, self._log))
        on_signal([_signal.SIGTTIN], lambda: self._resize(+1))
        on_signal([_signal.SIGTTOU], lambda: self._resize(-1))
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)

    def _reload(self) -> None:
        self._reloading = True
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.active.tell_master({"type": "reload"})

    def _resize(self, step: int) -> None:
        target = min(max(self._crew.target + step, 1), command_line.WORKERS_MAX)
        if self._stopping or target == self._crew.target or self._upgrade.phase:
            self._log.warning("the number of workers stays as it is", workers=self._crew.target)
            return
        self._log.info("number of workers changes", workers=target)
        self._options["workers"] = target  # a later configuration does not undo what the operator did
        self._crew.resize(target)
        self.active.tell_master({"type": "target", "workers": target})
        self._rebinding.fit()

    def _terminate(self) -> None:
        if self._stopping:
            self._log.warning("second TERM: stopping at once")
            self._stop_at_once()
            return
        self._stopping = True
        self._renewal.stop()
        self._upgrade.stop()
        crew = self._crew
        crew.stopping = True
        deadline_ms = crew.drain_timeout_ms
        self._poller.call_later(deadline_ms / 1000 + STOP_GRACE_S, self._stop_at_once)
        self._log.info("stopping", drain_timeout_s=deadline_ms / 1000)
        self._notifier.send("STOPPING=1", "STATUS=Draining")
        crew.cancel_restarts()
        crew.target = 0
        self.active.tell_master({"type": "stopping", "deadline_ms": deadline_ms})
        self._rebinding.close_all(lambda: crew.drain_all(deadline_ms))
        self._end_if_alone()

    def _stop_at_once(self) -> None:
        self._stopping = True
        self._notifier.send("STOPPING=1")
        self._log.info("stopping at once")
        self._upgrade.stop()
        for generation in self._generations:
            generation.kill()
        self._end_if_alone()

    # ---- children

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if not (self._upgrade.reaped(pid, status) or self._renewal.reaped(pid, status)):
                any(generation.reaped(pid, status) for generation in list(self._generations))
        self.forget_gone()
        self._end_if_alone()

    def forget_gone(self) -> None:
        """Forget the generations that left and have no process any more."""
        for generation in list(self._generations):
            if generation.state == LEAVING and not generation.alive and generation is not self.active:
                self._gone(generation)

    def _forget(self, generation: Generation) -> None:
        generation.crew.release()
        self._generations.remove(generation)
        self._lending.crews.remove(generation.crew)

    def _gone(self, generation: Generation) -> None:
        self._forget(generation)
        self._log.info("generation ended", generation=generation.number, version=generation.program.version)
        if not self._crew.stopping:
            self._crew.resize(self._crew.target)  # its workers' numbers are free now

    def _end_if_alone(self) -> None:
        """When the workers are gone, the master goes; when the master is gone, the keeper ends."""
        if not self._stopping or any(generation.crew.workers for generation in self._generations):
            return
        if any(generation.master_pid for generation in self._generations):
            for generation in self._generations:
                generation.end_master()
            return
        self._exit_status = self._failed

    def _master_died(self, reason: str) -> bool:
        if self._stopping:
            return False
        self._rebinding.forget_unused()
        self._upgrade.crashed(f"master: {reason}")
        return not self._upgrade.goes_on_without_master()

    # ---- what the master says

    def from_master(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Do what the active generation's master says."""
        kind = message["type"]
        if self._upgrade.defers(message, descriptors):
            return
        if kind == "regions":
            self._crew.take_regions(descriptors)
        elif kind == "snapshot":
            self._crew.take_snapshot(message["revision"], descriptors)
        elif kind == "settings":
            self._apply_settings(message)
        elif kind == "bind":
            problems = self._rebinding.bind(message["listeners"], self._options["slots"] or message["slots"])
            self.active.tell_master({"type": "bind_failed", "problems": problems} if problems else {"type": "bound"})
        elif kind == "listen":
            self._rebinding.listen(message["listeners"])
            self._in_force = True
            self._changed()
        elif kind == "unbind":
            self._rebinding.unbind(message["listeners"])
        elif kind == "held":
            self._upgrade.held(message.get("baseline") or {})
        elif kind == "admin_socket":
            self._keep_admin_socket(descriptors)
        elif kind == "in_charge":
            self._upgrade.in_charge()
            if self._reloading:  # its predecessor was told to; this one has read the configuration since
                self._reloaded("The configuration was read by a new master")
        elif kind == "switch_back":
            self._upgrade.back(message["reason"], lambda answer: None)
        elif kind == "reloaded":
            self._reloaded(message["status"])
        elif kind == "status":
            self._notifier.send(f"STATUS={message['status']}")
        elif kind == "fatal":
            self._fatal(message["reason"], message["status"])

    def _reloaded(self, status: str) -> None:
        self._reloading = False
        self._notifier.send("READY=1", f"STATUS={status}")

    def _keep_admin_socket(self, descriptors: list[int]) -> None:
        """Who asks while one master follows another waits in the queue of this socket, and is refused by neither."""
        for old in self._admin_socket:
            os.close(old)
        self._admin_socket = descriptors

    def _apply_settings(self, message: dict[str, Any]) -> None:
        """Take over what the configuration says of the processes, where the command line says nothing."""
        options = self._options
        drain_timeout_ms = options["drain_timeout_ms"] or message["drain_timeout_ms"] or self._crew.drain_timeout_ms
        self._upgrade.usual_probation_ms = message.get("upgrade_probation_ms", PROBATION_MS)
        access_log = options["access_log"] or message["access_log"]
        self._crew.apply_settings(drain_timeout_ms, access_log, message["worker_memory_bytes"])
        workers = self._options["workers"] or message["workers"] or usual_workers()
        if workers != self._crew.target and not self._stopping:
            self._crew.resize(workers)
            self.active.tell_master({"type": "target", "workers": workers})
        self._rebinding.resize(options["slots"] or message["slots"])

    def _listener_closed(self, listener: Listener, lost: int) -> None:
        closed = {"id": listener.id, "address": listener.address, "lost": lost}
        self.active.tell_master({"type": "listener_closed", **closed})

    def _fatal(self, reason: str, status: int) -> None:
        """The first configuration cannot come into force, as the master has said at length: do not wait for a better one."""
        self._log.error("cannot start", reason=reason)
        self._failed = status
        self._stop_at_once()

    def _changed(self) -> None:
        self._record()
        if self._ready or not self._in_force or not self._lending.complete():
            return
        self._ready = True
        self._rebinding.exclusive = True
        workers, listeners = len(self._crew.workers), len(self._lending.in_use())
        self._log.info("ready", workers=workers, listeners=listeners)
        status = f"Serving {listeners} listeners with {workers} workers"
        self._notifier.send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
        self.active.tell_master({"type": "ready"})
        self._orphans.release()
        for generation in self._generations:
            if generation.state == LEAVING:
                generation.leave(self._crew.drain_timeout_ms)

    def _record(self) -> None:
        pids = [pid for generation in self._generations for pid in generation.pids()]
        if pids == self._recorded:
            return
        self._recorded = pids if self._orphans.write_record(self._state, pids) else []  # then at the next change

    def _heartbeat(self) -> None:
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        for generation in self._generations:
            generation.crew.check_heartbeats()

    def _watchdog(self) -> None:
        self._notifier.watchdog()
        self._poller.call_later(self._notifier.watchdog_s, self._watchdog)
