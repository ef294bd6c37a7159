"""The self-test of a generation that serves nobody yet: each worker is lent a private loopback listener.

The keeper only opens and closes; what is asked through it, and whether the answers are right, is its master's business.
"""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.process.crew import Crew

LISTENER_ID = "*self-test*"
"""No configuration can name a listener so. The engine answers on it which frontend a request would go to."""

_BACKLOG = 64


class SelfTest:
    """The listeners of one test, by worker number."""

    def __init__(self, crew: Crew) -> None:
        """Open one for each serving worker and lend it; OSError when there is no loopback to listen on."""
        self._crew = crew
        self._has_begun = False
        self._descriptors: dict[int, int] = {}
        try:
            for worker in crew.serving():
                descriptor = self._descriptors[worker.number] = _listen()
                worker.tell({"type": "lend", "listener": LISTENER_ID, "slots": [worker.number]}, [descriptor])
        except OSError:
            self.close()
            raise

    def begins(self) -> bool:
        """Whether every worker accepts on its listener; True only once."""
        workers = self._crew.workers
        if self._has_begun or not all(
            number in workers and (LISTENER_ID, number) in workers[number].holding for number in self._descriptors
        ):
            return False
        self._has_begun = True
        return True

    def ports(self) -> dict[str, int]:
        """Return the port of each worker's listener, by worker number."""
        return {str(number): _port(descriptor) for number, descriptor in self._descriptors.items()}

    def close(self) -> None:
        """Take the listeners back and close them. Harmless when repeated."""
        for number, descriptor in self._descriptors.items():
            worker = self._crew.workers.get(number)
            if worker is not None:
                worker.tell({"type": "take_back", "listener": LISTENER_ID, "slots": [number]})
            os.close(descriptor)
        self._descriptors = {}


def _listen() -> int:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.bind(("127.0.0.1", 0))
        sock.listen(_BACKLOG)
        return sock.detach()
    finally:
        sock.close()


def _port(descriptor: int) -> int:
    sock = _socket.socket(fileno=descriptor)
    try:
        port: int = sock.getsockname()[1]
        return port
    finally:
        sock.detach()
