"""The promise of `store/interface.py` as tests: one suite that every store passes.

A store's test file has a `Harness` (how to start the store, how somebody else writes to it, what it can do) and

    class TestMine(WritableAcceptance):  # or ReadOnlyAcceptance
        harness_type = MyHarness

`write` always is somebody else's: `etcdctl`, an editor, another process. Keys and values are of real objects, because
the file and vulcand stores translate them; where a value is compared, only its fields are.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bascule.store.interface import (
    Batch,
    CompactedError,
    Entry,
    Put,
    ReadOnlyError,
    Remove,
    Store,
    Transaction,
)

DEADLINE_S = 20.0
SILENCE_S = 10.0
"""A watch is never silent for longer."""


class Harness(ABC):
    """One running store, and somebody else who writes to it. One object serves all tests of a class.

    writable: as the store says. past: it can be read, and watched from, at revisions
    that are gone. lease_ms: the shortest lease that it gives.
    """

    writable: ClassVar[bool] = True
    past: ClassVar[bool] = True
    lease_ms: ClassVar[int] = 1000

    def __init__(self, folder: Path) -> None:
        """Start what is needed; `folder` is this harness's own."""
        self.folder = folder

    @abstractmethod
    def fresh(self) -> None:
        """Begin anew with an empty store (another prefix, say)."""

    @abstractmethod
    def open(self) -> Store:
        """Return another connection to the present store; called with a running loop."""

    @abstractmethod
    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        """Put and remove keys as somebody else, without the program's help; blocks until it is done."""

    def compact(self) -> None:
        """Make the store forget every revision but the present one (only with `past`)."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop what was started."""
        return


class Session:
    """What a test has in hand: a harness and an open store."""

    def __init__(self, harness: Harness, store: Store) -> None:
        self.harness = harness
        self.store = store

    async def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        await asyncio.to_thread(self.harness.write, puts, removes)

    async def put(self, key: str, value: object = None, **more: Any) -> int:
        return await self.store.commit(Transaction((Put(key, encoded(value), more.pop("lease", 0)),), **more))


def run(harness: Harness, test: Callable[[Session], Awaitable[None]]) -> None:
    """Run one test on a fresh store with its own loop."""
    harness.fresh()

    async def main() -> None:
        async with opened(harness) as session:
            await asyncio.wait_for(test(session), 60)

    asyncio.run(main())


@asynccontextmanager
async def opened(harness: Harness) -> AsyncIterator[Session]:
    store = harness.open()
    try:
        yield Session(harness, store)
    finally:
        await store.close()


def encoded(value: object) -> bytes:
    return json.dumps({} if value is None else value).encode()


def server(port: int) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{port}"}


def url(entry: Entry | None) -> str:
    assert entry is not None
    return str(json.loads(entry.value)["url"])


async def gather_until(store: Store, after: int, done: Callable[[list[Batch]], bool]) -> list[Batch]:
    """Return the batches after a revision up to the one that makes `done` true, without those that only say so."""
    batches: list[Batch] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(store.watch(after)) as watch:  # type: ignore[type-var]
        async for batch in watch:
            if batch.events:
                batches.append(batch)
                if done(batches):
                    return batches
    raise AssertionError("a watch ended by itself")


def touched(batches: Sequence[Batch], key: str) -> bool:
    return any(event.key == key for batch in batches for event in batch.events)


A1, A2 = "backends/app/servers/a1", "backends/app/servers/a2"


