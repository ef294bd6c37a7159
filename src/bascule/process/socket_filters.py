"""Classic BPF on listening sockets: let no new connection in, or steer new connections to some sockets of a group.

The sockets of one address form a SO_REUSEPORT group, an array in the kernel (net/core/sock_reuseport.c). A socket that
begins to listen is put at its end; when one is closed, the last takes its place. A group that only ever shrinks at its
end is therefore in the order in which its sockets began to listen. A program of the group, run for each SYN, returns the
place of the socket that is to have it.

Neither needs a privilege, and both end with the group: nothing is left behind in the kernel.
"""

from __future__ import annotations

import _socket
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Instruction = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
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


def stop_handshakes(descriptor: int) -> None:
    """Drop new SYNs to a listening TCP socket, for every process that holds it; handshakes under way end normally.

    Best effort: without it a close may reset some.
    """
    _attach(descriptor, _SO_ATTACH_FILTER, _DROP_SYN)


def allow_handshakes(descriptor: int) -> None:
    """Undo `stop_handshakes`. Harmless when there is nothing to undo."""
    _detach(descriptor, _SO_DETACH_FILTER)


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
    sock = _socket.socket(fileno=os.dup(descriptor))
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, argument)
    except OSError:
        return False
    finally:
        sock.close()
    return True


def _detach(descriptor: int, option: int) -> None:
    sock = _socket.socket(fileno=os.dup(descriptor))
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, 0)
    except OSError as error:
        # ENOENT: nothing is attached. EINVAL: a socket alone is no group. ENOPROTOOPT: the kernel is older than 5.3.
        if error.errno not in {errno.ENOENT, errno.EINVAL, errno.ENOPROTOOPT}:
            raise
    finally:
        sock.close()
