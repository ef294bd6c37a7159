"""A link: the socket pair by which two processes of one generation talk.

One message is one SEQPACKET packet: a JSON object, and at most 253 descriptors beside it (SCM_MAX_FD; the kernel
answers EINVAL to more). Links never block: what the kernel does not take now waits in the outbox, with its own
duplicates of the descriptors, until the loop of the process says that the socket is writable. A peer that stopped
reading therefore delays nobody but itself.

The raw `_socket` is used because `socket` imports `enum` and `selectors`: 8 ms of CPU in every process; `struct` packs
the descriptors because `array` imports `collections`: 3 ms.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

from bascule.process import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

DESCRIPTORS_MAX = 253
PACKET_BYTES_MAX = 128 * 1024
OUTBOX_MESSAGES_MAX = 4096
"""More messages than this unread, and the peer is taken for dead: nothing in a life of a link queues a hundredth of
it."""

_SEND_BUFFER_BYTES = 1 << 20
_CONTROL_BYTES = _socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)


class LinkClosedError(Exception):
    """The peer has closed its end, or died."""


class Link:
    """One end of a link. Owns its socket; `receive` gives descriptors to the caller, `send` takes none away."""

    __slots__ = ("_outbox", "_socket")

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of one end."""
        self._socket = _socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._outbox: list[tuple[bytes, list[int]]] = []

    def fileno(self) -> int:
        """Return the descriptor, -1 after `close`."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether messages wait for the socket to become writable."""
        return bool(self._outbox)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, or queue it when the peer is slow.

        Raises LinkClosedError when the peer is gone, ValueError for a message that cannot be one packet.
        """
        packet = wire.encode(message)
        if len(packet) > PACKET_BYTES_MAX or len(descriptors) > DESCRIPTORS_MAX:
            raise ValueError(f"message {message['type']!r}: {len(packet)} bytes, {len(descriptors)} descriptors")
        if not self._outbox and self._send_now(packet, descriptors):
            return
        if len(self._outbox) >= OUTBOX_MESSAGES_MAX:
            raise LinkClosedError("the peer has stopped reading")
        self._outbox.append((packet, [os.dup(descriptor) for descriptor in descriptors]))

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it; LinkClosedError when the peer is gone."""
        while self._outbox:
            packet, descriptors = self._outbox[0]
            if not self._send_now(packet, descriptors):
                return
            del self._outbox[0]
            close_all(descriptors)

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors (close-on-exec, the caller's), None when there is none now.

        Raises LinkClosedError when the peer is gone, ValueError for a packet that is no message.
        """
        try:
            packet, ancillary, flags, _ = self._receive_packet()
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkClosedError(os.strerror(error.errno or 0)) from None
        descriptors = _descriptors_of(ancillary)
        if not packet:
            raise LinkClosedError("end of file")
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            close_all(descriptors)
            raise ValueError("a packet arrived truncated: is the limit of open files too low?")
        try:
            return wire.decode(packet), descriptors
        except ValueError:
            close_all(descriptors)
            raise

    def _receive_packet(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """A peer that dies before it has read everything resets the link: the kernel says so once, and only then hands
        out what the peer said last."""
        try:
            return self._socket.recvmsg(PACKET_BYTES_MAX, _CONTROL_BYTES, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return self._socket.recvmsg(PACKET_BYTES_MAX, _CONTROL_BYTES, _socket.MSG_CMSG_CLOEXEC)

    def close(self) -> None:
        """Close this end and drop what was not sent. Harmless when repeated."""
        for _, descriptors in self._outbox:
            close_all(descriptors)
        self._outbox.clear()
        self._socket.close()

    def _send_now(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        ancillary = []
        if descriptors:
            ancillary.append(
                (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))
            )
        try:
            self._socket.sendmsg([packet], ancillary, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in {errno.ENOBUFS, errno.ETOOMANYREFS}:  # too many descriptors in flight: later
                return False
            raise LinkClosedError(os.strerror(error.errno or 0)) from None
        return True


def pair() -> tuple[int, int]:
    """Return the descriptors of the two ends of a new link, close-on-exec."""
    ends = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    for end in ends:
        # A message larger than the buffer is refused for good; the kernel doubles this and bounds it by wmem_max.
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return ends[0].detach(), ends[1].detach()


def batches(items: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    """Split (slot, descriptor) pairs into lists that each fit into one message."""
    return [items[start : start + DESCRIPTORS_MAX] for start in range(0, len(items), DESCRIPTORS_MAX)]


def _descriptors_of(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found += struct.unpack_from(f"{len(data) // 4}i", data)
    return found


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with a message and are of no use."""
    for descriptor in descriptors:
        os.close(descriptor)
