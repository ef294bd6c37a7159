"""A pool that vanishes is held: servers whose leases ended, together or within a short time, for too large a part of it.

    open ── a loss over a third within the window, or of the last server ──► holding
      ▲                                                                        │ every further vanishing is held
      └── two thirds are back (under whatever ids) · all held came back ·      │ a held server that fails its health
          the backend is removed · adopted ────────────────────────────────────┘ checks goes

Only servers that take traffic count. A removal by somebody's word (*left*) passes and is no loss. A lease ends because
its owner died, or because the owner could not reach the store, or the store lost it: the last two say nothing about the
server, and hit many at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from bascule.change.holds import Bounds, InForce, too_many
from bascule.model.keys import format_key

Passing = Callable[[str, str], bool]
"""(backend, server): whether active health checks find the server well; True when nobody checks it."""


class _Member(msgspec.Struct, gc=False):
    state: str = "up"
    weight: int = 1


_member = msgspec.json.Decoder(_Member).decode


def takes_traffic(value: bytes) -> bool:
    """Tell whether a stored server would get requests; False for what does not decode."""
    try:
        member = _member(value)
    except msgspec.MsgspecError:
        return False
    return member.state == "up" and member.weight > 0


class PoolChange:
    """What a batch does to the servers of one backend."""

    __slots__ = ("left", "put", "vanished")

    def __init__(self) -> None:
        self.vanished: list[str] = []
        self.left: list[str] = []
        self.put: dict[str, bytes] = {}


class Pool:
    """A backend whose loss is held."""

    __slots__ = ("baseline", "held", "reason")

    def __init__(self, baseline: int, reason: str) -> None:
        """`baseline` is the number of servers that took traffic before the loss."""
        self.baseline = baseline
        self.reason = reason
        self.held: set[str] = set()


class PoolGate:
    """Decides about servers that vanish. Keeps what is held, and the losses it let pass within the window."""

    def __init__(self, in_force: InForce, passing: Passing, bounds: Bounds) -> None:
        """See the class."""
        self.pools: dict[str, Pool] = {}
        self._in_force = in_force
        self._passing = passing
        self._bounds = bounds
        self._losses: dict[str, deque[float]] = {}

    def forget(self, now_s: float) -> None:
        """Forget losses older than the window; once a batch, before its pools are judged."""
        for backend in list(self._losses):
            losses = self._losses[backend]
            while losses and now_s - losses[0] > self._bounds.pool_window_s:
                losses.popleft()
            if not losses:
                del self._losses[backend]

    def judge(self, backend: str, change: PoolChange, now_s: float) -> list[str]:
        """Return which of the vanished servers stay: all that take traffic and pass their checks, or none."""
        vanished = self._healthy(backend, change.vanished)
        if not vanished:
            return []
        pool = self.pools.get(backend)
        if pool is None:
            pool = self._newly_holding(backend, change, vanished, now_s)
            if pool is None:
                return []
            self.pools[backend] = pool
        pool.held.update(vanished)
        return vanished

    def returned(self, backend: str, server: str) -> None:
        """A held server is in the store again, or goes for another reason."""
        pool = self.pools.get(backend)
        if pool is not None:
            pool.held.discard(server)
            if not pool.held:
                del self.pools[backend]

    def recovered(self) -> dict[str, list[str]]:
        """Return the held servers that need holding no longer, by backend: the pool is back, or they fail their checks."""
        found: dict[str, list[str]] = {}
        for backend, pool in self.pools.items():
            servers = self._in_force.servers(backend)
            present = sum(well and name not in pool.held for name, well in servers.items())
            if not self._large(pool.baseline - present, pool.baseline):
                found[backend] = sorted(pool.held)
            elif sick := [name for name in pool.held if not self._passing(backend, name)]:
                found[backend] = sorted(sick)
        return found

    def _large(self, lost: int, whole: int) -> bool:
        return too_many(lost, whole, self._bounds.pool_percent)

    def _healthy(self, backend: str, servers: Iterable[str]) -> list[str]:
        members = self._in_force.servers(backend)
        return [name for name in servers if members.get(name) and self._passing(backend, name)]

    def _newly_holding(self, backend: str, change: PoolChange, vanished: list[str], now_s: float) -> Pool | None:
        members = self._in_force.servers(backend)
        gained, drained = _turned(members, change)
        before = sum(members.values()) - drained - sum(members.get(name, False) for name in change.left)
        after = before - len(vanished) + gained
        earlier = len(self._losses.get(backend, ()))
        baseline = before + earlier
        if after > 0 and not self._large(baseline - after, baseline):
            self._losses.setdefault(backend, deque()).extend([now_s] * len(vanished))
            return None
        return Pool(baseline, _reason(backend, len(vanished), earlier, baseline, self._bounds.pool_window_s))


def _turned(members: Mapping[str, bool], change: PoolChange) -> tuple[int, int]:
    """Return how many servers the puts make take traffic, and how many they stop from it: by somebody's word, no loss."""
    gained = drained = 0
    for name, value in change.put.items():
        before, after = members.get(name, False), takes_traffic(value)
        gained += after and not before
        drained += before and not after
    return gained, drained


def _reason(backend: str, vanished: int, earlier: int, baseline: int, window_s: float) -> str:
    lost = f"{vanished + earlier} of {baseline} servers vanished (their leases ended)"
    within = f" within {window_s:g} s" if earlier else " at once"
    return f"{format_key('backend', backend)}: {lost}{within}"
