"""Slots that leave: some of a listener that is to have fewer of them, or all of one that closes. No connection is reset.

    TURNED_AWAY --proven empty--> RETURNING --no worker has one--> FORGETTING --the manager has none--> over
         ^------somebody waits after all------'

Turned away: new connections are steered to the slots that stay, or refused where none stays; the workers go on accepting
what waits. All of this goes on beside everything else.
"""

from __future__ import annotations

import math
import time

from bascule.process.emptying import Emptying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.process.lending import Lending
    from bascule.process.listeners import Listener
    from bascule.process.poller import Poller, Timer
    from bascule.process.storage import Storage

TURNED_AWAY, RETURNING, FORGETTING, OVER = "turned away", "returning", "forgetting", "over"
LOOK_S = 0.02


class Leaving:
    """The slots of one listener from place `kept` on, on their way. Whoever made it closes them at the end."""

    def __init__(self, listener: Listener, kept: int, lending: Lending, poller: Poller, storage: Storage) -> None:
        """See the class. Nothing has happened yet."""
        self.listener = listener
        self.kept = kept
        self._lending = lending
        self._poller = poller
        self._storage = storage
        self._state = TURNED_AWAY
        self._emptying = Emptying(listener, kept)
        self._deadline_s = math.inf
        self._timer: Timer | None = None
        self._done: Callable[[Leaving], None] = lambda leaving: None

    def begin(self, done: Callable[[Leaving], None], patience_s: float = math.inf) -> bool:
        """Turn new connections away, and call `done` at the end, after `patience_s` at the latest. False, and nothing
        begun, when they cannot be steered from some slots of a listener to others."""
        self._done = done
        self._deadline_s = time.monotonic() + patience_s
        if not self._turn_away() and not self.listener.closing:
            return False
        self._timer = self._poller.call_later(LOOK_S, self._look)
        return True

    def again(self) -> None:
        """Turn new connections away now: there was an heir, and is none any more."""
        self._emptying = Emptying(self.listener, self.kept)
        if self._state == TURNED_AWAY:
            self._turn_away()
        elif self._state != OVER:
            self._accept_again()

    def stop(self) -> None:
        """Leave the slots as they are. `done` will not be called."""
        self._state = OVER
        if self._timer is not None:
            self._timer.cancel()

    def lost(self) -> int:
        """Return how many connections a close would reset now."""
        return 0 if self.listener.heir is not None else self.listener.queued(self.kept)

    def _turn_away(self) -> bool:
        if self.listener.heir is not None:
            self.listener.kept = self.kept
            return True
        return self.listener.turn_away(self.kept)

    def _look(self) -> None:
        late = time.monotonic() >= self._deadline_s
        if self._state == TURNED_AWAY and (late or self._may_be_given_back()):
            self._give_back()
        if self._state == RETURNING and (late or not self._lending.holders(self.listener)):
            if self.lost() and not late:
                self._accept_again()
            else:
                self._state = FORGETTING
                self._storage.forget(self.listener, self.kept)
        if self._state == FORGETTING and (late or self._storage.settled()):
            self._state = OVER
            self._done(self)
        if self._state != OVER:
            self._timer = self._poller.call_later(LOOK_S, self._look)

    def _may_be_given_back(self) -> bool:
        heir = self.listener.heir
        if heir is not None:
            return heir.closing or self._lending.held(heir)
        return self._emptying.proven()

    def _give_back(self) -> None:
        self.listener.give_back()
        self._lending.take_back(self.listener)
        self._state = RETURNING

    def _accept_again(self) -> None:
        """Somebody waits after all, which nobody should: let the workers have the slots back."""
        self._turn_away()
        self.listener.lendable = len(self.listener.descriptors)
        self._emptying = Emptying(self.listener, self.kept)
        self._state = TURNED_AWAY
        self._lending.rebalance()
