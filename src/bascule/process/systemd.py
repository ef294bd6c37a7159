"""What systemd and its like agree on with a service: sd_notify(3) and socket activation (sd_listen_fds(3))."""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bascule.process.poller import Poller

LISTEN_FDS_START = 3
PATIENCE_S = 1.0
LOOK_S = 0.01


class Notifier:
    """Tells the service manager how the keeper is; silent when nobody asked (no NOTIFY_SOCKET)."""

    def __init__(self) -> None:
        """Take the socket's address out of the environment, so that no child reports in the keeper's name."""
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        meant_for = os.environ.pop("WATCHDOG_PID", "")
        own = not meant_for or meant_for == str(os.getpid())
        self.watchdog_s = int(watchdog) / 2e6 if watchdog.isdigit() and own else 0.0
        """How often `watchdog` is to be called, in seconds: half of what the manager allows. 0: never."""

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
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            text = "\n".join(assignments).encode()
            sock.sendmsg([text], rights if descriptors else [], _socket.MSG_NOSIGNAL | flags, address)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno not in {errno.ENOBUFS, errno.ETOOMANYREFS}
        finally:
            sock.close()
        return True

    def watchdog(self) -> None:
        """Say that the keeper is alive."""
        self.send("WATCHDOG=1")


class Question:
    """What the service manager has in mind with the unit of this process: the type of its job, "restart" or "stop".

    sd_notify(3) knows no answer, so `systemctl` is asked, which speaks D-Bus for us. Empty when it cannot say: there is no
    systemctl, no bus, no unit, or it takes its time.
    """

    def __init__(self, poller: Poller, answered: Callable[[str], None]) -> None:
        """Ask; `answered` is called once, after PATIENCE_S at the latest."""
        self._poller = poller
        self._answered = answered
        self._unit = _own_unit()
        self._read = -1
        self._text = b""
        self._until_s = time.monotonic() + PATIENCE_S
        if self._unit:
            self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._ask(write)
            except OSError:
                self._until_s = 0.0
            finally:
                os.close(write)
        poller.call_later(0.0, self._look)

    def _ask(self, write: int) -> None:
        os.posix_spawnp(
            "systemctl",
            ["systemctl", "--no-pager", "--no-legend", "--plain", "list-jobs", self._unit],
            {**os.environ, "LC_ALL": "C"},
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
            setsigmask=(),
        )

    def _look(self) -> None:
        if self._read >= 0 and time.monotonic() < self._until_s:
            try:
                data = os.read(self._read, 4096)
            except BlockingIOError:
                data = b""
                more = True
            else:
                more = bool(data)
            self._text += data
            if more:
                self._poller.call_later(LOOK_S, self._look)
                return
        if self._read >= 0:
            os.close(self._read)
        self._answered(self._job())

    def _job(self) -> str:
        """Of a line "JOB UNIT TYPE STATE"."""
        for line in self._text.decode("utf-8", "replace").splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[1] == self._unit:
                return fields[2]
        return ""


def _own_unit() -> str:
    """Return the unit that this process runs in, by its cgroup; empty when it is no service."""
    try:
        with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
            paths = [line.rstrip("\n").rpartition(":")[2] for line in file]
    except OSError:
        return ""
    units = [part for path in paths for part in path.split("/") if part.endswith(".service")]
    return units[-1] if units else ""


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
