"""Which store revision came into force with which snapshot, and which workers have it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.process.live_metrics import LiveMetrics
    from bascule.process.publisher import Publisher

KEPT: Final = 4096
"""Revisions that are remembered while workers have not applied them."""


class Progress:
    """The revision in force, and how far the workers are."""

    def __init__(self, publisher: Publisher, metrics: LiveMetrics) -> None:
        """See the class."""
        self.revision = 0
        """Store revision in force: what the newest published snapshot says."""
        self._publisher = publisher
        self._metrics = metrics
        self._published: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        """(store revision, sequence number of its snapshot, when its first event came: 0 when it changed nothing)."""
        self._moved = asyncio.Event()

    def note(self, revision: int, since_s: float) -> None:
        """A store revision is in force with the newest snapshot."""
        self.revision = revision
        self._published.append((revision, self._publisher.revision, since_s))
        self._metrics.in_force_s = time.time()
        self.move()

    def move(self) -> None:
        """Have everybody who waits look again."""
        self._moved.set()
        self._moved = asyncio.Event()

    def acknowledged(self, sequence: int) -> int:
        """Every serving worker has the snapshot of this number: return the newest revision they have with it, 0 when that
        is nothing new."""
        newest = 0
        now_s = time.monotonic()
        while self._published and self._published[0][1] <= sequence:
            newest, _, since_s = self._published.popleft()
            if since_s:
                self._metrics.latency(now_s - since_s)
        return newest

    async def until_in_force(self, revision: int, deadline_s: float, hopeless: Callable[[], bool]) -> bool:
        """Wait until a revision is in force; False when time is up, or when it is hopeless."""
        while self.revision < revision and not hopeless():
            try:
                await asyncio.wait_for(self._moved.wait(), max(deadline_s - time.monotonic(), 0.0))
            except TimeoutError:
                break
        return self.revision >= revision

    async def until_applied(self, revision: int, deadline_s: float) -> tuple[int, ...]:
        """Wait until a revision in force is in every serving worker; return the numbers of those that have it not when time
        is up."""
        sequence = self._sequence_of(revision)
        await self._publisher.reached(sequence, max(deadline_s - time.monotonic(), 0.0))
        return tuple(worker.number for worker in self._publisher.serving() if worker.revision < sequence)

    def _sequence_of(self, revision: int) -> int:
        """Return the number of the snapshot with which a revision came into force, 0 when everybody has it."""
        for known, sequence, _ in self._published:
            if known >= revision:
                return sequence
        return 0
