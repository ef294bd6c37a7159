"""What is measured, with which tool, and what counts as good: the table of promises, as data.

A load case is one run of `peers.py` or `scale.py` of the folder `measure`. `cpu` and `rate` are ratios to the better of the
peers (HAProxy 2.8 and Debian's nginx): CPU time a request at most, requests a second at least; None where nothing was promised.
"""

from typing import NamedTuple

PEERS = ("haproxy", "nginx-deb")


class Promise(NamedTuple):
    """Ratios to the better peer: `must` is the promise, `aim` the hope."""

    must: float | None = None
    aim: float | None = None


class Load(NamedTuple):
    """One closed-loop load of peers.py or of scale.py's `basic`."""

    title: str
    tool: str  # "peers" or "scale"
    arguments: tuple[str, ...]
    beside: tuple[str, ...]  # who runs beside Bascule
    cpu: Promise = Promise()
    rate: Promise = Promise()


def plain(
    title: str,
    load: str,
    connections: int,
    *,
    cpu: tuple[float, float],
    rate: tuple[float, float] | None = None,
    beside: tuple[str, ...] = ("haproxy", "nginx-deb", "floor"),
) -> Load:
    """A load of peers.py: its --load and its number of keep-alive connections."""
    arguments = ("--load", load, "--conns", str(connections))
    return Load(title, "peers", arguments, beside, Promise(*cpu), Promise(*rate) if rate else Promise())


LOADS = {
    "real-64": plain("`real`, 64 connections", "real", 64, cpu=(0.78, 0.65), rate=(1.2, 1.45)),
    "real-200": plain("`real`, 200 connections", "real", 200, cpu=(0.75, 0.62), rate=(1.25, 1.5)),
    "small": plain("`small`", "small", 64, cpu=(0.85, 0.72)),
    # nginx stalls under this load, so it would only make the run longer.
    "post": plain("`post`, 16 KiB up", "post", 64, cpu=(0.60, 0.46), beside=("haproxy", "floor")),
    "mid": plain("`mid`, 64 KiB down", "mid", 64, cpu=(0.80, 0.66)),
    "big": plain("`big`, 1 MiB down, 16 connections", "big", 16, cpu=(1.0, 0.6)),
    "churn": Load(
        "`Connection: close`, 64 at a time", "scale", ("basic", "--cases", "churn"), PEERS, cpu=Promise(1.0, 0.8)
    ),
}

IDLE_KIB = Promise(0.6, 0.4)
"""KiB of process memory an idle keep-alive connection; `aim` likewise."""

BESIDE_IDLE = 1.10
"""CPU a request beside 10,000 idle connections, as a ratio to the same without them."""

TWO_WORKERS = 1.10
"""CPU a request with two workers, as a ratio to one."""

SPECIAL = ("idle", "latency", "workers")
"""Cases with tables of their own."""

ALL = (*LOADS, *SPECIAL)
