"""When a watch is better left for a moment: many revisions in one message cost little more than one.

etcd sends every revision by itself to a watch that is up to date, and each message costs some 0.3 ms of CPU here (gRPC,
its threads, the event loop), whatever is in it. A watch that begins in the past is told that past in messages of up to
a thousand revisions. So while revisions keep coming, the watch is cancelled, and begun anew where it had come to:

    live ──25 messages in 0.25 s──► cancel, pause of 0.1 s, create ──► a heap of revisions ──► cancel, pause ...
      ▲                                                                      │
      └────────────── so few that they may come one by one ◄─────────────────┘

etcd looks after watches in the past every 0.1 s, so a revision is 0.2 s late at the most: less than what the gatherer
(change/gather.py) would wait while revisions follow each other so closely. Nothing is missed, because a watch tells
everything after the revision it begins at.
"""

from __future__ import annotations

from typing import Final

MESSAGES: Final = 25
"""So many messages with events within"""
WINDOW_S: Final = 0.25
"""are too many,"""
RATE_PER_S: Final = MESSAGES / WINDOW_S
"""and so many revisions a second in a heap are worth another one."""
PAUSE_S: Final = 0.1
HEAP_MAX: Final = 500
"""After a heap as large as this more of it may be on its way: etcd puts a thousand revisions into one."""


class Pace:
    """Decides for one watch stream. Owned by the stream."""

    def __init__(self) -> None:
        """Live, nothing heard yet."""
        self._messages = 0
        self._since_s = 0.0
        self._left_s = 0.0
        """When the watch was left last, 0 while it is live."""

    @property
    def heaps(self) -> bool:
        """Whether revisions come in heaps, so that nobody wants them one by one."""
        return self._left_s > 0

    def leave(self, revisions: int, now_s: float) -> bool:
        """Take note of a message with so many whole revisions; tell whether to leave the watch for PAUSE_S now."""
        if self._left_s:
            if revisions >= HEAP_MAX:
                return False
            heaps = revisions >= RATE_PER_S * (now_s - self._left_s)
            self._left_s = now_s if heaps else 0.0
            self._messages = 0
            return heaps
        if now_s - self._since_s > WINDOW_S:
            self._since_s, self._messages = now_s, 0
        self._messages += 1
        if self._messages < MESSAGES:
            return False
        self._left_s = now_s
        return True