class Acceptance:
    """What every store does."""

    harness_type: ClassVar[type[Harness]]

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
        harness = cls.harness_type(tmp_path_factory.mktemp("store"))
        yield harness
        harness.stop()

    # ---- reading

    def test_empty_is_a_reading(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            reading = await session.store.read()
            assert dict(reading.entries) == {}
            assert reading.identity
            assert reading.revision >= 0
            assert session.store.place
            assert session.store.writable == harness.writable

        run(harness, test)

    def test_what_others_wrote_is_read(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1), A2: server(2)})
            reading = await session.store.read()
            assert set(reading.entries) == {"backends/app", A1, A2}
            assert url(reading.entries[A1]) == "http://127.0.0.1:1"
            for key, entry in reading.entries.items():
                assert entry.key == key
                assert 0 < entry.created <= entry.modified <= reading.revision

        run(harness, test)

    def test_another_connection_is_the_same_store(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            reading = await session.store.read()
            async with opened(harness) as other:
                again = await other.store.read()
            assert again.identity == reading.identity
            assert again.revision >= reading.revision or not harness.past
            assert set(again.entries) == set(reading.entries)

        run(harness, test)

    def test_revisions_grow(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            first = await session.store.read()
            await session.write({A1: server(2)})
            second = await session.store.read()
            assert second.revision > first.revision
            assert second.entries[A1].modified > first.entries[A1].modified
            assert second.entries[A1].created == first.entries[A1].created
            assert second.entries["backends/app"].modified == first.entries["backends/app"].modified

        run(harness, test)

    def test_past_is_read(self, harness: Harness) -> None:
        if not harness.past:
            pytest.skip("this store keeps no past")

        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            first = await session.store.read()
            await session.write({A1: server(2), A2: server(3)})
            await session.write({}, [A2, "backends/app"])
            assert set((await session.store.read()).entries) == {A1}
            past = await session.store.read(first.revision)
            assert past.revision == first.revision
            assert dict(past.entries) == dict(first.entries)

        run(harness, test)

    # ---- watching

    def test_a_watch_sees_others(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            reading = await session.store.read()
            watching = asyncio.create_task(
                gather_until(session.store, reading.revision, lambda batches: touched(batches, A2))
            )
            await session.write({A1: server(2)})
            await session.write({A2: server(3)})
            batches = await watching
            revisions = [batch.revision for batch in batches]
            assert revisions == sorted(set(revisions))
            assert revisions[0] > reading.revision
            events = [event for batch in batches for event in batch.events]
            assert events[-1].key == A2
            assert url(events[-1].entry) == "http://127.0.0.1:3"
            assert events[-1].entry is not None
            assert events[-1].entry.modified == batches[-1].revision
            assert {batch.identity for batch in batches} == {reading.identity}

        run(harness, test)

    def test_a_removal_is_an_event(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1), A2: server(2)})
            reading = await session.store.read()
            watching = asyncio.create_task(
                gather_until(session.store, reading.revision, lambda batches: touched(batches, A1))
            )
            await session.write({}, [A1])
            last = (await watching)[-1]
            assert [(event.key, event.entry, event.expired) for event in last.events] == [(A1, None, False)]
            assert set((await session.store.read()).entries) == {"backends/app", A2}

        run(harness, test)

    def test_reading_and_watching_make_the_present(self, harness: Harness) -> None:
        """What a master does: a reading, and every event after it, is what a later reading says."""

        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            reading = await session.store.read()
            state = {key: entry.value for key, entry in reading.entries.items()}
            watching = asyncio.create_task(
                gather_until(session.store, reading.revision, lambda batches: touched(batches, "backends/end"))
            )
            for number in range(5):
                await session.write({A1: server(10 + number), f"backends/b{number}": {}}, [A2] if number % 2 else [])
                await session.write({A2: server(20 + number)}, [f"backends/b{number - 1}"] if number else [])
            await session.write({"backends/end": {}})
            for batch in await watching:
                for event in batch.events:
                    if event.entry is None:
                        state.pop(event.key, None)
                    else:
                        state[event.key] = event.entry.value
            assert state == {key: entry.value for key, entry in (await session.store.read()).entries.items()}

        run(harness, test)

    def test_a_watch_from_the_past_catches_up(self, harness: Harness) -> None:
        if not harness.past:
            pytest.skip("this store keeps no past")

        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            reading = await session.store.read()
            for number in range(1, 4):
                await session.write({A1: server(number)})
            async with opened(harness) as other:
                batches = await gather_until(other.store, reading.revision, lambda batches: len(batches) == 3)
            urls = [url(event.entry) for batch in batches for event in batch.events]
            assert urls == [f"http://127.0.0.1:{number}" for number in range(1, 4)]

        run(harness, test)

    def test_two_watches_see_the_same(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            revision = (await session.store.read()).revision
            watches = [
                asyncio.create_task(gather_until(session.store, revision, lambda batches: touched(batches, A2)))
                for _ in range(2)
            ]
            await session.write({A1: server(1)})
            await session.write({A2: server(2)})
            first, second = await asyncio.gather(*watches)
            assert first == second

        run(harness, test)

    def test_a_cancelled_watch_harms_nothing(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            revision = (await session.store.read()).revision
            task = asyncio.create_task(gather_until(session.store, revision, lambda batches: False))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            watching = asyncio.create_task(gather_until(session.store, revision, lambda batches: touched(batches, A1)))
            await session.write({A1: server(1)})
            assert touched(await watching, A1)

        run(harness, test)

    def test_a_watch_is_never_silent(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            reading = await session.store.read()
            async with asyncio.timeout(SILENCE_S + 5), aclosing(session.store.watch(reading.revision)) as watch:  # type: ignore[type-var]
                async for batch in watch:
                    assert batch.identity == reading.identity
                    assert batch.revision >= reading.revision
                    return

        run(harness, test)

    def test_a_gap_is_an_error(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            old = (await session.store.read()).revision
            for number in range(3):
                await session.write({A1: server(number + 1)})
                await session.store.read()
            if harness.past:
                await asyncio.to_thread(harness.compact)
            async with opened(harness) as other:  # the first may well remember what it has seen
                store = other.store if harness.past else session.store
                with pytest.raises(CompactedError) as caught:
                    await gather_until(store, old, lambda batches: False)
                assert caught.value.remedy
                with pytest.raises(CompactedError):
                    await store.read(old)
                assert A1 in (await store.read()).entries

        run(harness, test)


class ReadOnlyAcceptance(Acceptance):
    """For stores that are changed by other means."""

    def test_read_only(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: store.commit(Transaction((Put("backends/app", b"{}"),))),
                lambda: store.commit(Transaction((Remove("backends/app"),))),
                lambda: store.grant(1000),
                lambda: store.keep_alive(1),
                lambda: store.revoke(1),
            ]
            for call in calls:
                with pytest.raises(ReadOnlyError) as caught:
                    await call()
                assert caught.value.remedy
            assert isinstance(await store.history(), Sequence)

        run(harness, test)
