"""What happens and when: actions in an order drawn from a seed, several lanes of them beside each other.

An action is a function that makes something happen, waits until it is over, and returns what is worth noting; when it raises
AssertionError or OSError, that is a problem of the action and noted as such: what became of the requests is counted apart.
"""

import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Action = Callable[[], str]
GRACE_S = 0.5
"""A failure so long after an event is still laid at its door in the report."""


@dataclass
class Event:
    """One action of a run; times are CLOCK_MONOTONIC, `end_s` is 0 while it is under way."""

    name: str
    begin_s: float
    end_s: float = 0.0
    note: str = ""
    problem: str = ""

    def covers(self, at_s: float) -> bool:
        """Whether it was under way then, or just over."""
        return self.begin_s <= at_s and (not self.end_s or at_s <= self.end_s + GRACE_S)


@dataclass
class Timeline:
    """All events of a run."""

    events: list[Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, name: str, action: Action) -> Event:
        """Let an action happen and note it."""
        event = Event(name, time.monotonic())
        with self.lock:
            self.events.append(event)
        try:
            event.note = action()
        except (AssertionError, OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
            event.problem = f"{type(error).__name__}: {error}"[:2000]
        event.end_s = time.monotonic()
        return event

    def during(self, at_s: float) -> list[str]:
        """Return what was happening at a time."""
        return [event.name for event in self.events if event.covers(at_s)]

    def problems(self) -> list[str]:
        """Return the actions that did not do what they should."""
        return [f"{event.name}: {event.problem}" for event in self.events if event.problem]

    def document(self) -> dict[str, Any]:
        """Return how often each happened and how long it took."""
        found: dict[str, Any] = {}
        for name in sorted({event.name for event in self.events}):
            took = sorted(event.end_s - event.begin_s for event in self.events if event.name == name and event.end_s)
            problems = sum(bool(event.problem) for event in self.events if event.name == name)
            if took:
                median, longest = took[len(took) // 2], took[-1]
                found[name] = {
                    "times": len(took), "problems": problems,
                    "median_ms": round(median * 1000, 1), "longest_ms": round(longest * 1000, 1),
                }  # fmt: skip
        return found


def shuffled(counts: Mapping[str, int], seed: int) -> list[str]:
    """Return each name as often as asked, in an order that the seed decides."""
    names = [name for name, count in sorted(counts.items()) for _ in range(count)]
    random.Random(seed).shuffle(names)
    return names


class Lane:
    """A thread in which actions follow each other with pauses between; lanes beside each other make them coincide."""

    def __init__(
        self,
        timeline: Timeline,
        actions: Mapping[str, Action],
        plan: Sequence[str],
        *,
        seed: int,
        pause_s: tuple[float, float],
        endless: bool = False,
    ) -> None:
        """`plan`: names of actions in order; `endless`: begin anew at its end, until told to stop."""
        self.timeline, self.actions, self.plan = timeline, actions, list(plan)
        self.random, self.pause_s, self.endless = random.Random(seed), pause_s, endless
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self.plan:
            for name in self.plan:
                if self.stopping.wait(self.random.uniform(*self.pause_s)):
                    return
                self.timeline.run(name, self.actions[name])
            if not self.endless:
                return

    def start(self) -> "Lane":
        """Begin."""
        self.thread.start()
        return self

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self.thread.is_alive()

    def stop(self, deadline_s: float = 120.0) -> None:
        """End after the action that is under way."""
        self.stopping.set()
        self.thread.join(deadline_s)
