"""The proof that nobody waits at slots any more to which no new connection goes: before it, a close would reset somebody.

A client is first half-open, which the kernel can list by address (half_open.py), then in the accept queue of the slot
that got its SYN, which TCP_INFO counts, then accepted. So: those half-open when new connections have been turned away
must all be gone, and after that the queues be empty, in several looks.
"""

from __future__ import annotations

import time

from bascule.process.half_open import half_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.process.half_open import HalfOpen
    from bascule.process.listeners import Listener

LOOKS = 3
QUIET_S = 0.3
"""How long the queues have to be empty where the kernel does not list handshakes: over a round trip of most clients."""


class Emptying:
    """The looks at the slots of a listener from place `first` on. The first look has to come a moment after the turning
    away: a SYN that raced with it has been answered by then."""

    __slots__ = ("_asked", "_empty_since_s", "_first", "_listener", "_looks", "_under_way")

    def __init__(self, listener: Listener, first: int) -> None:
        """See the class."""
        self._listener = listener
        self._first = first
        self._looks = 0
        self._empty_since_s = 0.0
        self._asked = False
        self._under_way: HalfOpen | None = None
        """Handshakes seen at the first look that have not ended. What began later went elsewhere."""

    def proven(self) -> bool:
        """Look, and tell whether the slots are empty for good."""
        # In this order: a handshake that has ended since the last look is in the queue by now.
        if self._handshakes() or self._listener.queued(self._first):
            self._looks = 0
            return False
        now_s = time.monotonic()
        if not self._looks:
            self._empty_since_s = now_s
        self._looks += 1
        known = self._under_way is not None
        return self._looks >= LOOKS and (known or now_s - self._empty_since_s >= QUIET_S)

    def _handshakes(self) -> bool:
        if not self._asked:
            self._asked = True
            self._under_way = half_open(self._listener.address)
        elif self._under_way:
            self._under_way &= half_open(self._listener.address) or frozenset()
        return bool(self._under_way)
