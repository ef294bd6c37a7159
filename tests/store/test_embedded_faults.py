"""What a database on disk goes through: killed processes, damage, a full disk, restores, and restarts of leases."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace

import pytest

from bascule.store import embedded
from bascule.store.embedded import EmbeddedStore
from bascule.store.embedded_database import Database
from bascule.store.embedded_leases import Leases
from bascule.store.interface import (
    Batch,
    CompactedError,
    Put,
    RefusedError,
    Remove,
    StoreError,
    Transaction,
    UnavailableError,
)

COMMITTER = """
import asyncio, sys
from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Put, Transaction

async def commit(store, number):
    puts = tuple(Put(f"backends/b{number}/servers/s{part}", b"%d" % number) for part in range(5))
    revision = await store.commit(Transaction(puts))
    print(number, revision, flush=True)

async def main():
    store = EmbeddedStore(sys.argv[1])
    number = int(sys.argv[2])
    while True:
        await asyncio.gather(*(commit(store, number + offset) for offset in range(4)))
        number += 4

asyncio.run(main())
"""


def run(path: Path, test: Callable[[EmbeddedStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = EmbeddedStore(str(path))
        try:
            await asyncio.wait_for(test(store), 60)
        finally:
            await store.close()

    asyncio.run(main())


def put(key: str, value: bytes = b"{}", lease: int = 0) -> Transaction:
    return Transaction((Put(key, value, lease),))


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


def make(path: Path) -> None:
    async def test(store: EmbeddedStore) -> None:
        await store.commit(put("backends/app"))

    run(path, test)


def test_a_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A process that commits without pause is killed eight times, at different moments of a commit."""
    path = tmp_path / "store.sqlite"
    acknowledged: dict[int, int] = {}
    for attempt in range(8):
        command = [sys.executable, "-c", COMMITTER, str(path), str(attempt * 100_000)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(0.01 + 0.011 * attempt)
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines(keepends=True)]
        child.wait()
        acknowledged.update(tuple(map(int, line.split())) for line in lines if line.endswith("\n"))  # type: ignore[misc]
    assert len(acknowledged) >= 8

    async def test(store: EmbeddedStore) -> None:
        reading = await store.read()
        for number, revision in acknowledged.items():
            for part in range(5):
                entry = reading.entries[f"backends/b{number}/servers/s{part}"]
                assert (entry.value, entry.modified) == (b"%d" % number, revision)
        whole: dict[str, int] = {}
        for key in reading.entries:
            whole[key.split("/")[1]] = whole.get(key.split("/")[1], 0) + 1
        assert set(whole.values()) == {5}, "a transaction is there in part"
        assert reading.revision == max(entry.modified for entry in reading.entries.values())

    run(path, test)


def test_a_damaged_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database, " * 512)
    damaged = path.read_bytes()

    async def test(store: EmbeddedStore) -> None:
        for _ in range(2):
            with pytest.raises(RefusedError, match="damaged") as caught:
                await store.read()
            assert "backup" in caught.value.remedy
        with pytest.raises(RefusedError):
            await store.commit(put("backends/app"))

    run(path, test)
    assert path.read_bytes() == damaged


def test_a_damaged_page_is_an_error_not_an_empty_reading(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    async def fill(store: EmbeddedStore) -> None:
        await store.commit(Transaction(tuple(Put(f"backends/b{number}", b"x" * 200) for number in range(500))))

    run(path, fill)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)

    async def test(store: EmbeddedStore) -> None:
        with pytest.raises(RefusedError, match="damaged"):
            await store.read()

    run(path, test)


