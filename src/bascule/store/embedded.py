"""The embedded store: SQLite on this machine, with the semantics of etcd (store/interface.py).

Threads: one writes, one reads, the loop never touches the disk. Transactions that wait together go to the disk
together: the cost of fsync is that of a group. Watchers in this process are woken by the commit itself; what another
process commits is noticed within POLL_S (PRAGMA data_version). One process keeps the leases' time, the one that holds
a lock on `<path>-leases`; a heartbeat costs it no write.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from bascule.store.embedded_database import EXPIRED, LEFT, Database, lease_lost
from bascule.store.embedded_leases import Leases
from bascule.store.interface import (
    Batch,
    Kind,
    Reading,
    Record,
    RefusedError,
    StoreError,
    Transaction,
    UnavailableError,
)

POLL_S: Final = 0.25
IDLE_S: Final = 5.0
"""Longest silence of a watch."""
RECENT_MAX: Final = 2048
"""Revisions kept in memory for watchers; those further behind read the database."""
SLICE: Final = 512
"""Revisions that a watcher reads at once."""
TTL_MIN_MS: Final = 100
TTL_MAX_MS: Final = 30 * 24 * 3600 * 1000
COMPACT_EVERY: Final = 1000
COMPACT_SLICE: Final = 2000
_TICKS_PER_COMPACTION: Final = round(3600 / POLL_S)

T = TypeVar("T")


class EmbeddedStore:
    """See the module. Belongs to one event loop; the database is opened by the first call that needs it."""

    kind: Kind = "embedded"
    writable = True

    def __init__(self, path: str, *, history_revisions: int = 10_000, history_s: float = 30 * 86_400) -> None:
        """Keep what is asked for of history: at most so many revisions, at most so old."""
        self.place = os.path.abspath(path)
        self._history_revisions = history_revisions
        self._history_s = history_s
        self._database: Database | None = None
        self._opening: asyncio.Task[Database] | None = None
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self._queue: deque[tuple[Transaction, asyncio.Future[int]]] = deque()
        self._recent: deque[Batch] = deque(maxlen=RECENT_MAX)
        self._revision = 0
        self._collected = 0
        """Owner: the writing thread. What it has given to `_publish`."""
        self._watchers: set[asyncio.Event] = set()
        self._opened = 0
        """How often a database was opened: a watch of an earlier one ends."""
        self._leases = Leases()
        self._lock_file = -1
        self._data_version = 0
        self._ticker: asyncio.Task[None] | None = None
        self._until_compaction = COMPACT_EVERY
        self._closed = False

    # ---- opening

    async def _ready(self) -> Database:
        """Return the open database; the error of opening it, each time anew."""
        if self._closed:
            raise UnavailableError(f"{self.place} is closed here", "open the store again")
        if self._database is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)
            assert self._database is not None
        return self._database

    async def _open(self) -> Database:
        loop = asyncio.get_running_loop()

        def opened() -> tuple[Database, int, int]:
            database = Database(self.place, create=not self._opened)
            try:
                version = database.data_version()
                return database, database.read_revision(), version
            except BaseException:
                database.close()
                raise

        database, revision, self._data_version = await loop.run_in_executor(self._writer, opened)
        self._database, self._revision, self._collected = database, revision, revision
        self._recent.clear()
        self._opened += 1
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick_forever())
        return database

    async def _lose(self, database: Database) -> None:
        """Let go of a database whose file was replaced: the next call opens what is there now."""
        if self._database is database:
            self._database = None
            await asyncio.get_running_loop().run_in_executor(self._writer, database.close)
            self._wake()

    async def _write(self, function: Callable[[Database], T]) -> T:
        """Run on the writing thread, then tell watchers what it did."""
        database = await self._ready()
        loop = asyncio.get_running_loop()

        def run() -> T:
            try:
                return function(database)
            finally:
                self._collect(database, loop)

        return await loop.run_in_executor(self._writer, run)

    async def _read(self, function: Callable[[Database], T]) -> T:
        database = await self._ready()
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, database)

    # ---- reading

    async def read(self, at: int = 0) -> Reading:
        """See Store."""
        return await self._read(lambda database: database.read(at))

    async def history(self, limit: int = 100, before: int = 0) -> Sequence[Record]:
        """See Store."""
        return await self._read(lambda database: database.history(limit, before))

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        """See Store. In this process nothing is polled: the commit wakes the watcher."""
        database = await self._ready()
        opened, position = self._opened, after
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            if after > self._revision:  # a database restored from a backup says so at once
                yield Batch(database.identity, self._revision)
            while True:
                event.clear()
                if self._database is not database or opened != self._opened:
                    raise UnavailableError(f"{self.place} was replaced or closed", "read everything again, and watch")
                batches = self._remembered(position)
                if batches is None:
                    batches = await self._read(partial(Database.batches_after, after=position, limit=SLICE))
                for batch in batches:
                    position = batch.revision
                    yield batch
                if not batches:
                    try:
                        await asyncio.wait_for(event.wait(), IDLE_S)
                    except TimeoutError:
                        yield Batch(database.identity, self._revision)
        finally:
            self._watchers.discard(event)

    def _remembered(self, after: int) -> list[Batch] | None:
        """Return what came after a revision, None when memory does not reach back so far."""
        if after >= self._revision:
            return []
        if not self._recent or self._recent[0].revision > after + 1:
            return None
        return [self._recent[index] for index in range(after + 1 - self._recent[0].revision, len(self._recent))]

    # ---- writing

    async def commit(self, transaction: Transaction) -> int:
        """See Store."""
        database = await self._ready()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((transaction, future))
        self._writer.submit(self._commit_queued, database, loop)
        return await future

    def _commit_queued(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        """Carry out everything that waits, together; runs on the writing thread."""
        group = []
        with contextlib.suppress(IndexError):
            while True:
                group.append(self._queue.popleft())
        if not group:
            return
        results = _commit(database, [transaction for transaction, _ in group])
        self._collect(database, loop)
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(_answer, [future for _, future in group], results)

    def _collect(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        """Give the loop every revision that it has not been given; runs on the writing thread, after each commit."""
        with contextlib.suppress(StoreError, RuntimeError):
            while batches := database.batches_after(self._collected, SLICE, database.writer):
                self._collected = batches[-1].revision
                loop.call_soon_threadsafe(self._publish, database, batches)

    def _publish(self, database: Database, batches: list[Batch]) -> None:
        if database is not self._database:
            return
        self._recent.extend(batches)
        self._revision = batches[-1].revision
        self._until_compaction -= len(batches)
        self._wake()

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()

    # ---- leases

    async def grant(self, ttl_ms: int) -> int:
        """See Store."""
        if not TTL_MIN_MS <= ttl_ms <= TTL_MAX_MS:
            raise RefusedError(
                f"a lease of {ttl_ms} ms is outside {TTL_MIN_MS} to {TTL_MAX_MS}", "choose another time to live"
            )
        lease = secrets.randbits(52) + 1  # a JSON number in every language
        await self._write(lambda database: database.grant(lease, ttl_ms))
        self._leases.add(lease, ttl_ms)
        return lease

    async def keep_alive(self, lease: int) -> int:
        """See Store. Writes nothing in the process that keeps the leases' time."""
        await self._ready()
        if self._lock_file < 0:
            return await self._write(lambda database: database.renew(lease))
        ttl_ms = self._leases.renew(lease)
        if ttl_ms is None:
            raise lease_lost(lease)
        return ttl_ms

    async def revoke(self, lease: int) -> None:
        """See Store."""
        await self._write(lambda database: database.end_lease(lease, LEFT))
        self._leases.drop(lease)

    async def _keep_time(self, database: Database) -> None:
        """End the leases whose time is over."""
        if self._lock_file < 0:
            lock_file = _lock(self.place + "-leases")
            if lock_file < 0:
                return  # another process does it
            try:
                rows = await self._write(Database.leases)
            except BaseException:
                os.close(lock_file)
                raise
            self._lock_file = lock_file  # not before the leases are known: else they would be told that they have ended
            self._leases = Leases()
            self._leases.load(rows)
        for lease in self._leases.due():
            await self._write(partial(Database.end_lease, lease=lease, cause=EXPIRED))  # failing: the next tick's
            self._leases.drop(lease)

    # ---- from time to time

    async def _tick_forever(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(POLL_S)
            ticks += 1
            database = self._database
            if database is None:
                continue
            if not database.present():
                await self._lose(database)
                continue
            with contextlib.suppress(StoreError):
                await self._notice_others(database)
                await self._keep_time(database)
                if self._until_compaction <= 0 or ticks % _TICKS_PER_COMPACTION == 1:
                    await self._compact()

    async def _notice_others(self, database: Database) -> None:
        loop = asyncio.get_running_loop()
        version = await loop.run_in_executor(self._writer, database.data_version)
        if version != self._data_version:
            rows = await self._write(Database.leases)
            self._data_version = version
            self._leases.load(rows)

    async def _compact(self) -> None:
        keep, age_s = self._history_revisions, self._history_s
        forgotten = await self._write(lambda database: database.compact(keep, age_s, COMPACT_SLICE))
        if forgotten < COMPACT_SLICE:
            self._until_compaction = COMPACT_EVERY

    async def close(self) -> None:
        """See Store. What was begun is finished first."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        loop = asyncio.get_running_loop()
        database, self._database = self._database, None
        if database is not None:
            await loop.run_in_executor(self._writer, database.close)
        self._writer.shutdown(wait=False)
        self._reader.shutdown(wait=False)
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1
        self._wake()


def _commit(database: Database, group: list[Transaction]) -> Sequence[int | Exception]:
    try:
        return database.commit(group)
    except Exception as error:  # whatever it is, somebody waits for an answer, and others beside him
        if len(group) == 1:
            return [error]
    return [_commit(database, [transaction])[0] for transaction in group]  # one of them may be too much for the disk


def _answer(futures: list[asyncio.Future[int]], results: Sequence[int | Exception]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue  # its caller was cancelled
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def _lock(path: str) -> int:
    """Return a descriptor that holds the lock, -1 when another process has it.

    Not on the database itself: closing any descriptor of that file would drop SQLite's own locks (fcntl(2)).
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor
