"""Three members: one lost, the leader lost, one frozen, the majority lost."""

import asyncio
from collections.abc import Iterator

import pytest

from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Put, Transaction, UnavailableError
from kit.etcd import Etcd, Member
from kit.following import Follower


@pytest.fixture
def cluster() -> Iterator[Etcd]:
    """Three members."""
    with Etcd(members=3) as cluster:
        yield cluster


def leader(cluster: Etcd) -> Member:
    for member in cluster.members:
        status = cluster.run("endpoint", "status", "-w", "json", endpoint=member.endpoint).stdout
        import json

        (answer,) = json.loads(status)
        if answer["Status"]["header"]["member_id"] == answer["Status"]["leader"]:
            return member
    raise AssertionError("no leader")


def used(cluster: Etcd, store: EtcdStore) -> Member:
    """The member that the store speaks to now."""
    return next(member for member in cluster.members if member.endpoint == str(store.client.link().endpoint))


async def commit_all_the_time(store: EtcdStore, done: asyncio.Event) -> list[int]:
    revisions = []
    while not done.is_set():
        value = b"%d" % len(revisions)
        revisions.append(await store.commit(Transaction((Put("backends/a", value),))))
        await asyncio.sleep(0.01)
    return revisions


@pytest.mark.parametrize("fault", ["used", "leader", "frozen"])
def test_no_write_fails_and_none_is_lost_when_a_member_is(cluster: Etcd, fault: str) -> None:
    async def go() -> None:
        store = EtcdStore(cluster.options(timeout_ms=30_000))
        async with Follower(store) as follower:
            done = asyncio.Event()
            writing = asyncio.create_task(commit_all_the_time(store, done))
            await follower.until(lambda: len(follower.changes) > 10, "writes come through")
            member = leader(cluster) if fault == "leader" else used(cluster, store)
            if fault == "frozen":
                member.freeze()
            else:
                member.kill()
            seen = len(follower.changes)
            await follower.until(lambda: len(follower.changes) > seen + 50, "writes come through again", 60)
            done.set()
            revisions = await writing
            await follower.until(lambda: len(follower.changes) >= len(revisions), "every write is seen")
            assert [batch.revision for batch in follower.changes] == revisions
            assert follower.readings == 1
        await store.close()

    asyncio.run(go())


def test_without_a_majority_nothing_is_read_and_nothing_is_taken_for_empty(cluster: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(cluster.options(timeout_ms=3000))
        await store.commit(Transaction((Put("backends/a", b"1"),)))
        async with Follower(store) as follower:
            stay = used(cluster, store)
            for member in cluster.members:
                if member is not stay:
                    member.kill()
            await follower.until(lambda: follower.errors, "the loss of the leader is noticed")
            with pytest.raises(UnavailableError):
                await store.read()
            assert follower.entries["backends/a"].value == b"1"
            for member in cluster.members:
                if member is not stay:
                    member.start()
            await asyncio.to_thread(cluster.wait)
            cluster.put("/bascule/backends/a", "2")
            await follower.until_entry("backends/a", b"2")
            assert follower.readings == 1
        await store.close()

    asyncio.run(go())
