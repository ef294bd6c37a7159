"""The state directory: pid file and lock, admin socket, record of the running processes."""

from __future__ import annotations

import fcntl
import os
import stat
import time

from bascule.process import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PID_FILE = "keeper.pid"
ADMIN_SOCKET = "admin.sock"
PROCESSES_FILE = "processes.json"
LOCK_ATTEMPTS = 5
LOCK_PAUSE_S = 0.01


class StateDirectoryError(Exception):
    """The directory cannot be used; the text says why and what to do."""


class StateDirectory:
    """The directory of one keeper, locked as long as this object lives.

    The lock is an flock on the pid file, so that it goes with the keeper however it ends: a stale file never needs
    removing, and the pid in a locked file is always that of the living keeper.
    """

    def __init__(self, path: str, locked: int = -1) -> None:
        """Create the directory (mode 0700) if need be, lock it and write the pid file; StateDirectoryError
        otherwise. `locked` is the descriptor of a pid file that this process has locked already (`lock`)."""
        self.path = os.path.abspath(path)
        if locked >= 0:
            os.set_inheritable(locked, False)
            self._pid_file = locked
            return
        try:
            self._pid_file = self._lock()
        except OSError as error:
            raise StateDirectoryError(
                f"cannot use the state directory {self.path}: {error.strerror}; choose another with --state DIR"
            ) from None
        os.ftruncate(self._pid_file, 0)
        os.pwrite(self._pid_file, f"{os.getpid()}\n".encode(), 0)

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock."""
        return self._pid_file

    def file(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return os.path.join(self.path, name)

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Replace a JSON file in one step: readers see the old one or the new one."""
        temporary = self.file(name + ".new")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(wire.dumps(value) + "\n")
        os.rename(temporary, self.file(name))

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file written by `write`, empty when there is none or it is damaged."""
        try:
            with open(self.file(name), encoding="utf-8") as file:
                value = wire.loads(file.read().strip())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def release(self, *, and_remove: bool = False) -> None:
        """Remove what only a running keeper has, with `and_remove` the directory too if it is then empty; unlock."""
        steps = [(os.unlink, self.file(name)) for name in (PROCESSES_FILE, ADMIN_SOCKET, PID_FILE)]
        for step, path in [*steps, (os.rmdir, self.path)] if and_remove else steps:
            try:
                step(path)
            except OSError:
                continue
        os.close(self._pid_file)

    def _lock(self) -> int:
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            if (
                os.stat(self.path).st_mode & stat.S_IWOTH
            ):  # who we signal, and whose sockets we take over, is said there
                raise StateDirectoryError(
                    f"everybody may write into the state directory {self.path}, and so decide what the keeper does; "
                    f"`chmod 700 {self.path}`, or choose another with --state DIR"
                )
            try:
                descriptor = os.open(self.file(PID_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue  # its last holder removed the directory between our two calls
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt < LOCK_ATTEMPTS:  # `bascule status` tries the lock for a moment to see whether we live
                    os.close(descriptor)
                    time.sleep(LOCK_PAUSE_S)
                    continue
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise StateDirectoryError(
                    f"a keeper (pid {holder}) already runs on the state directory {self.path}; "
                    f"stop it with `kill -TERM {holder}`, or give this one another directory with --state DIR"
                ) from None
            if _is_at(descriptor, self.file(PID_FILE)):
                return descriptor
            os.close(descriptor)  # its last holder removed the file between our open and our lock
        raise StateDirectoryError(
            f"the pid file in {self.path} keeps changing; is something starting keepers in a loop?"
        )


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def default_path(name: str) -> str:
    """Return the state directory of a keeper that was given none; `name` tells several apart.

    systemd's RuntimeDirectory= comes first, then /run for root and the user's own runtime directory for others.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if os.geteuid() == 0:
        return f"/run/{name}"
    base = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.local/state")
    return os.path.join(base, name)


def data_path(options: dict[str, Any]) -> str:
    """Return the directory of what must outlive a reboot: the embedded store, the last good configuration, tokens.

    It is the state directory when one was given; systemd's StateDirectory= comes next, then /var/lib for root and the
    user's own state for others.
    """
    if options["state"]:
        return str(options["state"])
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    return "/var/lib/bascule" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/bascule")
