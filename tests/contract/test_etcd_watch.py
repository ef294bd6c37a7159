"""The watch: where it goes on, what it may believe, what it costs, and who left or vanished."""

import asyncio
import contextlib
from typing import Any

import pytest

from bascule.store.etcd import pace, reader
from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Batch, Put, RefusedError, Remove, Transaction
from kit.etcd import Etcd
from kit.following import Follower


def test_progress_is_not_believed_before_the_events_it_speaks_of(
    shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd before 3.4.25 and 3.5.8 answers a progress request with its newest revision while a watch still catches up
    (etcd issue 15220): who went on from there after a broken connection would miss what had not come yet."""
    writes = 1500

    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/progress"))
        first = (await store.read()).revision
        for begin in range(0, writes, 100):
            pending = [store.commit(Transaction((Put(f"backends/b{begin + n}", b"x" * 1000),))) for n in range(100)]
            await asyncio.gather(*pending)
        # Ask for progress all the time while the watch catches up.
        monkeypatch.setattr(reader, "TICK_S", 0.0005)
        monkeypatch.setattr(reader, "TICKS_MAX", 100_000)
        monkeypatch.setattr(reader, "ALIVE_S", 0.0)
        seen: set[str] = set()
        complete = first
        async for batch in store.watch(first):
            assert batch.revision >= complete
            complete = batch.revision
            seen.update(event.key for event in batch.events)
            if not batch.events:
                # What a batch says is complete has come.
                past = await store.read(at=batch.revision) if batch.revision > first else None
                assert past is None or set(past.entries) <= seen
            if len(seen) == writes:
                break
        await store.close()

    asyncio.run(go())


def test_steady_state_is_one_watch_and_no_read_and_never_silent(shared_etcd: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/steady"))
        async with Follower(store) as follower:
            await store.commit(Transaction((Put("backends/a", b"1"),)))
            await follower.until_entry("backends/a", b"1")
            before = dict(store.client.calls)
            for value in range(20):
                shared_etcd.put("/steady/backends/a", str(value))
            await follower.until_entry("backends/a", b"19")
            count = len(follower.batches)
            await follower.until(lambda: len(follower.batches) > count, "a sign of life", 10)
            assert follower.batches[-1] == Batch(follower.identity, follower.changes[-1].revision)
            assert store.client.calls == before
            assert before["Watch"] == 1
        await store.close()

    asyncio.run(go())


def test_twenty_nodes_cost_an_etcd_twenty_watches_and_no_read(server: Etcd) -> None:
    """By etcd's own counters. The signs of life are messages on streams that are open anyway."""

    def handled(method: str) -> float:
        name = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}"'
        return sum(value for key, value in server.metrics().items() if key.startswith(name))

    async def go() -> None:
        stores = [EtcdStore(server.options()) for _ in range(20)]
        async with contextlib.AsyncExitStack() as stack:
            followers = [await stack.enter_async_context(Follower(store)) for store in stores]
            before = server.metrics(), handled("Range")
            assert before[0]["etcd_debugging_mvcc_watcher_total"] == 20
            await asyncio.sleep(3)
            assert handled("Range") == before[1]
            server.put("/bascule/backends/a", "1")
            for follower in followers:
                await follower.until_entry("backends/a", b"1")
                assert follower.readings == 1
            assert handled("Range") == before[1]
            assert server.metrics()["etcd_debugging_mvcc_watcher_total"] == 20
        for store in stores:
            await store.close()

    asyncio.run(go())


