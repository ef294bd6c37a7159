"""How a generation does: what the next one is measured by, and whether a new one is worse than the one before.

Measured is what comes in over the listeners, by the workers of this generation alone. While a generation is on probation its
master looks once a second, at the shortest window that says something; else it keeps a mark every minute, for the day of an
upgrade. A fault of the servers that begins in a probation looks the same from here, and brings the version before back too:
that costs nobody a request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from bascule.process.link import LinkClosedError
from bascule.shared.statistics import Reader, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from bascule.process.control import Control

FAILED: Final = frozenset({
    "no_server", "connect_failed", "connect_timeout", "response_timeout", "bad_response", "server_closed", "response_cut",
    "overload", "exchange_timeout",
})  # fmt: skip
"""Answers of 502, 503 and 504 that the load balancer makes itself, and responses that it cut."""
REFUSED: Final = frozenset({"bad_request", "too_large", "no_route", "method_refused"})
"""Requests that the load balancer finds wrong. Clients do that too, so more of it is needed to blame a new version."""

FAILED_SHARE: Final = 0.01
REFUSED_SHARE: Final = 0.10
TIMES_WORSE: Final = 3.0
REQUESTS_MIN: Final = 200
"""In the window and before the upgrade; with fewer nothing is said."""
ERRORS_MIN: Final = 20
LATENCY_REQUESTS_MIN: Final = 500
LATENCY_WORSE_US: Final = 50_000
"""A p99 that is three times as high is no fault while it is less than this above the one before."""

WINDOW_MIN_S: Final = 3.0
WINDOW_MAX_S: Final = 60.0
LATENCY_WINDOW_MIN_S: Final = 10.0
LOOKS_MIN: Final = 3
"""So many looks in a row, a second apart, find it worse before anything is done."""

_LOOK_S: Final = 1.0
_MARK_S: Final = 60.0
_MARKS_MAX: Final = 10
_REPEAT_S: Final = 5.0


class Baseline(msgspec.Struct, frozen=True):
    """How the generation before did, over its last minutes."""

    requests: int = 0
    failed: int = 0
    refused: int = 0
    p99_us: int = 0


def baseline_of(traffic: Traffic) -> Baseline:
    """Return what a later generation is measured by."""
    errors = traffic.errors
    return Baseline(traffic.requests, _count(errors, FAILED), _count(errors, REFUSED), traffic.quantile_us(0.99))


def _count(errors: dict[str, int], reasons: frozenset[str]) -> int:
    return sum(count for reason, count in errors.items() if reason in reasons)


def worse_errors(traffic: Traffic, before: Baseline) -> str:
    """Say which errors are so many more than before that the new version is to blame; empty when none are."""
    if min(traffic.requests, before.requests) < REQUESTS_MIN:
        return ""
    errors = traffic.errors
    for what, reasons, bound, count_before in (
        ("failed by the load balancer itself", FAILED, FAILED_SHARE, before.failed),
        ("refused", REFUSED, REFUSED_SHARE, before.refused),
    ):
        count = _count(errors, reasons)
        share, share_before = count / traffic.requests, count_before / before.requests
        if count >= ERRORS_MIN and share > max(bound, TIMES_WORSE * share_before):
            most = max((reason for reason in errors if reason in reasons), key=lambda reason: errors[reason])
            return (
                f"{share:.1%} of {traffic.requests} requests were {what} ({most} {errors[most]}), "
                f"{share_before:.2%} before the upgrade"
            )
    return ""


def worse_latency(traffic: Traffic, before: Baseline) -> str:
    """Say that the latency is so much higher than before that the new version is to blame; empty when it is not."""
    if traffic.requests < LATENCY_REQUESTS_MIN or before.requests < REQUESTS_MIN:
        return ""
    p99_us = traffic.quantile_us(0.99)
    if p99_us <= max(TIMES_WORSE * before.p99_us, before.p99_us + LATENCY_WORSE_US):
        return ""
    return f"the p99 latency is {p99_us / 1000:.1f} ms, it was {before.p99_us / 1000:.1f} ms before the upgrade"


class Sight:
    """What the workers of one generation have done, at moments."""

    def __init__(self, reader: Reader, now_s: float) -> None:
        """`reader` knows the listeners."""
        self._reader = reader
        self._since: dict[int, Traffic] = {
            segment.worker: reader.traffic(segment.worker) for segment in reader.segments()
        }
        """Of each worker number, what others have counted under it before."""
        self._workers: set[int] = set()
        self._moments: deque[tuple[float, Traffic]] = deque([(now_s, Traffic())])

    def look(self, workers: Iterable[int], now_s: float, keep_s: float) -> None:
        """Take note of this moment, and forget those that are `keep_s` old; one that is older stays."""
        self._workers.update(workers)  # one that is gone has counted, too
        self._moments.append((now_s, self._now()))
        while len(self._moments) > 2 and now_s - self._moments[1][0] >= keep_s:
            self._moments.popleft()

    def window(self, length_s: float, requests: int) -> Traffic:
        """Return the shortest time up to the last look that is so long and has so many requests; else nothing."""
        now_s, now = self._moments[-1]
        for at_s, then in reversed(self._moments):
            if now_s - at_s >= length_s and now.requests - then.requests >= requests:
                return now.since(then)
        return Traffic()

    def baseline(self) -> Baseline:
        """Return how it went since the oldest moment that is known; of all time, when that is too little."""
        recent = self._now().since(self._moments[0][1])
        if recent.requests < REQUESTS_MIN:
            recent = Traffic()
            for segment in self._reader.segments():
                recent = recent.plus(self._reader.traffic(segment.worker))
        return baseline_of(recent)

    def _now(self) -> Traffic:
        total = Traffic()
        for worker in self._workers:
            total = total.plus(self._reader.traffic(worker).since(self._since.get(worker, Traffic())))
        return total


class Watching:
    """The watch of one master in charge over its generation."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control
        self._sight = Sight(Reader(control.master.regions[0], only="listener"), time.monotonic())
        self._told = asyncio.Event()
        self._worse: list[str] = []
        self._asked_s = 0.0

    def told(self) -> None:
        """The keeper has said something new of upgrades."""
        self._told.set()

    def baseline(self) -> dict[str, Any]:
        """Return what the next generation is measured by."""
        self._look(_MARK_S * _MARKS_MAX)
        document: dict[str, Any] = msgspec.to_builtins(self._sight.baseline())
        return document

    async def run(self) -> None:
        """Look, for as long as this master is in charge."""
        while True:
            before = self._before()
            self._told.clear()
            if before is None:
                self._worse = []
                self._look(_MARK_S * _MARKS_MAX)
            else:
                self._look(WINDOW_MAX_S)
                self._judge(before)
            try:
                await asyncio.wait_for(self._told.wait(), _LOOK_S if before is not None else _MARK_S)
            except TimeoutError:
                continue

    def _before(self) -> Baseline | None:
        """Return what to measure by, None while there is no probation."""
        state = self._control.master.upgrade
        if state.get("phase") or not state.get("resting") or not state.get("baseline"):
            return None
        return msgspec.convert(state["baseline"], Baseline)

    def _look(self, keep_s: float) -> None:
        self._sight.look(self._control.master.publisher.workers, time.monotonic(), keep_s)

    def _judge(self, before: Baseline) -> None:
        """Ask for the generation before when this one has been worse for some looks."""
        worse = worse_errors(self._sight.window(WINDOW_MIN_S, REQUESTS_MIN), before) or worse_latency(
            self._sight.window(LATENCY_WINDOW_MIN_S, LATENCY_REQUESTS_MIN), before
        )
        self._worse = [*self._worse, worse][-LOOKS_MIN:] if worse else []
        now_s = time.monotonic()
        if len(self._worse) < LOOKS_MIN or now_s - self._asked_s < _REPEAT_S:
            return
        self._asked_s = now_s
        self._control.master.log.error("the new version is worse than the one before", why=worse)
        try:
            self._control.tell_keeper({"type": "switch_back", "reason": f"the new version is worse: {worse}"})
        except LinkClosedError:
            return  # nobody could switch back
