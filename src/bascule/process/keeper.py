"""The keeper: the pid that systemd or a shell sees. Binds, starts, lends, replaces; parses no byte of a client."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import sys
import time

from bascule.cli import options as command_line
from bascule.process import link as links
from bascule.process import spawn, systemd
from bascule.process.backoff import Backoff
from bascule.process.crew import Crew
from bascule.process.link import Link, LinkClosedError
from bascule.process.log import Log
from bascule.process.orphans import Orphans
from bascule.process.poller import Poller
from bascule.process.rebinding import Rebinding
from bascule.process.state_directory import PROCESSES_FILE, StateDirectory, StateDirectoryError, default_path
from bascule.process.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.process.listeners import Listener

DRAIN_TIMEOUT_MS = 30_000
MASTER_PATIENCE_S = 2.0
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
        self._crew = Crew(self._poller, log, self._tell_master, [])
        self._crew.apply_settings(options["drain_timeout_ms"] or DRAIN_TIMEOUT_MS, options["access_log"] or "off")
        self._crew.on_change = self._changed
        inherited = systemd.inherited_sockets()
        storage = Storage(self._notifier, self._poller, log, inherited, state.path)
        self._rebinding = Rebinding(self._crew, self._poller, log, inherited, storage)
        self._rebinding.on_closed = self._listener_closed
        self._orphans = Orphans(state.read(PROCESSES_FILE), log)
        self._rebinding.exclusive = not self._orphans.living()
        self._master_pid = 0
        self._master_link: Link | None = None
        self._master_backoff = Backoff()
        self._master_started_s = 0.0
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
        self._crew.resize(self._options["workers"] or len(os.sched_getaffinity(0)))
        self._start_master()
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        if self._notifier.watchdog_s:
            self._watchdog()
        while self._exit_status is None:
            self._poller.turn()
        for listener in list(self._crew.listeners.values()):
            listener.close()
        return self._exit_status

    # ---- signals

    def _take_signals(self) -> None:
        on_signal = self._poller.on_signal
        on_signal([_signal.SIGCHLD], self._reap)
        on_signal([_signal.SIGTERM], self._terminate)
        on_signal([_signal.SIGINT, _signal.SIGQUIT], self._stop_at_once)
        on_signal([_signal.SIGHUP], self._reload)
        on_signal([_signal.SIGUSR1], self._reopen_logs)
        on_signal([_signal.SIGUSR2], self._upgrade)
        on_signal([_signal.SIGTTIN], lambda: self._resize(+1))
        on_signal([_signal.SIGTTOU], lambda: self._resize(-1))
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)

    def _reload(self) -> None:
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._tell_master({"type": "reload"})

    def _upgrade(self) -> None:
        self._log.warning("USR2 received: hot upgrade is not available yet; restart the service to run a new version")

    def _reopen_logs(self) -> None:
        if not self._options["log_file"]:
            if not self._crew.access_log.startswith("/"):
                self._log.info("USR1 received, but there is no log file to reopen: the log goes to standard error")
            self._crew.tell_all({"type": "reopen_logs"}, [])
            return
        try:
            open_log(self._options["log_file"])
        except OSError as error:
            self._log.error("the log file cannot be reopened", file=self._options["log_file"], error=error.strerror)
            self._crew.tell_all({"type": "reopen_logs"}, [])
            return
        self._crew.tell_all({"type": "reopen_logs"}, [2])
        self._tell_master({"type": "reopen_logs"}, [2])

    def _resize(self, step: int) -> None:
        target = min(max(self._crew.target + step, 1), command_line.WORKERS_MAX)
        if self._stopping or target == self._crew.target:
            self._log.warning("the number of workers stays as it is", workers=self._crew.target)
            return
        self._log.info("number of workers changes", workers=target)
        self._options["workers"] = target  # a later configuration does not undo what the operator did
        self._crew.resize(target)
        self._tell_master({"type": "target", "workers": target})
        self._rebinding.fit()

    def _terminate(self) -> None:
        if self._stopping:
            self._log.warning("second TERM: stopping at once")
            self._stop_at_once()
            return
        self._stopping = self._crew.stopping = True
        deadline_ms = self._crew.drain_timeout_ms
        self._log.info("stopping", drain_timeout_s=deadline_ms / 1000)
        self._notifier.send("STOPPING=1", "STATUS=Draining")
        self._crew.cancel_restarts()
        self._crew.target = 0
        self._tell_master({"type": "stopping", "deadline_ms": deadline_ms})
        self._rebinding.close_all(lambda: self._crew.drain_all(deadline_ms))
        self._end_if_alone()

    def _stop_at_once(self) -> None:
        self._stopping = self._crew.stopping = True
        self._notifier.send("STOPPING=1")
        self._log.info("stopping at once")
        self._crew.kill_all()
        self._kill_master()
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
            if pid == self._master_pid:
                self._master_died(status)
            else:
                self._crew.reaped(pid, status)
        self._end_if_alone()

    def _end_if_alone(self) -> None:
        """When the workers are gone, the master goes; when the master is gone, the keeper ends."""
        if not self._stopping or self._crew.workers:
            return
        if self._master_pid:
            os.kill(self._master_pid, _signal.SIGTERM)
            self._poller.call_later(MASTER_PATIENCE_S, self._kill_master)
            return
        self._exit_status = self._failed

    def _start_master(self) -> None:
        if self._stopping:
            return
        ours, theirs = links.pair()
        try:
            self._master_pid = spawn.spawn("bascule.process.master", [str(theirs)], [theirs])
        except OSError as error:
            os.close(ours)
            delay_s = self._master_backoff.died(0.0)
            self._log.error("the master cannot be started", error=error.strerror, retry_in_s=delay_s)
            self._poller.call_later(max(delay_s, 0.1), self._start_master)
            return
        finally:
            os.close(theirs)
        self._master_started_s = time.monotonic()
        self._master_link = master = Link(ours)
        self._rebinding.forget_unused()
        self._poller.watch(master, self._from_master, self._master_silent)
        self._greet_master()
        self._record()

    def _greet_master(self) -> None:
        crew = self._crew
        self._tell_master(
            {
                "type": "hello",
                "options": self._options,
                "state": self._state.path,
                "keeper_pid": os.getpid(),
                "regions": len(crew.regions),
                "revision": crew.revision,
                "snapshot": bool(crew.snapshot),
                "ready": self._ready,
                "workers": crew.target,
                "listeners": [list(key) for key in sorted(crew.listening) if not crew.listeners[key].closing],
            },
            [*crew.regions, *crew.snapshot],
        )
        for worker in crew.workers.values():
            crew.introduce(worker)

    def _master_died(self, status: int) -> None:
        self._master_pid = 0
        if self._master_link is not None:
            self._poller.drain(self._master_link)  # its last words may be why there is nothing to start again
        self._master_silent()
        if self._stopping:
            return
        delay_s = self._master_backoff.died(time.monotonic() - self._master_started_s)
        self._log.error(
            "master died; the workers serve on with the snapshot they have",
            reason=spawn.describe_exit(status),
            deaths=self._master_backoff.deaths,
            restart_in_s=delay_s,
        )
        self._poller.call_later(delay_s, self._start_master)

    def _master_silent(self) -> None:
        if self._master_link is not None:
            self._poller.unwatch(self._master_link)
            self._master_link.close()
            self._master_link = None

    def _kill_master(self) -> None:
        if self._master_pid:
            os.kill(self._master_pid, _signal.SIGKILL)

    # ---- what the master says

    def _tell_master(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self._master_link is None:
            return
        try:
            self._master_link.send(message, descriptors)
        except LinkClosedError:
            return  # it is dying; the next one is told everything anew

    def _from_master(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["type"]
        if kind == "regions":
            self._crew.take_regions(descriptors)
        elif kind == "snapshot":
            self._crew.take_snapshot(message["revision"], descriptors)
        elif kind == "settings":
            self._apply_settings(message)
        elif kind == "bind":
            problems = self._rebinding.bind(message["listeners"], self._options["slots"] or message["slots"])
            self._tell_master({"type": "bind_failed", "problems": problems} if problems else {"type": "bound"})
        elif kind == "listen":
            self._rebinding.listen(message["listeners"])
            self._in_force = True
            self._changed()
        elif kind == "unbind":
            self._rebinding.unbind(message["listeners"])
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
        self._crew.apply_settings(
            drain_timeout_ms, options["access_log"] or message["access_log"], message["worker_memory_bytes"]
        )
        workers = self._options["workers"] or message["workers"] or len(os.sched_getaffinity(0))
        if workers != self._crew.target and not self._stopping:
            self._crew.resize(workers)
            self._tell_master({"type": "target", "workers": workers})
        self._rebinding.resize(options["slots"] or message["slots"])

    def _listener_closed(self, listener: Listener, lost: int) -> None:
        self._tell_master({"type": "listener_closed", "id": listener.id, "address": listener.address, "lost": lost})

    def _fatal(self, reason: str, status: int) -> None:
        """The first configuration cannot come into force, as the master has said at length: end, rather than wait for
        a better one."""
        self._log.error("cannot start", reason=reason)
        self._failed = status
        self._stop_at_once()

    def _changed(self) -> None:
        self._record()
        if self._ready or not self._in_force or not self._crew.lent_everything():
            return
        self._ready = True
        self._rebinding.exclusive = True
        workers, listeners = len(self._crew.workers), len(self._crew.listening)
        self._log.info("ready", workers=workers, listeners=listeners)
        status = f"Serving {listeners} listeners with {workers} workers"
        self._notifier.send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
        self._tell_master({"type": "ready"})
        self._orphans.release()

    def _record(self) -> None:
        """Note who runs, for the keeper that follows should this one be killed."""
        pids = [worker.pid for worker in self._crew.workers.values()]
        pids += [self._master_pid] if self._master_pid else []
        if pids == self._recorded:
            return
        self._recorded = pids
        record = {str(pid): spawn.start_time(pid) for pid in pids}
        self._state.write(PROCESSES_FILE, {"keeper": os.getpid(), "processes": {**self._orphans.record(), **record}})

    def _heartbeat(self) -> None:
        self._poller.call_later(HEARTBEAT_S, self._heartbeat)
        self._crew.check_heartbeats()

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
