"""A worker whose keeper was killed: it serves on, and waits in the state directory for the keeper that follows.

That one connects, is given duplicates of every slot, of the regions and of the snapshot, and is this worker's keeper from
then on. So no queue is lost, and nobody has to bind an address again while others still listen on it.
"""

from __future__ import annotations

import _socket
import os

from bascule.process import link as links
from bascule.process.link import Link
from bascule.process.unix_socket import peer_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bascule.process.log import Log


def meeting_place(directory: str, pid: int) -> str:
    """Return the path of the socket on which an orphan of this pid waits."""
    return os.path.join(directory, f"orphan-{pid}.sock")


class MeetingPlace:
    """The socket on which an orphan waits. The state directory lets in the keeper's user alone."""

    def __init__(self, directory: str, log: Log) -> None:
        """Listen; OSError when that is not possible."""
        self._path = meeting_place(directory, os.getpid())
        self._log = log
        self._socket = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        try:
            self._socket.bind(self._path)
            os.chmod(self._path, 0o600)
            self._socket.listen(1)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to watch; it is readable when a keeper has come."""
        return self._socket.fileno()

    def accept(self) -> Link | None:
        """Return the link to the keeper that has come, and listen no more; None when there is none after all."""
        try:
            descriptor, _ = self._socket._accept()  # type: ignore[attr-defined] # of the raw socket, without an object
        except OSError:
            return None
        if peer_of(descriptor)[1] not in {0, os.geteuid()}:  # a state directory that was opened to others
            os.close(descriptor)
            return None
        self.close()
        return Link(descriptor)

    def close(self) -> None:
        """Wait no longer. Harmless when repeated."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        try:
            os.unlink(self._path)
        except OSError as error:
            self._log.warning("a socket file is left behind", file=self._path, error=error.strerror)


def introduce(
    link: Link,
    greeting: dict[str, Any],
    shared: Sequence[int],
    slots: Mapping[tuple[str, int], int],
    addresses: Mapping[str, str],
) -> None:
    """Give a new keeper all that the one before had lent. LinkClosedError when it is gone again.

    `greeting` says who this is; `shared` are the regions and the snapshot, `slots` descriptors by listener id and number,
    `addresses` those of the listeners.
    """
    link.send({"type": "orphan", **greeting}, shared)
    for listener_id, address in addresses.items():
        mine = sorted((number, descriptor) for (owner, number), descriptor in slots.items() if owner == listener_id)
        for batch in links.batches(mine):
            message = {"type": "slots", "listener": listener_id, "address": address, "slots": [n for n, _ in batch]}
            link.send(message, [descriptor for _, descriptor in batch])
    link.send({"type": "that_is_all"})
