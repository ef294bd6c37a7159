"""How long to wait before a process that died is started again."""

from __future__ import annotations

FIRST_S = 0.1
LARGEST_S = 10.0
STABLE_S = 30.0
"""Up for this long, and the next death counts as the first."""


class Backoff:
    """One process's restarts: at once after the first death, then 0.1 s, 0.2 s, 0.4 s ... 10 s, until it stays up."""

    __slots__ = ("deaths",)

    def __init__(self) -> None:
        """See the class."""
        self.deaths = 0

    def died(self, uptime_s: float) -> float:
        """Count a death after `uptime_s` seconds and return how many seconds to wait."""
        if uptime_s >= STABLE_S:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        return min(FIRST_S * 2.0 ** min(self.deaths - 2, 16), LARGEST_S)
