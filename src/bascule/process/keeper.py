"""The keeper: the pid that systemd or a shell sees. Binds, starts, lends, replaces; parses no byte of a client."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import sys
import time

from bascule.cli import options as command_line
from bascule.process import program as programs
from bascule.process import spawn, systemd
from bascule.process.control_socket import ControlSocket
from bascule.process.generation import ACTIVE, LEAVING, Generation
from bascule.process.lending import Lending
from bascule.process.log import Log
from bascule.process.orphans import Orphans
from bascule.process.poller import Poller
from bascule.process.rebinding import Rebinding
from bascule.process.receipt import HISTORY_FILE, remember
from bascule.process.state_directory import PROCESSES_FILE, StateDirectory, StateDirectoryError, default_path
from bascule.process.upgrade import Upgrade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.crew import Crew
    from bascule.process.program import Program

DRAIN_TIMEOUT_MS = 30_000
PROBATION_MS = 300_000
LAST_QUIET_S = 0.1
HEARTBEAT_S = 5.0


class Keeper:
    """One keeper and everything it keeps.

    States: STARTING -(first configuration in force, every worker accepting)-> READY -(TERM)-> STOPPING -> ended.
    """

    def __init__(self, options: dict[str, Any], state: StateDirectory, log: Log) -> None:
        """See the class."""
        self._options = options
        self._state = state
        self._log = log
        self._poller = Poller()
        self._notifier = systemd.Notifier()
        self._lending = Lending()
        self._generations: list[Generation] = []
        self.active = self.new_generation(programs.current(programs.own_launcher()), ACTIVE)
        self.active.crew.apply_settings(options["drain_timeout_ms"] or DRAIN_TIMEOUT_MS, options["access_log"] or "off")
        self._in_charge(self.active)
        self._upgrade = Upgrade(self, self._poller, log, self._lending)
        self._upgrade_probation_ms = PROBATION_MS
        self._rebinding = Rebinding(self._lending, self._poller, log, systemd.inherited_sockets())
        self._orphans = Orphans(state.read(PROCESSES_FILE), log)
        self._rebinding.exclusive = not self._orphans.living()
        self._in_force = False
        self._ready = False
        self._stopping = False
        self._exit_status: int | None = None
        self._failed = 0
        self._recorded: list[int] = []

    def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        _raise_descriptor_limit()
        self._take_signals()
        control = ControlSocket(self._state.path, self._poller, self._asked)
        self._crew.resize(self._options["workers"] or len(os.sched_getaffinity(0)))
        self.active.start_master()
        self._rebinding.forget_unused()
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        if self._notifier.watchdog_s:
            self._watchdog()
        while self._exit_status is None:
            self._poller.turn()
        control.close()
        for listener in list(self._lending.listeners.values()):
            listener.close()
        return self._exit_status

    @property
    def _crew(self) -> Crew:
        return self.active.crew

    # ---- generations

    def new_generation(self, program: Program, state: str) -> Generation:
        """Return a generation of its own number, of which nothing runs yet."""
        number = max((generation.number for generation in self._generations), default=0) + 1
        generation = Generation(number, program, state, self._poller, self._log, self._lending)
        generation.greeting = lambda: self._greeting(generation)
        generation.on_change = self._changed
        self._generations.append(generation)
        return generation

    def activate(self, generation: Generation) -> None:
        """Make this the generation that serves; its slots are lent already."""
        self.active = generation
        generation.state = ACTIVE
        self._in_charge(generation)

    def promote(self) -> None:
        """Put the active generation's master in charge of what is in force."""
        message, descriptors = self._greeting(self.active)
        self.active.tell_master({**message, "type": "promote"}, descriptors)

    def remember(self, receipt: dict[str, Any]) -> None:
        """Keep the receipt of an upgrade, and say in the log how it went."""
        try:
            remember(self._state.file(HISTORY_FILE), receipt)
        except OSError as error:
            self._log.error("the receipt of the upgrade cannot be kept", error=error.strerror)
        self._changed()
        if receipt["ok"]:
            self._log.info(
                "switched back" if receipt["kind"] == "back" else "upgraded",
                version=receipt["to"]["version"],
                because=receipt["reason"],
                took_s=receipt["took_s"],
                **receipt["connections"],
            )

    def announce(self, what: dict[str, Any]) -> None:
        """Tell the master in charge how upgrades stand, and what has just happened."""
        self.active.tell_master({"type": "upgrade", "state": self._upgrade.state(), "happened": what})

    def renew(self) -> None:
        """Become the version that serves."""

    @property
    def can_upgrade(self) -> bool:
        """Whether a generation serves that could be replaced."""
        return self._ready and not self._stopping

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
            "listeners": [[listener_id, address] for listener_id, address in sorted(self._lending.listening)],
        }
        return message, [*crew.regions, *crew.snapshot]

    # ---- signals

    def _take_signals(self) -> None:
        on_signal = self._poller.on_signal
        on_signal([_signal.SIGCHLD], self._reap)
        on_signal([_signal.SIGTERM], self._terminate)
        on_signal([_signal.SIGINT, _signal.SIGQUIT], self._stop_at_once)
        on_signal([_signal.SIGHUP], self._reload)
        on_signal([_signal.SIGUSR1], self._reopen_logs)
        on_signal([_signal.SIGUSR2], lambda: self._begin_upgrade({}, "USR2", lambda message: None))
        on_signal([_signal.SIGTTIN], lambda: self._resize(+1))
        on_signal([_signal.SIGTTOU], lambda: self._resize(-1))
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)

    def _reload(self) -> None:
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.active.tell_master({"type": "reload"})

    def _reopen_logs(self) -> None:
        if not self._options["log_file"]:
            if not self._crew.access_log.startswith("/"):
                self._log.info("USR1 received, but there is no log file to reopen: the log goes to standard error")
            self._reopen_everywhere([])
            return
        try:
            open_log(self._options["log_file"])
        except OSError as error:
            self._log.error("the log file cannot be reopened", file=self._options["log_file"], error=error.strerror)
            self._reopen_everywhere([])
            return
        self._reopen_everywhere([2])

    def _reopen_everywhere(self, descriptors: list[int]) -> None:
        for generation in self._generations:
            generation.crew.tell_all({"type": "reopen_logs"}, descriptors)
            if descriptors:
                generation.tell_master({"type": "reopen_logs"}, descriptors)

    def _resize(self, step: int) -> None:
        target = min(max(self._crew.target + step, 1), command_line.WORKERS_MAX)
        if self._stopping or target == self._crew.target or self._upgrade.phase:
            self._log.warning("the number of workers stays as it is", workers=self._crew.target)
            return
        self._log.info("number of workers changes", workers=target)
        self._options["workers"] = target  # a later configuration does not undo what the operator did
        self._crew.resize(target)
        self.active.tell_master({"type": "target", "workers": target})

    def _terminate(self) -> None:
        if self._stopping:
            self._log.warning("second TERM: stopping at once")
            self._stop_at_once()
            return
        self._stopping = True
        self._upgrade.stop()
        crew = self._crew
        crew.stopping = True
        deadline_ms = crew.drain_timeout_ms
        self._log.info("stopping", drain_timeout_s=deadline_ms / 1000)
        self._notifier.send("STOPPING=1", "STATUS=Draining")
        crew.cancel_restarts()
        crew.target = 0
        self.active.tell_master({"type": "stopping", "deadline_ms": deadline_ms})
        closing = [listener for listener in self._lending.listeners.values() if not listener.closing]
        self._rebinding.close(closing, LAST_QUIET_S, lambda _: crew.drain_all(deadline_ms))
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
            if not self._upgrade.reaped(pid, status):
                any(generation.reaped(pid, status) for generation in list(self._generations))
        self.forget_gone()
        self._end_if_alone()

    def forget_gone(self) -> None:
        """Forget the generations that left and have no process any more."""
        for generation in list(self._generations):
            if generation.state == LEAVING and not generation.alive and generation is not self.active:
                self._gone(generation)

    def _gone(self, generation: Generation) -> None:
        generation.crew.release()
        self._generations.remove(generation)
        self._lending.crews.remove(generation.crew)
        self._log.info("generation ended", generation=generation.number, version=generation.program.version)

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
            self._rebinding.unbind(
                message["listeners"], lambda lost: self.active.tell_master({"type": "unbound", "lost": lost})
            )
        elif kind == "held":
            self._upgrade.held(message.get("baseline") or {})
        elif kind == "switch_back":
            self._upgrade.back(message["reason"], lambda answer: None)
        elif kind == "reloaded":
            self._notifier.send("READY=1", f"STATUS={message['status']}")
        elif kind == "status":
            self._notifier.send(f"STATUS={message['status']}")
        elif kind == "fatal":
            self._fatal(message["reason"], message["status"])

    def _apply_settings(self, message: dict[str, Any]) -> None:
        """Take over what the configuration says of the processes, where the command line says nothing."""
        options = self._options
        drain_timeout_ms = options["drain_timeout_ms"] or message["drain_timeout_ms"] or self._crew.drain_timeout_ms
        self._upgrade_probation_ms = message.get("upgrade_probation_ms", PROBATION_MS)
        self._crew.apply_settings(
            drain_timeout_ms, options["access_log"] or message["access_log"], message["worker_memory_bytes"]
        )
        workers = self._options["workers"] or message["workers"] or len(os.sched_getaffinity(0))
        if workers != self._crew.target and not self._stopping:
            self._crew.resize(workers)
            self.active.tell_master({"type": "target", "workers": workers})

    def _fatal(self, reason: str, status: int) -> None:
        """The first configuration cannot come into force, as the master has said at length: end, rather than wait for
        a better one."""
        self._log.error("cannot start", reason=reason)
        self._failed = status
        self._stop_at_once()

    # ---- what an operator says

    def _asked(self, message: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Do what a client of the control socket asks."""
        kind = message["type"]
        if kind == "upgrade":
            self._begin_upgrade(message, "bascule upgrade", answer)
        elif kind == "back":
            self._upgrade.back(str(message.get("reason") or "bascule upgrade --back"), answer)
        elif kind == "finish":
            self._upgrade.finish(answer)
        elif kind == "upgrade?":
            answer({"type": "state", **self._upgrade.state()})
        else:
            answer(
                {"type": "failed", "reason": f"this keeper knows no {kind!r}", "remedy": "it may be an older version"}
            )

    def _begin_upgrade(self, message: dict[str, Any], reason: str, answer: Callable[[dict[str, Any]], None]) -> None:
        launcher = [str(word) for word in message.get("program") or ()] or self.active.program.launcher
        probation_ms = message.get("probation_ms")
        if not isinstance(probation_ms, int):
            probation_ms = self._upgrade_probation_ms
        self._log.info("upgrade", program=" ".join(launcher), because=reason)
        self._upgrade.begin(launcher, probation_ms, reason, answer)

    def _changed(self) -> None:
        self._record()
        if self._ready or not self._in_force or not self._lending.complete():
            return
        self._ready = True
        self._rebinding.exclusive = True
        workers, listeners = len(self._crew.workers), len(self._lending.listening)
        self._log.info("ready", workers=workers, listeners=listeners)
        status = f"Serving {listeners} listeners with {workers} workers"
        self._notifier.send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
        self.active.tell_master({"type": "ready"})
        self._orphans.release()

    def _record(self) -> None:
        """Note who runs, for the keeper that follows should this one be killed."""
        pids = [pid for generation in self._generations for pid in generation.pids()]
        if pids == self._recorded:
            return
        self._recorded = pids
        record = {str(pid): spawn.start_time(pid) for pid in pids}
        try:
            self._state.write(
                PROCESSES_FILE, {"keeper": os.getpid(), "processes": {**self._orphans.record(), **record}}
            )
        except OSError as error:
            self._recorded = []  # again at the next change
            self._log.error("the processes cannot be recorded in the state directory", error=error.strerror)

    def _heartbeat(self) -> None:
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        for generation in self._generations:
            generation.crew.check_heartbeats()

    def _watchdog(self) -> None:
        self._notifier.watchdog()
        self._poller.call_later(self._notifier.watchdog_s, self._watchdog)


def open_log(path: str) -> None:
    """Make standard error append to a file, which is created if need be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _raise_descriptor_limit() -> None:
    """Let every process open as many files as the system allows: the soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _state_path(options: dict[str, Any]) -> str:
    if options["state"]:
        return str(options["state"])
    name = "bascule"
    if options["command"] == "proxy":
        place = options["listen"][0].replace("unix://", "").replace("/", "-").strip("-")
        name = f"bascule-proxy-{place}"
    return default_path(name)


def main(command: str, words: Sequence[str]) -> int:
    """Run `bascule run` or `bascule proxy` with these arguments and return the exit status."""
    try:
        options = command_line.parse(command, words)
    except command_line.UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    spawn.name_process("bascule")
    log = Log(options["log_format"] == "json", process="keeper", pid=os.getpid())
    try:
        if options["log_file"]:
            open_log(options["log_file"])
        state = StateDirectory(_state_path(options))
        if options["pid_file"]:
            _write_pid_file(options["pid_file"])
    except (StateDirectoryError, OSError) as error:
        sys.stderr.write(f"bascule {command}: {error}\n")
        return 1
    try:
        return Keeper(options, state, log).run()
    finally:
        state.release(and_remove=command == "proxy" and not options["state"])
        if options["pid_file"]:
            os.unlink(options["pid_file"])


def _write_pid_file(path: str) -> None:
    """Write and rename: whoever reads it never sees an empty file."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(temporary, path)