def test_a_flood_of_revisions_comes_in_heaps_and_each_of_them_once(
    shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message costs the same, whatever is in it. A watch that is left for a moment is told the past in one."""
    monkeypatch.setattr(pace, "MESSAGES", 3)

    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/flood"))
        first = (await store.read()).revision
        found: list[Batch] = []

        async def watch() -> None:
            async for batch in store.watch(first):
                found.append(batch)

        watching = asyncio.create_task(watch())
        written = 0
        deadline_s = asyncio.get_running_loop().time() + 30
        while sum(batch.revisions > 1 for batch in found) < 3 and asyncio.get_running_loop().time() < deadline_s:
            puts = [store.commit(Transaction((Put(f"backends/b{written + n}", b"1"),))) for n in range(20)]
            await asyncio.gather(*puts)
            written += 20
        last = await store.commit(Transaction((Put("backends/last", b"1"),)))
        while not found or found[-1].revision < last:
            assert asyncio.get_running_loop().time() < deadline_s, found
            await asyncio.sleep(0.02)
        assert sum(batch.revisions > 1 for batch in found) >= 3
        keys = [event.key for batch in found for event in batch.events]
        assert sorted(keys) == sorted([*(f"backends/b{n}" for n in range(written)), "backends/last"])
        revisions = [batch.revision for batch in found]
        assert revisions == sorted(revisions)
        assert store.client.calls["Watch"] == 1
        watching.cancel()
        await store.close()

    asyncio.run(go())


def events_of(follower: Follower, key: str) -> list[tuple[bool, bool]]:
    """Return, for each event of a key, whether it removed it and whether it vanished."""
    return [
        (event.entry is None, event.expired) for batch in follower.batches for event in batch.events if event.key == key
    ]


@pytest.mark.parametrize(
    ("how", "vanished"),
    [
        ("expiry", True),
        ("our revoke", False),
        ("our removal", False),
        ("etcdctl del", False),
        # etcd says the same of a revoked lease as of one that ended: what cannot be told is taken for the worse.
        ("etcdctl lease revoke", True),
    ],
)
def test_left_and_vanished(shared_etcd: Etcd, how: str, vanished: bool) -> None:
    prefix = f"/left-{how.replace(' ', '-')}"
    key = "backends/a/servers/1"

    async def go() -> None:
        store, other = (EtcdStore(shared_etcd.options(prefix)) for _ in range(2))
        async with Follower(store) as follower:
            lease = await other.grant(1000 if how == "expiry" else 60_000)
            await other.commit(Transaction((Put(key, b"{}", lease), Put("backends/a/servers/2", b"{}"))))
            if how == "our revoke":
                await other.revoke(lease)
            elif how == "our removal":
                await other.commit(Transaction((Remove(key),)))
            elif how == "etcdctl del":
                shared_etcd.delete(f"{prefix}/{key}")
            elif how == "etcdctl lease revoke":
                shared_etcd.run("lease", "revoke", f"{lease:x}")
            await follower.until(lambda: len(events_of(follower, key)) == 2, "it is removed")
            assert events_of(follower, key)[-1] == (True, vanished)
            assert "backends/a/servers/2" in follower.entries
        await store.close()
        await other.close()

    asyncio.run(go())


def test_a_lease_of_another_program_is_not_ended(shared_etcd: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/mine"))
        lease = await store.grant(60_000)
        await store.commit(Transaction((Put("backends/a/servers/1", b"{}", lease),)))
        shared_etcd.run("put", f"--lease={lease:x}", "/mine.locks/leader", "somebody")
        with pytest.raises(RefusedError) as caught:
            await store.revoke(lease)
        assert caught.value.remedy
        assert "/mine.locks" not in str(caught.value), "what others have is not ours to tell"
        assert set((await store.read()).entries) == {"backends/a/servers/1"}
        assert await store.keep_alive(lease) > 0
        shared_etcd.delete("/mine.locks/leader")
        await store.revoke(lease)
        assert not (await store.read()).entries
        await store.close()

    asyncio.run(go())


def test_a_web_proxy_is_not_used(shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def go() -> None:
        port = shared_etcd.member.client_port
        store = EtcdStore(shared_etcd.options("/proxy", endpoints=(f"http://localhost:{port}",)))
        assert (await store.read()).revision
        await store.close()

    asyncio.run(go())


def test_cancelling_any_call_leaves_the_store_usable(shared_etcd: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/cancel"))
        lease = await store.grant(60_000)
        calls: list[Any] = [
            store.read,
            lambda: anext(aiter(store.watch(1))),
            lambda: store.commit(Transaction((Put("backends/a", b"1"),))),
            store.history,
            lambda: store.grant(60_000),
            lambda: store.keep_alive(lease),
        ]
        for call in calls:
            for delay_s in (0, 0.0002, 0.001, 0.003):
                task = asyncio.ensure_future(call())
                await asyncio.sleep(delay_s)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await call()
        await store.close()
        async with asyncio.timeout(10):  # gRPC's own tasks end a little later
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    asyncio.run(go())
