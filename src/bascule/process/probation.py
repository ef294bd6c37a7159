"""After an upgrade: the generation before waits, to be switched back to, until the new one has proven itself."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bascule.process.generation import Generation
    from bascule.process.log import Log
    from bascule.process.poller import Poller, Timer

CRASHES_MAX = 2
CRASHES_WITHIN_S = 60.0


class Probation:
    """The generation that rests, if there is one, and how long it will.

    It leaves when the time is over, when it is no longer needed, and when it lost a process: then it could not serve as it
    did, and the program it ran may be gone from disk.
    """

    def __init__(self, poller: Poller, log: Log, on_proven: Callable[[], None]) -> None:
        """`on_proven` is called when a probation has ended well."""
        self.resting: Generation | None = None
        self.baseline: dict[str, Any] = {}
        """How the generation before did (process/watching.py); empty when nobody knows."""
        self.lost_because = ""
        """Why the generation before, of which the last upgrade came, cannot be switched back to any more."""
        self._poller = poller
        self._log = log
        self._on_proven = on_proven
        self._timer: Timer | None = None
        self._until_s = 0.0
        self._crashes: list[float] = []

    def begin(self, resting: Generation, length_ms: int) -> None:
        """Let this generation rest for so long."""
        self.resting = resting
        self._crashes = []
        self._until_s = time.monotonic() + length_ms / 1000
        self._timer = self._poller.call_later(length_ms / 1000, self.proven)

    @property
    def left_s(self) -> float:
        """How much longer the generation that rests will, in seconds; 0 when there is none."""
        return max(self._until_s - time.monotonic(), 0.0) if self.resting is not None else 0.0

    def take(self) -> Generation | None:
        """Return the generation that rests, which does so no longer: it is switched back to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        resting, self.resting = self.resting, None
        return resting

    def end(self) -> None:
        """Let the generation that rests leave. Harmless when there is none."""
        self.lost_because = ""
        resting = self.take()
        if resting is not None:
            resting.leave(resting.crew.drain_timeout_ms)

    def proven(self) -> None:
        """The new version has served for long enough, or somebody says so."""
        self.end()
        self._on_proven()

    def lost(self, generation: Generation, why: str) -> None:
        """A process of a resting generation died: it leaves."""
        self._log.warning("there is no way back to the generation before", generation=generation.number, reason=why)
        if generation is self.resting:
            self.end()
        else:
            generation.leave(generation.crew.drain_timeout_ms)
        self.lost_because = why

    def crashed_too_often(self) -> bool:
        """Count a death in the generation that serves; True when that is once too often for one on probation."""
        if self.resting is None:
            return False
        now_s = time.monotonic()
        self._crashes = [at_s for at_s in self._crashes if now_s - at_s < CRASHES_WITHIN_S] + [now_s]
        return len(self._crashes) >= CRASHES_MAX

    def state(self) -> dict[str, Any]:
        """Return what is told of it: to operators, and to the master that watches the new version."""
        resting = self.resting
        return {
            "resting": None if resting is None else {"generation": resting.number, "version": resting.program.version},
            "probation_left_s": round(self.left_s, 1),
            "lost_because": self.lost_because,
            "baseline": self.baseline,
        }
