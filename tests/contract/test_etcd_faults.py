"""What happens to an etcd must not happen to whoever watches it: frozen, cut off, stopped, killed, compacted, restored."""

import asyncio
import time

import pytest

from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import (
    Batch,
    CompactedError,
    Put,
    Transaction,
    UnavailableError,
)
from kit.etcd import Etcd
from kit.following import Follower
from kit.relay import Relay

NOTICED_S = 9.0
"""A heartbeat each second, three in a row: 3 s. What is above it is room for a busy machine."""


def put(key: str, value: bytes = b"1") -> Transaction:
    return Transaction((Put(key, value),))


def test_a_frozen_server_is_noticed_by_our_own_heartbeat_and_nothing_is_lost(server: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        async with Follower(store) as follower:
            await store.commit(put("backends/a"))
            await follower.until_entry("backends/a", b"1")
            begin = time.monotonic()
            server.member.freeze()
            await follower.until(lambda: follower.errors, "the freeze is noticed")
            assert isinstance(follower.errors[0], UnavailableError)
            assert 1.0 < follower.error_times[0] - begin < NOTICED_S
            server.member.thaw()
            server.put("/bascule/backends/b", "2")
            await follower.until_entry("backends/b", b"2")
            assert follower.readings == 1
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_network_that_is_cut_or_swallows_everything_is_noticed_and_nothing_is_lost(
    shared_etcd: Etcd, fault: str
) -> None:
    prefix = f"/network-{fault}"

    async def go(relay: Relay) -> None:
        endpoint = f"http://127.0.0.1:{relay.port}"
        store = EtcdStore(shared_etcd.options(prefix, endpoints=(endpoint,), timeout_ms=3000))
        async with Follower(store) as follower:
            getattr(relay, fault)()
            shared_etcd.put(f"{prefix}/backends/a", "1")
            await follower.until(lambda: follower.errors, "the fault is noticed")
            with pytest.raises(UnavailableError):
                await store.read()
            relay.mend()
            await follower.until_entry("backends/a", b"1")
            assert follower.readings == 1
        await store.close()

    with Relay(shared_etcd.member.client_port) as relay:
        asyncio.run(go(relay))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restarted_server_is_found_again_and_the_watch_goes_on_where_it_was(server: Etcd, how: str) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        async with Follower(store) as follower:
            await store.commit(put("backends/a"))
            getattr(server.member, how)()
            await follower.until(lambda: len(follower.errors) >= 3, "the end is noticed")
            server.member.start()
            await asyncio.to_thread(server.wait)
            server.put("/bascule/backends/b", "2")
            server.put("/bascule/backends/b", "3")
            await follower.until_entry("backends/b", b"3")
            revisions = [batch.revision for batch in follower.changes]
            assert revisions == sorted(set(revisions))
            assert follower.readings == 1
            assert [event.entry.value for batch in follower.changes for event in batch.events if event.entry] == [
                b"1",
                b"2",
                b"3",
            ]
        await store.close()

    asyncio.run(go())


def test_a_caller_that_watches_again_at_once_and_for_ever_is_slowed_down(server: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        async with Follower(store) as follower:
            server.member.kill()
            await follower.until(lambda: follower.errors, "the end is noticed")
            begin = store.client.calls["Watch"]
            await asyncio.sleep(3)
            assert 2 <= store.client.calls["Watch"] - begin <= 12
        await store.close()

    asyncio.run(go())


@pytest.fixture
def compacted(server: Etcd) -> tuple[Etcd, int]:
    """A server with a gap, and the revision it was compacted to."""
    for value in "123":
        server.put("/bascule/backends/a", value)
    return server, server.compact()


def test_a_gap_is_reported_with_the_oldest_revision_that_is_kept(compacted: tuple[Etcd, int]) -> None:
    server, oldest = compacted

    async def go() -> None:
        store = EtcdStore(server.options())
        with pytest.raises(CompactedError) as caught:
            async for _ in store.watch(1):
                pass
        assert caught.value.oldest == oldest
        with pytest.raises(CompactedError):
            await store.read(at=2)
        reading = await store.read()
        assert reading.entries["backends/a"].value == b"3"
        async for batch in store.watch(reading.revision):
            assert batch == Batch(reading.identity, reading.revision)
            break
        await store.close()

    asyncio.run(go())


def test_a_watch_that_is_compacted_past_while_its_connection_is_down_reads_again(server: Etcd) -> None:
    async def go(relay: Relay) -> None:
        store = EtcdStore(server.options(endpoints=(f"http://127.0.0.1:{relay.port}",)))
        async with Follower(store) as follower:
            relay.cut()
            await follower.until(lambda: follower.errors, "the cut is noticed")
            for value in "123":
                server.put("/bascule/backends/a", value)
            server.compact()
            relay.mend()
            await follower.until_entry("backends/a", b"3")
            assert follower.readings == 2
            assert any(isinstance(error, CompactedError) for error in follower.errors)
        await store.close()

    with Relay(server.member.client_port) as relay:
        asyncio.run(go(relay))


@pytest.mark.parametrize("token", ["etcd-cluster", "another"])
def test_a_restored_backup_shows_as_a_lower_revision_or_another_identity(server: Etcd, token: str) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        server.put("/bascule/backends/a", "old")
        backup = server.snapshot()
        async with Follower(store) as follower:
            for value in range(5):
                await store.commit(put("backends/a", b"%d" % value))
            await follower.until_entry("backends/a", b"4")
            follower.batches.clear()
            before, identity = follower.revision, follower.identity
            await asyncio.to_thread(server.restore, backup, token=token)
            await follower.until(lambda: follower.readings >= 2, "it is read again")
            odd = next(batch for batch in follower.batches if batch.revision < before)
            assert odd.events == ()
            assert (odd.identity != identity) == (token == "another")
            assert any(isinstance(error, CompactedError) for error in follower.errors)
            await follower.until_entry("backends/a", b"old")
        await store.close()

    asyncio.run(go())


def test_a_wiped_server_shows_as_a_lower_revision(server: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        for value in range(3):
            await store.commit(put("backends/a", b"%d" % value))
        async with Follower(store) as follower:
            revision = follower.revision
            await asyncio.to_thread(server.wipe)
            await follower.until(lambda: follower.readings >= 2, "it is read again")
            assert min(batch.revision for batch in follower.batches) < revision
            assert follower.entries == {}
        await store.close()

    asyncio.run(go())
