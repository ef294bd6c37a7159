"""A reader of a store that never gives up: what a watch gave, and what went wrong on the way."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from bascule.store.interface import Batch, CompactedError, Entry, Store, StoreError

DEADLINE_S = 30.0


class Follower:
    """Reads once, then watches, again after every error, and reads again only when a gap is reported. A context."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.batches: list[Batch] = []
        self.errors: list[StoreError] = []
        self.error_times: list[float] = []
        self.entries: dict[str, Entry] = {}
        """What the store held, as told by the first reading and the events."""
        self.revision = 0
        self.identity = ""
        self.readings = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def changes(self) -> list[Batch]:
        """The batches that changed something."""
        return [batch for batch in self.batches if batch.events]

    async def read(self) -> None:
        """Begin anew with what is there."""
        reading = await self.store.read()
        self.readings += 1
        self.entries, self.revision, self.identity = dict(reading.entries), reading.revision, reading.identity

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self.store.watch(self.revision):
                    self._take(batch)
            except CompactedError as error:
                self._failed(error)
                while True:
                    try:
                        await self.read()
                        break
                    except StoreError as failure:
                        self._failed(failure)
                        await asyncio.sleep(0.1)
            except StoreError as error:
                self._failed(error)

    def _failed(self, error: StoreError) -> None:
        self.errors.append(error)
        self.error_times.append(time.monotonic())

    def _take(self, batch: Batch) -> None:
        self.batches.append(batch)
        if batch.revision < self.revision or batch.identity != self.identity:
            return
        self.revision = batch.revision
        for event in batch.events:
            if event.entry is None:
                self.entries.pop(event.key, None)
            else:
                self.entries[event.key] = event.entry

    async def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert self._task is not None
            if self._task.done():
                self._task.result()
            if time.monotonic() > end:
                raise AssertionError(f"not within {deadline_s:g} s: {what}; {self.errors[-3:]} {self.batches[-3:]}")
            await asyncio.sleep(0.01)

    async def until_entry(self, key: str, value: bytes) -> None:
        """Wait until an entry has a value."""
        await self.until(lambda: key in self.entries and self.entries[key].value == value, f"{key} is {value!r}")

    async def __aenter__(self) -> "Follower":
        await self.read()
        self._task = asyncio.get_running_loop().create_task(self._follow())
        await self.until(lambda: self.batches, "the watch has begun")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        while not self._task.done():  # asyncio.wait_for of Python 3.11 may lose a cancellation to an answer
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=2.0)
        if not self._task.cancelled():
            self._task.result()
