"""What systemd and its like agree on with a service: sd_notify(3) and socket activation (sd_listen_fds(3))."""

from __future__ import annotations

import _socket
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LISTEN_FDS_START = 3
JOB_FILE = "job"


class Notifier:
    """Tells the service manager how the keeper is; silent when nobody asked (no NOTIFY_SOCKET)."""

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        """Take the socket's address out of the environment, so that no child reports in the keeper's name.

        `before` is what `describe` returned before an execve.
        """
        self._socket: _socket.socket | None = None
        """One for life: the watchdog has to be fed when there are no descriptors left, too."""
        if before is not None:
            self._address, self.watchdog_s = before["address"], before["watchdog_s"]
            return
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        meant_for = os.environ.pop("WATCHDOG_PID", "")
        own = not meant_for or meant_for == str(os.getpid())
        self.watchdog_s = int(watchdog) / 2e6 if watchdog.isdigit() and own else 0.0
        """How often `watchdog` is to be called, in seconds: half of what the manager allows. 0: never."""

    def describe(self) -> dict[str, Any]:
        """Return what the program that takes this process's place needs to go on."""
        return {"address": self._address, "watchdog_s": self.watchdog_s}

    @property
    def listens(self) -> bool:
        """Whether there is a service manager to talk to."""
        return bool(self._address)

    def send(self, *assignments: str) -> None:
        """Send assignments such as "READY=1", "STATUS=...". A manager that does not listen is not our failure."""
        self._send(assignments, (), 0)

    def send_now(self, assignments: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Send assignments and descriptors; False when the manager has too much to read just now."""
        return self._send(assignments, descriptors, _socket.MSG_DONTWAIT)

    def _send(self, assignments: Sequence[str], descriptors: Sequence[int], flags: int) -> bool:
        if not self._address:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        try:
            if self._socket is None:
                self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
            text = "\n".join(assignments).encode()
            self._socket.sendmsg([text], rights if descriptors else [], _socket.MSG_NOSIGNAL | flags, address)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno not in {errno.ENOBUFS, errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE}
        return True

    def watchdog(self) -> None:
        """Say that the keeper is alive."""
        self.send("WATCHDOG=1")


def job_under_way(directory: str) -> str:
    """Return what the service manager does with this service: "restart" or "stop"; empty when nobody has told.

    sd_notify(3) cannot be asked, and a service of another user than root may not ask D-Bus. The unit does, in ExecStop=,
    which runs before TERM is sent, and leaves the answer in a file: a line "JOB UNIT TYPE STATE" of `systemctl list-jobs`.
    """
    try:
        with open(os.path.join(directory, JOB_FILE), encoding="ascii", errors="replace") as file:
            fields = file.readline(1000).split()
    except OSError:
        return ""
    return fields[2] if len(fields) >= 3 else ""


def inherited_sockets() -> dict[int, str]:
    """Return descriptors passed by socket activation and their names, and clear the variables for the children."""
    meant_for = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if meant_for != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for place in range(int(count)):
        descriptor = LISTEN_FDS_START + place
        os.set_inheritable(descriptor, False)
        found[descriptor] = names[place] if place < len(names) else ""
    return found
