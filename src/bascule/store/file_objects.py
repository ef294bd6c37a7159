"""The file store as a store of objects: read only, one revision a changed file (store/interface.py).

The file says what there is, so there is no past: a revision that is gone cannot be read or watched from. Revisions are
the milliseconds of the clock, or one more than the last: they grow across restarts with nothing written anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import msgspec

from bascule.model.keys import format_key
from bascule.model.problems import Problem
from bascule.model.tree import Record as TreeRecord
from bascule.model.tree import Settings, Tree
from bascule.store.file import FileWatcher, Loaded, Unloadable, load
from bascule.store.interface import (
    Batch,
    CompactedError,
    Entry,
    Event,
    Kind,
    Reading,
    ReadOnlyError,
    Record,
    RefusedError,
    Transaction,
    UnavailableError,
)

IDLE_S: Final = 5.0
BEHIND_MAX: Final = 100
"""Revisions that wait for a watcher; one that is further behind has to read again."""


class InvalidFileError(RefusedError):
    """The file is not in order; `problems` has everything that is wrong, each with its line."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        """See the class."""
        super().__init__(
            f"{file} is not in order: {problems[0]}", f"correct it; bascule check -c {file} lists everything"
        )
        self.problems = tuple(problems)


class _Watcher:
    """One watch: what it has yet to yield, and the event that wakes it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.batches: deque[Batch] = deque()


class FileStore:
    """See the module. Belongs to one event loop."""

    kind: Kind = "file"
    writable = False

    def __init__(self, path: str, *, poll_interval_s: float = 1.0, follow: bool = True) -> None:
        """Without `follow`, the file is looked at only by `read` and `reload`."""
        self.place = os.path.abspath(path)
        self.loaded: Loaded | None = None
        """The content that `entries` come from, which knows the lines of its objects."""
        self._identity = f"file-{hashlib.blake2b(self.place.encode(), digest_size=8).hexdigest()}"
        self._watcher = FileWatcher(self.place, b"", interval_s=poll_interval_s)
        self._interval_s = poll_interval_s
        self._follow = follow
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._watchers: set[_Watcher] = set()
        self._loading = asyncio.Lock()
        self._closed = False

    async def read(self, at: int = 0) -> Reading:
        """See Store."""
        await self.reload()
        if at and at != self._revision:
            raise CompactedError(self._revision)
        return Reading(self._identity, self._revision, dict(self._entries))

    async def reload(self) -> int:
        """Look at the file now and return the revision; UnavailableError, InvalidFileError."""
        if self._closed:
            raise UnavailableError(f"{self.place} is closed here", "open the store again")
        async with self._loading:
            if await asyncio.to_thread(self._changed):
                self._take(await self._load())
            return self._revision

    def _changed(self) -> bool:
        if not os.path.exists(self.place):
            raise UnavailableError(f"{self.place} is not there", "put it back; what it said last stays in force")
        return self._watcher.changed() is not None or self.loaded is None

    async def _load(self) -> Loaded:
        try:
            return await asyncio.to_thread(load, self.place)
        except Unloadable as error:
            self._watcher.seen(b"")  # the same again is still wrong
            raise InvalidFileError(self.place, error.problems) from None

    def _take(self, loaded: Loaded) -> None:
        """Make a revision of a content; one that says the same makes none."""
        self.loaded = loaded
        values = dict(tree_objects(loaded.tree))
        old = self._entries
        put = [key for key, value in values.items() if key not in old or old[key].value != value]
        removed = [key for key in old if key not in values]
        if not put and not removed and self._revision:
            return
        self._revision = max(self._revision + 1, int(time.time() * 1000))
        for key in removed:
            del old[key]
        for key in put:
            created = old[key].created if key in old else self._revision
            old[key] = Entry(key, values[key], created, self._revision)
        events = tuple(Event(key, old.get(key)) for key in (*put, *removed))
        batch = Batch(self._identity, self._revision, events)
        for watcher in self._watchers:
            watcher.batches.append(batch)
            watcher.event.set()

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        """See Store. An invalid file ends it with InvalidFileError, a missing one with UnavailableError."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        silent_s = 0.0
        try:
            if after < self._revision or not self._revision:
                raise CompactedError(self._revision)
            if after > self._revision:
                yield Batch(self._identity, self._revision)
            while True:
                while watcher.batches:
                    if len(watcher.batches) > BEHIND_MAX:
                        raise CompactedError(self._revision)
                    silent_s = 0.0
                    yield watcher.batches.popleft()
                watcher.event.clear()
                pause_s = min(self._interval_s, IDLE_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watcher.event.wait(), pause_s)
                if not watcher.batches and self._follow:
                    await self.reload()
                silent_s += pause_s
                if silent_s >= IDLE_S and not watcher.batches:
                    silent_s = 0.0
                    yield Batch(self._identity, self._revision)
        finally:
            self._watchers.discard(watcher)

    async def history(self, limit: int = 100, before: int = 0) -> Sequence[Record]:
        """See Store. A file has none."""
        return ()

    async def commit(self, transaction: Transaction) -> int:
        """See Store."""
        raise self._read_only()

    async def grant(self, ttl_ms: int) -> int:
        """See Store."""
        raise self._read_only()

    async def keep_alive(self, lease: int) -> int:
        """See Store."""
        raise self._read_only()

    async def revoke(self, lease: int) -> None:
        """See Store."""
        raise self._read_only()

    def _read_only(self) -> ReadOnlyError:
        return ReadOnlyError(
            f"the configuration is the file {self.place}",
            'edit the file; or run with --store embedded (or [store] type = "embedded") to change it through the API',
        )

    async def close(self) -> None:
        """See Store."""
        self._closed = True
        for watcher in self._watchers:
            watcher.event.set()


_ENCODE: Final = msgspec.json.Encoder().encode


def tree_objects(tree: Tree) -> Iterator[tuple[str, bytes]]:
    """Yield every object of a tree as a store holds it: key and JSON. Settings at their defaults are no object."""
    if tree.settings != Settings():
        yield "settings", _ENCODE(tree.settings)
    plain: tuple[tuple[str, dict[str, TreeRecord]], ...] = (("listener", {**tree.listeners}), ("host", {**tree.hosts}))
    for kind, records in plain:
        for name, record in records.items():
            yield format_key(kind, name), _ENCODE(record)
    for name, backend in tree.backends.items():
        yield format_key("backend", name), _ENCODE(msgspec.structs.replace(backend, servers={}))
        for child, server in backend.servers.items():
            yield format_key("server", child, name), _ENCODE(server)
    for name, frontend in tree.frontends.items():
        yield format_key("frontend", name), _ENCODE(msgspec.structs.replace(frontend, middlewares={}))
        for child, middleware in frontend.middlewares.items():
            yield format_key("middleware", child, name), _ENCODE(middleware)
