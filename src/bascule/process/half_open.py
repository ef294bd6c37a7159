"""Handshakes under way at a listening address, asked from the kernel (sock_diag(7)).

A half-open connection belongs to the socket that was given its SYN, and is reset when that one is closed. No count of
them can be asked of a socket; but those of an address can be listed.
"""

from __future__ import annotations

import _socket
import struct

from bascule.process import addresses

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_SYN_RECV = 3
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 1.0

HalfOpen = frozenset[bytes]
"""Remote address and port of each, as the kernel writes them."""


def half_open(address: str) -> HalfOpen | None:
    """Return the half-open connections to a TCP address of the configuration, None where the kernel does not say.

    Raises nothing: a sandbox without AF_NETLINK (RestrictAddressFamilies= of a unit) is a place where it does not say.
    """
    family, where = addresses.parse(address)
    if isinstance(where, str):
        return frozenset()
    host, port = where
    local = _socket.inet_pton(family, host)
    try:
        sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    except OSError:
        return None
    try:
        sock.settimeout(_TIMEOUT_S)
        sock.send(_request(family, port))
        return _answers(sock, port, local)
    except (OSError, ValueError):
        return None
    finally:
        sock.close()


def _request(family: int, port: int) -> bytes:
    """struct nlmsghdr, then struct inet_diag_req_v2: all TCP sockets with this local port in SYN_RECV."""
    identity = struct.pack(">HH", port, 0) + bytes(36) + b"\xff" * 8  # INET_DIAG_NOCOOKIE
    body = struct.pack("=BBBxI", family, _socket.IPPROTO_TCP, 0, 1 << _TCP_SYN_RECV) + identity
    return struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body


def _answers(sock: _socket.socket, port: int, local: bytes) -> HalfOpen | None:
    found: set[bytes] = set()
    anywhere = not any(local)
    while True:
        packet = sock.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + 16 <= len(packet):
            length, kind = struct.unpack_from("=IH", packet, offset)
            if kind == _NLMSG_DONE:
                return frozenset(found)
            if kind == _NLMSG_ERROR or length < 16:
                return None
            # struct inet_diag_msg: family, state, timer, retrans, then sport, dport, src[16], dst[16]
            message = packet[offset + 16 : offset + length]
            source_port = int.from_bytes(message[4:6], "big")
            if source_port == port and (anywhere or message[8 : 8 + len(local)] == local):
                found.add(message[6:8] + message[24:40])
            offset += (length + 3) & ~3
