"""The keeper's own socket, for what must be asked of the keeper itself: upgrades. A link, as between processes.

It is a file in the state directory, which only the keeper's user and root can enter; the kernel says who calls.
"""

from __future__ import annotations

import _socket
import errno
import os
import time

from bascule.process import unix_socket
from bascule.process.link import Link, LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bascule.process.poller import Poller

CONTROL_SOCKET = "keeper.sock"
CLIENTS_MAX = 32


class ControlSocket:
    """Listens in the state directory; each message of a client is handed on with a way to answer it."""

    def __init__(
        self,
        directory: str,
        poller: Poller,
        handle: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None],
        *,
        descriptor: int = -1,
    ) -> None:
        """`handle(message, answer)`; `answer` may be called any number of times, also when the client has gone.
        `descriptor` is the listening socket if there is one from before an execve. Raises OSError."""
        self._path = os.path.join(directory, CONTROL_SOCKET)
        self._poller = poller
        self._handle = handle
        self._clients: set[Link] = set()
        if descriptor < 0:  # the lock on the state directory says that nobody else is there
            kind = _socket.SOCK_SEQPACKET
            descriptor = unix_socket.listen(self._path, mode=0o600, backlog=CLIENTS_MAX, kind=kind)
        self._socket: Any = _socket.socket(fileno=descriptor)
        os.set_inheritable(self._socket.fileno(), False)
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        """Given up for the moment in which a client is told that there are no descriptors left."""
        poller.watch_descriptor(self._socket.fileno(), self._accept)

    def fileno(self) -> int:
        """Return the descriptor of the listening socket."""
        return int(self._socket.fileno())

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected. Who waits to be can do so over an execve."""
        return not self._clients

    def close(self) -> None:
        """Listen no more; clients hear the end."""
        self._poller.unwatch_descriptor(self._socket.fileno())
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)
        for client in list(self._clients):
            self._gone(client)
        try:
            os.unlink(self._path)
        except OSError:
            return

    def _accept(self) -> None:
        try:
            descriptor, _ = self._socket._accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._turn_away()
            return
        os.set_inheritable(descriptor, False)
        client = Link(descriptor)
        if len(self._clients) >= CLIENTS_MAX or unix_socket.peer_of(descriptor)[1] not in {0, os.geteuid()}:
            client.close()
            return
        self._clients.add(client)
        self._poller.watch(
            client, lambda message, fds: self._received(client, message, fds), lambda: self._gone(client)
        )

    def _turn_away(self) -> None:
        """Take a client that would else wait, and wake us, for as long as no descriptor is free, and say why it is not
        served."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            descriptor, _ = self._socket._accept()
        except OSError:
            return
        client = Link(descriptor)
        self._clients.add(client)
        reason = "the keeper has as many files open as it may"
        remedy = "raise its limit of open files (LimitNOFILE= of the unit, `prlimit --nofile`)"
        self._answer(client, {"type": "failed", "reason": reason, "remedy": remedy})
        self._gone(client)
        try:
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # somebody was faster; the next client may find one

    def _received(self, client: Link, message: dict[str, Any], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        self._handle(message, lambda answer: self._answer(client, answer))

    def _answer(self, client: Link, message: dict[str, Any]) -> None:
        if client not in self._clients:
            return
        try:
            client.send(message)
        except (LinkClosedError, ValueError):
            self._gone(client)

    def _gone(self, client: Link) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._poller.unwatch(client)
            client.close()


def connect(directory: str, patience_s: float = 3.0) -> Link:
    """Return a link to the keeper of a state directory; OSError when none listens there, not even after a moment: one that
    becomes another version by execve does not listen in between."""
    until_s = time.monotonic() + patience_s
    while True:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(os.path.join(directory, CONTROL_SOCKET))
            return Link(sock.detach())
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > until_s:
                raise
            time.sleep(0.02)
        finally:
            sock.close()
