"""All active health checks of one master: when to ask whom, and what several answers in a row mean.

    unknown ── `healthy` good answers ──► passing ◄── healthy ── failing
       └────── `unhealthy` failures ────────► failing ◄── unhealthy ── passing

Unknown and passing servers count as well: a server is not taken out by our not having asked it. Only a server that is
starting has to have passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from bascule.health.probe import Lookup, NotKnownError, probe
from bascule.model.quantities import duration_ms
from bascule.model.tree import HealthCheck

CONCURRENCY: Final = 64
"""Questions under way at once, over all servers."""
EAGER_S: Final = 1.0
"""A server about which nothing is known yet is asked at least this often."""
JITTER: Final = 0.1
SPREAD_MAX_S: Final = 5.0

Probe = Callable[[str, HealthCheck, Lookup], Awaitable[str]]
Changed = Callable[[str, str], None]


class Health(msgspec.Struct, frozen=True):
    """What is known of one server."""

    passing: bool | None
    """None: not known yet."""
    reason: str
    """Of the last failure, as long as the last answer was one."""
    asked_s: float
    """Unix time of the last answer, 0 before it."""


class _Subject:
    """One server that is asked."""

    __slots__ = ("asked_s", "backend", "bad", "check", "good", "passing", "reason", "round", "server", "url")

    def __init__(self, backend: str, server: str) -> None:
        self.backend = backend
        self.server = server
        self.url = ""
        self.check = HealthCheck()
        self.good = self.bad = 0
        self.passing: bool | None = None
        self.reason = ""
        self.asked_s = 0.0
        self.round = 0
        """Of the schedule; an entry of an earlier one is void."""


class HealthChecks:
    """The checks. Belongs to one event loop; `changed` is called there when a server's verdict becomes another one."""

    def __init__(self, changed: Changed, lookup: Lookup, *, asking: Probe = probe) -> None:
        """See the class."""
        self._changed = changed
        self._lookup = lookup
        self._asking = asking
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._due: list[tuple[float, int, int, _Subject]] = []
        self._count = itertools.count()
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self.asked = 0
        self.failed = 0

    def __len__(self) -> int:
        """Return how many servers are asked."""
        return len(self._subjects)

    # ---- who is asked

    def watch(self, backend: str, server: str, url: str, check: HealthCheck, *, known: bool | None = None) -> None:
        """Ask a server from now on, or in another way. `known`: what a predecessor knew of it."""
        subject = self._subjects.get((backend, server))
        if subject is None:
            subject = self._subjects[backend, server] = _Subject(backend, server)
            subject.passing = known
        elif (subject.url, subject.check) == (url, check):
            return
        elif subject.url != url:  # another server under the same name
            subject.passing, subject.good, subject.bad = None, 0, 0
        subject.url, subject.check = url, check
        # Spread, so that ten thousand servers are not asked in one instant; the first few are asked at once.
        spread_s = min(duration_ms(check.interval) / 1000, SPREAD_MAX_S, len(self._subjects) / 1000)
        self._schedule(subject, random.uniform(0, spread_s))  # noqa: S311 - no secret

    def forget(self, backend: str, server: str) -> None:
        """Ask a server no longer."""
        subject = self._subjects.pop((backend, server), None)
        if subject is not None:
            subject.round += 1

    # ---- what is known

    def health(self, backend: str, server: str) -> Health | None:
        """Return what is known of a server, None when nobody asks it."""
        subject = self._subjects.get((backend, server))
        return None if subject is None else Health(subject.passing, subject.reason, subject.asked_s)

    def passing(self, backend: str, server: str) -> bool:
        """Tell whether nothing speaks against a server: it is well, not known yet, or not asked at all."""
        subject = self._subjects.get((backend, server))
        return subject is None or subject.passing is not False

    def proven(self, backend: str, server: str) -> bool:
        """Tell whether a server has answered well."""
        subject = self._subjects.get((backend, server))
        return subject is not None and subject.passing is True

    # ---- asking

    async def run(self) -> None:
        """Ask for ever."""
        free = asyncio.Semaphore(CONCURRENCY)
        while True:
            self._woken.clear()
            wait_s = self._due[0][0] - time.monotonic() if self._due else None
            if wait_s is None or wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), wait_s)
                continue
            _, _, round_number, subject = heapq.heappop(self._due)
            if subject.round != round_number:
                continue
            await free.acquire()
            task = asyncio.create_task(self._ask(subject, round_number))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: free.release())

    async def _ask(self, subject: _Subject, round_number: int) -> None:
        try:
            reason = await self._asking(subject.url, subject.check, self._lookup)
        except NotKnownError as error:
            subject.reason = str(error)
        except Exception as error:  # whatever it is, the server has to be asked again
            if subject.round == round_number:
                self._answered(subject, f"{type(error).__name__}: {error}")
        else:
            if subject.round == round_number:
                self._answered(subject, reason)
        if subject.round == round_number:
            pause_s = duration_ms(subject.check.interval) / 1000
            if subject.passing is None:
                pause_s = min(pause_s, EAGER_S)
            self._schedule(subject, pause_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - no secret

    def _answered(self, subject: _Subject, reason: str) -> None:
        self.asked += 1
        self.failed += bool(reason)
        subject.asked_s = time.time()
        subject.reason = reason
        before = subject.passing
        if reason:
            subject.bad, subject.good = subject.bad + 1, 0
            if subject.bad >= subject.check.unhealthy:
                subject.passing = False
        else:
            subject.good, subject.bad = subject.good + 1, 0
            if subject.good >= subject.check.healthy:
                subject.passing = True
        if subject.passing is not before:
            self._changed(subject.backend, subject.server)

    def _schedule(self, subject: _Subject, in_s: float) -> None:
        subject.round += 1
        due_s = time.monotonic() + in_s
        heapq.heappush(self._due, (due_s, next(self._count), subject.round, subject))
        if self._due[0][3] is subject:
            self._woken.set()
