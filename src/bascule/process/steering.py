"""Which listening socket gets a new connection: some of a SO_REUSEPORT group, or none at all.

The sockets of one address form a group, an array in the kernel (net/core/sock_reuseport.c). A socket that begins to
listen is put at its end; when one is closed, the last takes its place. A group that only ever shrinks at its end is
therefore in the order in which its sockets began to listen. A program of the group (classic BPF), run for each SYN,
returns the place of the socket that is to have it.

A socket that is bound to an interface which does not exist is found by no SYN: who connects is refused, as if it were
closed. Handshakes that have begun belong to it by their addresses and go on.

Nothing here needs a privilege, unlike a socket filter, which newer kernels refuse to unprivileged users (6.18: EPERM).
"""

from __future__ import annotations

import _socket
import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Instruction = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
_SO_BINDTOIFINDEX = 62
_NO_INTERFACE = 0x7FFFFFFF
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h

# struct sock_filter {code, jt, jf, k}, over the TCP header: drop a segment whose flags say SYN and not ACK. New
# connections are then neither refused nor queued (the client repeats its SYN after a second), while the handshakes that
# have begun end normally.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN
    (0x06, 0, 0, 0),  # ret #0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep
)


def refuse(descriptor: int) -> None:
    """Have a listening TCP socket get no new connection; handshakes under way end normally. There is no way back: only
    a privileged process may bind a socket to another interface. One with siblings that do not refuse still gets its
    share from their group."""
    sock = _socket.socket(fileno=descriptor)  # no duplicate: see _attach
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    finally:
        sock.detach()


def refuses(descriptor: int) -> bool:
    """Whether `refuse` was called for a socket."""
    sock = _socket.socket(fileno=descriptor)  # no duplicate: see _attach
    try:
        return sock.getsockopt(_socket.SOL_SOCKET, _SO_BINDTOIFINDEX) == _NO_INTERFACE
    except OSError:
        return False
    finally:
        sock.detach()


def steer(descriptor: int, places: int) -> bool:
    """Have new connections of a socket's group go to the first `places` of its sockets, evenly; False if that failed.

    By a random number: the hash of a packet is 0 where the network card computes none, and would put all of them into
    one queue. The retransmitted SYN of a handshake under way belongs to it already and is not asked about.
    """
    program = (
        (0x20, 0, 0, _RANDOM),  # ld rand
        (0x94, 0, 0, places),  # mod #places
        (0x16, 0, 0, 0),  # ret a
    )
    return _attach(descriptor, _SO_ATTACH_REUSEPORT_CBPF, program)


def stop_steering(descriptor: int) -> None:
    """Let the kernel spread the connections of a socket's group over all of it again. Harmless when it does."""
    _detach(descriptor, _SO_DETACH_REUSEPORT_BPF)


def drop_handshakes(descriptor: int) -> None:
    """Drop the SYNs that a listening TCP socket gets, whoever its siblings are; handshakes under way end normally.

    For a process that does not know its place in the group. Best effort: it needs a privilege on newer kernels.
    """
    _attach(descriptor, _SO_ATTACH_FILTER, _DROP_SYN)


def take_handshakes(descriptor: int) -> None:
    """Undo `drop_handshakes`. Harmless when there is nothing to undo."""
    _detach(descriptor, _SO_DETACH_FILTER)


def _attach(descriptor: int, option: int, instructions: Sequence[Instruction]) -> bool:
    import array  # and with it `collections`: 3 ms of CPU that a start does not need

    program = b"".join(
        code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")
        for code, if_true, if_false, value in instructions
    )
    code = array.array("B", program)
    address = code.buffer_info()[0]
    # struct sock_fprog {unsigned short len; struct sock_filter *filter}, the pointer 8-byte aligned
    argument = len(instructions).to_bytes(8, "little") + address.to_bytes(8, "little")
    sock = _socket.socket(fileno=descriptor)  # no duplicate: a listener is closed when no descriptor is left, too
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, argument)
    except OSError:
        return False
    finally:
        sock.detach()
    return True


def _detach(descriptor: int, option: int) -> None:
    sock = _socket.socket(fileno=descriptor)  # no duplicate: see _attach
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, 0)
    except OSError as error:
        # ENOENT: nothing is attached. EINVAL: a socket alone is no group. ENOPROTOOPT: the kernel is older than 5.3.
        if error.errno not in {errno.ENOENT, errno.EINVAL, errno.ENOPROTOOPT}:
            raise
    finally:
        sock.detach()
