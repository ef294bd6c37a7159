"""The time of the embedded store's leases: kept in memory by one process, so that a heartbeat writes nothing.

After a restart every lease gets its full time again: nobody vanishes because we were away. For the same reason time in
which this process did not run (stopped, or starved) does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

STALL_S: Final = 1.0
"""A tick that comes this late was a stall: heartbeats could not be heard meanwhile."""


class _Lease:
    __slots__ = ("ended", "ends_s", "renewals", "ttl_ms")

    def __init__(self, ttl_ms: int, renewals: int) -> None:
        self.ttl_ms = ttl_ms
        self.renewals = renewals
        self.ended = False
        self.ends_s = time.monotonic() + ttl_ms / 1000


class Leases:
    """Which leases there are, and when each ends."""

    def __init__(self) -> None:
        """See the class."""
        self._leases: dict[int, _Lease] = {}
        self._ticked_s = time.monotonic()

    def add(self, lease: int, ttl_ms: int) -> None:
        """Begin a lease's time."""
        self._leases[lease] = _Lease(ttl_ms, 0)

    def renew(self, lease: int) -> int | None:
        """Begin its time anew and return it in ms; None when it has ended."""
        found = self._leases.get(lease)
        if found is None or found.ended:
            return None
        found.ends_s = time.monotonic() + found.ttl_ms / 1000
        return found.ttl_ms

    def drop(self, lease: int) -> None:
        """Forget one."""
        self._leases.pop(lease, None)

    def load(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Take over what the database holds (id, time, foreign heartbeats): new ones, gone ones, renewed ones."""
        present = set()
        for lease, ttl_ms, renewals in rows:
            present.add(lease)
            known = self._leases.get(lease)
            if known is None or known.renewals != renewals:
                self._leases[lease] = _Lease(ttl_ms, renewals)
        for lease in self._leases.keys() - present:
            del self._leases[lease]

    def due(self) -> list[int]:
        """Return the leases that have ended, until they are dropped. To be called several times a second."""
        now = time.monotonic()
        late_s = now - self._ticked_s
        self._ticked_s = now
        if late_s > STALL_S:
            for state in self._leases.values():
                state.ends_s += late_s
        ended = []
        for lease, state in self._leases.items():
            if state.ends_s <= now:
                state.ended = True
                ended.append(lease)
        return ended