@pytest.mark.parametrize("case", ["empty", "other", "newer", "log without database", "no permission"])
def test_what_cannot_be_used_is_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    path = tmp_path / "store.sqlite"
    if case == "empty":
        path.touch()
    elif case == "other":
        sqlite3.connect(path).execute("CREATE TABLE t (x)")
    elif case == "newer":
        make(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    elif case == "log without database":
        (tmp_path / "store.sqlite-wal").write_bytes(b"frames")
    else:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "store.sqlite"  # root may write anywhere, but not below a file
    before = path.read_bytes() if path.exists() else None

    async def test(store: EmbeddedStore) -> None:
        with pytest.raises(RefusedError) as caught:
            await store.read()
        assert caught.value.remedy

    if case == "no permission":
        with pytest.raises(NotADirectoryError):
            os.stat(path)
    run(path, test)
    assert (path.read_bytes() if before is not None else None) == before


async def fill(store: EmbeddedStore) -> None:
    for number in range(50):
        await store.commit(put(f"backends/b{number}", b"x" * 4000))


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    async def test(store: EmbeddedStore) -> None:
        first = await store.commit(put("backends/app"))
        assert store._database is not None
        writer = store._database.writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(RefusedError, match="disk is full") as caught:
            await fill(store)
        assert "df" in caught.value.remedy
        full = await store.read()
        results = await asyncio.gather(
            store.commit(put("backends/large", b"x" * 100_000)),
            store.commit(put("backends/app")),
            return_exceptions=True,
        )
        assert isinstance(results[0], RefusedError), "one that does not fit must not take the others with it"
        assert isinstance(results[1], (int, RefusedError))
        writer.execute("PRAGMA max_page_count = 1000000")
        revision = await store.commit(put("backends/large", b"x" * 100_000))
        assert revision > full.revision >= first
        assert set((await store.read()).entries) == {*full.entries, "backends/large"}

    run(path, test)


def test_a_restored_backup_is_noticed(tmp_path: Path) -> None:
    """Another file at the path: watches end, and what is read is what was restored."""
    path = tmp_path / "store.sqlite"
    make(path)
    shutil.copy(path, tmp_path / "backup")

    async def test(store: EmbeddedStore) -> None:
        for number in range(3):
            await store.commit(put(f"backends/b{number}"))
        reading = await store.read()
        async with aclosing(store.watch(reading.revision)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            for suffix in ("-wal", "-shm"):
                os.unlink(f"{path}{suffix}")
            os.rename(tmp_path / "backup", path)
            with pytest.raises(UnavailableError):
                await asyncio.wait_for(waiting, 20)
        restored = await store.read()
        assert restored.identity == reading.identity
        assert restored.revision < reading.revision
        assert set(restored.entries) == {"backends/app"}
        async with aclosing(store.watch(reading.revision)) as watch:
            assert await asyncio.wait_for(anext(watch), 20) == Batch(restored.identity, restored.revision)
        assert await store.commit(put("backends/new")) == restored.revision + 1

    run(path, test)


def test_a_commit_into_a_replaced_file_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    async def test(store: EmbeddedStore) -> None:
        await store.commit(put("backends/app"))
        os.rename(path, tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.commit(put("backends/lost"))
            await asyncio.sleep(2 * embedded.POLL_S)
        assert not path.exists(), "a lost database must not be made anew, empty"
        os.rename(tmp_path / "elsewhere", path)
        assert set((await store.read()).entries) == {"backends/app"}

    run(path, test)


def test_a_restart_gives_leases_their_full_time_again(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    granted: list[int] = []

    async def before(store: EmbeddedStore) -> None:
        granted.append(await store.grant(1500))
        await store.commit(put("backends/app/servers/a", lease=granted[0]))

    async def after(store: EmbeddedStore) -> None:
        (lease,) = granted
        revision = (await store.read()).revision
        assert "backends/app/servers/a" in (await store.read()).entries
        began_s = time.monotonic()
        async with aclosing(store.watch(revision)) as watch:
            async for batch in watch:
                if batch.events:
                    break
        assert time.monotonic() - began_s > 1.2, "it vanished because we were away"
        assert batch.events[0].expired
        with pytest.raises(StoreError):
            await store.keep_alive(lease)

    run(path, before)
    time.sleep(2)
    run(path, after)


def test_leases_are_known_before_their_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is locked for a moment at the start must not make every lease one that nobody knows."""
    path = tmp_path / "store.sqlite"
    leases: list[int] = []

    async def granted(store: EmbeddedStore) -> None:
        leases.append(await store.grant(60_000))
        leases.append(await store.grant(500))
        await store.commit(put("backends/kept", lease=leases[0]))
        await store.commit(put("backends/gone", lease=leases[1]))

    run(path, granted)
    failures = 3

    def locked(database: Database) -> list[tuple[int, int, int]]:
        nonlocal failures
        if failures:
            failures -= 1
            raise UnavailableError("locked")
        return known(database)

    known = Database.leases
    monkeypatch.setattr(Database, "leases", locked)

    async def found(store: EmbeddedStore) -> None:
        assert await store.keep_alive(leases[0]) == 60_000
        while "backends/gone" in (await store.read()).entries:
            await asyncio.sleep(0.05)
        assert not failures
        assert await store.keep_alive(leases[0]) == 60_000
        assert set((await store.read()).entries) == {"backends/kept"}

    run(path, found)


def test_time_in_which_we_did_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("bascule.store.embedded_leases.time", SimpleNamespace(monotonic=lambda: now[0]))
    leases = Leases()
    leases.add(1, 5000)
    for _ in range(16):
        now[0] += 0.25
        assert leases.due() == []
    now[0] += 600  # stopped, or suspended
    assert leases.due() == []
    now[0] += 0.9
    assert leases.due() == []
    now[0] += 0.2
    assert leases.due() == [1]


def test_heartbeats_are_heard_by_the_process_that_keeps_time(tmp_path: Path) -> None:
    """Two stores on one file, as two generations of the program are: the second one's heartbeats keep the lease."""
    path = tmp_path / "store.sqlite"

    async def test(first: EmbeddedStore) -> None:
        lease = await first.grant(2000)
        await first.commit(put("backends/app/servers/a", lease=lease))
        await wait_for(lambda: _holds_time(first))
        second = EmbeddedStore(str(path))
        for _ in range(10):
            await second.keep_alive(lease)
            await asyncio.sleep(0.3)
        assert "backends/app/servers/a" in (await first.read()).entries
        await first.close()
        await wait_for(lambda: _holds_time(second))
        await wait_for(lambda: _gone(second, "backends/app/servers/a"))
        await second.close()

    run(path, test)


async def _holds_time(store: EmbeddedStore) -> bool:
    await store.read()
    return store._lock_file >= 0


async def _gone(store: EmbeddedStore, key: str) -> bool:
    return key not in (await store.read()).entries


def test_old_revisions_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "COMPACT_EVERY", 20)
    path = tmp_path / "store.sqlite"

    async def main() -> None:
        store = EmbeddedStore(str(path), history_revisions=50)
        first = await store.commit(put("backends/app"))
        for number in range(200):
            await store.commit(put("backends/app", b"%d" % number))

        async def compacted() -> bool:
            try:
                await store.read(first)
            except CompactedError as error:
                return error.oldest > 100
            return False

        await wait_for(compacted)
        reading = await store.read()
        assert reading.entries["backends/app"].value == b"199"
        assert reading.entries["backends/app"].created == first
        assert (await store.read(reading.revision - 40)).entries["backends/app"].value == b"159"
        assert 40 <= len(await store.history(1000)) <= 75
        await store.close()

    asyncio.run(main())


def test_a_slow_watcher_reads_what_memory_forgot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "RECENT_MAX", 8)

    async def test(store: EmbeddedStore) -> None:
        first = await store.commit(put("backends/app"))
        seen = []
        async with aclosing(store.watch(first)) as watch:
            for number in range(100):
                await store.commit(put("backends/app", b"%d" % number))
            async for batch in watch:
                seen += [json.loads(event.entry.value) for event in batch.events if event.entry]
                if len(seen) == 100:
                    break
        assert seen == list(range(100))

    run(tmp_path / "store.sqlite", test)


def test_an_error_nobody_thought_of_is_answered_and_hits_nobody_else(tmp_path: Path) -> None:
    async def test(store: EmbeddedStore) -> None:
        unknown = Transaction((Put("backends/wrong", b"{}"),), author=object())  # type: ignore[arg-type]
        wanted = [put("backends/before"), unknown, put("backends/after")]
        before, wrong, after = await asyncio.gather(*map(store.commit, wanted), return_exceptions=True)
        assert isinstance(wrong, Exception)
        assert isinstance(before, int)
        assert isinstance(after, int)
        assert set((await store.read()).entries) == {"backends/before", "backends/after"}

    run(tmp_path / "store.sqlite", test)


def test_transactions_that_wait_together_are_written_together(tmp_path: Path) -> None:
    async def test(store: EmbeddedStore) -> None:
        revisions = await asyncio.gather(*(store.commit(put(f"backends/b{number}")) for number in range(500)))
        assert revisions == sorted(set(revisions))
        await store.commit(Transaction((Remove("backends/b1"),)))
        assert len((await store.read()).entries) == 499

    run(tmp_path / "store.sqlite", test)
