"""Deadlines instead of sleeps: every wait of the kit ends by an observed fact or by a failure that names it."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 10.0


def until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S, pause_s: float = 0.01) -> T:
    """Poll `condition` until it is true and return its value; AssertionError naming `what` at the deadline."""
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


_last_port = [0]


def _next_port(low: int) -> int:
    span = max(low - 12000, 1000)
    if not _last_port[0]:
        _last_port[0] = time.monotonic_ns() // 1000 % span
    _last_port[0] = (_last_port[0] + 1) % span
    return low - span + _last_port[0]


def _ephemeral_low() -> int:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        return int(file.read().split()[0])
