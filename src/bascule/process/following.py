"""Following a store: read it once, watch it from there, come back after every failure, for as long as the master lives.

    DISCONNECTED --read--> FOLLOWING --error--> DISCONNECTED (again after 0.1 s ... 10 s, spread by a third)
                               |
                               '--compacted, other identity, asked to--> read again, and go on with the differences

Whatever happens here, what is in force stays in force: a store that cannot be read says nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from bascule.process.log import Log
from bascule.store.interface import Batch, CompactedError, Reading, Store, StoreError, UnavailableError

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0


class Following:
    """One store being followed. Calls `reading` with whole readings and `batch` with what the watch gives."""

    def __init__(
        self,
        store: Store,
        log: Log,
        reading: Callable[[Reading], Awaitable[None]],
        batch: Callable[[Batch], None],
        told: Callable[[str], None],
    ) -> None:
        """`told` hears "connected" and, with the reason, "disconnected: ..."."""
        self.store = store
        self.seen = 0
        """The newest revision that the store is known to have."""
        self.connected_s = 0.0
        """Since when (Unix time), 0 while it is not."""
        self.heard_s = 0.0
        """When the store was last heard of (monotonic)."""
        self.failure = ""
        self.reconnects = 0
        self._log = log
        self._reading = reading
        self._batch = batch
        self._told = told
        self._read_wanted = True
        self._watch: asyncio.Task[None] | None = None
        self._failures = 0
        self._stumbles = 0
        """Errors in a row that are not the store's."""

    def go_on_from(self, revision: int) -> None:
        """Say that everything up to a revision is known already, so that the first step is to watch."""
        self.seen = revision
        self._read_wanted = False

    def read_again(self) -> None:
        """Read everything anew, now."""
        self._read_wanted = True
        if self._watch is not None:
            self._watch.cancel()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow_once()
            except CompactedError as error:
                self._log.info(
                    "the store no longer keeps what came after our revision: reading it anew", reason=str(error)
                )
                self._read_wanted = True
            except StoreError as error:
                await self._pause(error)
            except Exception as error:  # whatever it is, somebody has to follow the store
                self._read_wanted = True
                self._log.error(
                    "what the store says could not be taken in; reading it anew, and what is in force stays in force",
                    reason=f"{type(error).__name__}: {error}",
                    remedy="report this",
                )
                self._stumbles += 1
                await asyncio.sleep(_pause_s(self._stumbles - 1))

    async def _follow_once(self) -> None:
        if self._read_wanted:
            self._read_wanted = False
            try:
                found = await self.store.read()
                self._connected()
                self.seen = found.revision
                await self._reading(found)
            except BaseException:
                self._read_wanted = True
                raise
        self._watch = asyncio.ensure_future(self._follow())
        try:
            await self._watch
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._read_wanted or (task is not None and task.cancelling()):
                self._watch.cancel()
                raise
        finally:
            self._watch = None

    async def _follow(self) -> None:
        async for found in self.store.watch(self.seen):
            self._connected()
            self._batch(found)  # `seen` is still what this watch said before
            self.seen = found.revision
            self._stumbles = 0
            if self._read_wanted:  # asyncio.wait_for of Python 3.11 may lose the cancellation to an answer
                return
        raise UnavailableError("the watch has ended")

    def _connected(self) -> None:
        self.heard_s = time.monotonic()
        if not self.connected_s:
            self.connected_s = time.time()
            self._failures = 0
            self.failure = ""
            self._log.info("following the store", store=self.store.kind, place=self.store.place)
            self._told("connected")

    async def _pause(self, error: StoreError) -> None:
        """Say once that the store is gone, and wait a little longer every time."""
        if self.connected_s or not self.failure:
            self.reconnects += 1
            self._log.error(
                "the store does not answer as it should; what is in force stays in force",
                place=self.store.place,
                reason=str(error),
                remedy=error.remedy,
            )
            self._told(f"disconnected: {error}")
        self.connected_s = 0.0
        self.failure = str(error)
        self._failures += 1
        await asyncio.sleep(_pause_s(self._failures - 1))


def _pause_s(failures: int) -> float:
    """Return how long to wait after a failure that so many came before; never the same for two nodes of a fleet."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures, 16), LONGEST_PAUSE_S) * random.uniform(0.67, 1.33)  # noqa: S311
