"""A service manager for tests: what systemd does with sd_notify(3) messages, and with the descriptors it is asked to hold."""

import array
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

START = """
import os, sys
names = sys.argv[1]
given = [int(word) for word in sys.argv[2].split(",") if word]
high = [os.dup(fd) for fd in given]
high = [fd if fd > 2 + len(given) else os.dup2(fd, 300 + fd) for fd in high]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place)
    os.set_inheritable(3 + place, True)
for fd in {*high, *given} - set(range(3, 3 + len(given))):
    os.close(fd)
if given:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES=names)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """Holds descriptors by name for a service. A thread of its own reads what the service says, as pid 1 would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, int] = {}
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Manager":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join(5)
        self._socket.close()
        for descriptor in self.held.values():
            os.close(descriptor)

    def names(self) -> set[str]:
        """Return the names of what is held."""
        with self._lock:
            return set(self.held)

    def start(self) -> dict[str, Any]:
        """Return how to start a balancer with what is held, as arguments for `start`."""
        with self._lock:
            names, descriptors = list(self.held), list(self.held.values())
        wrapper = [sys.executable, "-c", START, ":".join(names), ",".join(map(str, descriptors))]
        return {"wrapper": wrapper, "descriptors": descriptors, "environment": self.environment()}

    def environment(self) -> Mapping[str, str]:
        """Return what a service finds in its environment."""
        return {"NOTIFY_SOCKET": str(self.path), "FDSTORE": "100"}

    def _run(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(4 * 8))
            if not data:
                return
            descriptors = array.array("i")
            for _, _, payload in ancillary:
                descriptors.frombytes(payload)
            fields = dict(line.partition("=")[::2] for line in data.decode().split("\n"))
            with self._lock:
                self._heard(fields, descriptors.tolist())

    def _heard(self, fields: dict[str, str], descriptors: list[int]) -> None:
        self.messages += [f"{name}={value}" for name, value in fields.items()]
        if "FDSTORE" in fields:
            assert fields["FDNAME"] not in self.held
            self.held[fields["FDNAME"]] = descriptors.pop()
        elif "FDSTOREREMOVE" in fields:
            os.close(self.held.pop(fields["FDNAME"]))
        for descriptor in descriptors:
            os.close(descriptor)


def kill_everything(pids: set[int]) -> None:
    """Do what systemd does with the rest of a service whose main process has died (KillMode=mixed)."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
