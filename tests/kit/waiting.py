"""Deadlines instead of sleeps: every wait of the kit ends by an observed fact or by a failure that names it."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 10.0
LEAST_S = 30.0
"""No wait gives up sooner: a machine may stand still for seconds, and only a test that fails waits for so long."""


def until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S, pause_s: float = 0.01) -> T:
    """Poll `condition` until it is true and return its value; AssertionError naming `what` at the deadline."""
    deadline_s = max(deadline_s, LEAST_S)
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(pause_s)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port nobody listens on now.

    It lies outside the range that the kernel hands to outgoing connections, so that no client socket takes it before
    the process it is meant for binds it.
    """
    low = _ephemeral_low()
    for _ in range(500):
        port = _next_port(low)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port below {low} on {host}")


BLOCK = 500
_claims: list[tuple[int, socket.socket]] = []
_left: list[int] = []


def _next_port(low: int) -> int:
    """Return the next port of a block that no other test run uses, so that two at once never wait for the same port."""
    if not _left:
        count = max(low - 12000, 1000) // BLOCK
        block = _claim_block(count)
        _left.extend(range(low - (block + 1) * BLOCK, low - block * BLOCK))
    return _left.pop(0)


def _claim_block(count: int) -> int:
    first = time.monotonic_ns() // 1000 % count
    for block in ((first + number) % count for number in range(count)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0kit-ports-{block}")  # abstract: it ends with this process, however that ends
        except OSError:
            claim.close()
            continue
        _claims.append((block, claim))
        return block
    if not _claims:
        return first
    _claims.append(_claims.pop(0))
    return _claims[-1][0]


def _ephemeral_low() -> int:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        return int(file.read().split()[0])
