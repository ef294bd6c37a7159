"""One worker process as the keeper knows it. Its states and their moves: crew.py."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from bascule.process.link import Link, LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.process.crew import Crew

STARTING, SERVING, RESTING, RETIRING = "starting", "serving", "resting", "retiring"


class Worker:
    """One worker process as the keeper knows it. `master_link` is the keeper's spare of the master's end, -1 of an
    orphan."""

    __slots__ = (
        "account",
        "beat_s",
        "crew",
        "failure",
        "holding",
        "link",
        "master_link",
        "number",
        "pid",
        "revision",
        "started_s",
        "state",
    )

    def __init__(self, crew: Crew, number: int, pid: int, link: Link, master_link: int) -> None:
        """See the class."""
        self.crew = crew
        self.number = number
        self.pid = pid
        self.link = link
        self.master_link = master_link
        self.state = STARTING
        self.started_s = self.beat_s = time.monotonic()
        self.failure = ""
        self.holding: set[tuple[str, int]] = set()
        self.revision = 0
        """Of the last snapshot that it took from the keeper."""
        self.account: dict[str, int] = {}
        """What it last said of the connections it gave away, took over, finished and cut."""

    def tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message. One that is dead or dying hears nothing: its wait status tells the rest."""
        try:
            self.link.send(message, descriptors)
        except LinkClosedError:
            return
        except OSError:
            # No descriptor is left for a message that has to wait. Without a slot it is not lent, without an heir it has one
            # less; without what a worker needs to start, it cannot.
            if self.state == STARTING:
                self.failure = "the keeper is out of descriptors"
                os.kill(self.pid, _signal.SIGKILL)


def heirs_of(worker: Worker, active: Crew | None) -> list[Worker]:
    """Return who takes the connections of a worker over. Every heir has about as many givers as the next: the givers take
    turns, those with few of them take several."""
    candidates = [other for other in active.serving() if other is not worker] if active is not None else []
    if not candidates:
        return []
    if active is worker.crew:
        return [] if worker.crew.stopping else candidates
    givers = sorted(worker.crew.workers)
    place, count = givers.index(worker.number), len(candidates)
    each = max(1, count // len(givers))
    return [candidates[(place * each + i) % count] for i in range(each)]
