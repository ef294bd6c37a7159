"""Coalescing: changes that follow each other closely come into force together.

    first event ----- quiet for QUIET_S ----> taken
         \\___________ at most LONGEST_S ___________/      a drain or a promotion: at once

Events are kept by key, the last one counting, so what waits is never more than the store holds. Only whole revisions are
taken: a `Batch` is one, or several.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bascule.store.interface import Batch, Event

QUIET_S: Final = 0.020
LONGEST_S: Final = 0.250
_STATE: Final = b'"state"'


class Gathered(msgspec.Struct, frozen=True, gc=False):
    """What came since the last time, up to and including a revision."""

    identity: str
    revision: int
    events: list[Event]
    batches: int
    """Revisions with events in it."""
    since_s: float
    """When the first event came (monotonic)."""


class Gather:
    """Takes batches in, and hands them out together. Owner: the master's event loop."""

    def __init__(
        self,
        known: Callable[[str], bytes | None],
        quiet_s: float = QUIET_S,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known` gives the value a key had before what is gathered; `quiet_s` 0 is no coalescing."""
        self.quiet_s = quiet_s
        self.longest_s = longest_s
        self._known = known
        self._clock = clock
        self._wake = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._identity = ""
        self._revision = 0
        self._events: dict[str, Event] = {}
        self._batches = 0
        self._since_s = 0.0
        self._last_s = 0.0
        self._urgent = False

    def __len__(self) -> int:
        return len(self._events)

    @property
    def events(self) -> Mapping[str, Event]:
        """What waits, by key."""
        return self._events

    @property
    def revision(self) -> int:
        """The newest revision that waits, 0 when none does."""
        return self._revision

    def add(self, batch: Batch) -> None:
        """Take one revision in."""
        now_s = self._clock()
        waiting = self._revision
        if batch.events:
            if not self._batches:
                self._since_s = now_s
            self._batches += batch.revisions
            self._last_s = now_s
        elif not self._revision:
            self._since_s = self._last_s = now_s
        self._identity = batch.identity
        self._revision = max(self._revision, batch.revision)
        for event in batch.events:
            self._add(event)
        if not waiting or self._urgent or self.quiet_s <= 0:
            self._wake.set()  # else whoever waits looks again when its time is up

    def _add(self, event: Event) -> None:
        if "/servers/" in event.key and not self._urgent:
            self._urgent = self._state_changes(event)
        self._events[event.key] = event

    def _state_changes(self, event: Event) -> bool:
        """Tell whether a server is drained, promoted or taken out by its operator: nobody should wait for that."""
        new = b"" if event.entry is None else event.entry.value
        waiting = self._events.get(event.key)
        known = self._known(event.key) if waiting is None else waiting.entry and waiting.entry.value
        old = known or b""
        if _STATE not in new and _STATE not in old:
            return False
        before, after = _state_of(old), _state_of(new)
        return bool(before and after) and before != after

    def hurry(self) -> None:
        """Hand out what there is without waiting for quiet."""
        self._urgent = True
        self._wake.set()

    def drop(self) -> None:
        """Forget what waits: everything is going to be read anew."""
        self._clear()

    async def due(self) -> None:
        """Wait until something is to come into force."""
        while True:
            wait_s = self._wait_s()
            if wait_s is not None and wait_s <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except TimeoutError:
                continue

    def _wait_s(self) -> float | None:
        """Return how long to wait still, None while there is nothing."""
        if not self._revision:
            return None
        if self._urgent or not self._events or self.quiet_s <= 0:
            return 0.0
        return min(self._last_s + self.quiet_s, self._since_s + self.longest_s) - self._clock()

    def take(self) -> Gathered | None:
        """Return everything that came since the last time, None when that is nothing."""
        if not self._revision:
            return None
        taken = Gathered(
            self._identity,
            self._revision,
            list(self._events.values()),
            self._batches,
            self._since_s,
        )
        self._clear()
        return taken


class _State(msgspec.Struct, gc=False):
    state: str = "up"


_STATE_DECODER: Final = msgspec.json.Decoder(_State)


def _state_of(value: bytes) -> str:
    if not value:
        return ""
    try:
        return _STATE_DECODER.decode(value).state
    except Exception:  # whatever it is, it is not a state
        return ""
