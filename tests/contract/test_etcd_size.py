"""Much at once: lists of many pages, transactions beyond etcd's limits, a full database, a long history."""

import asyncio
import os

import pytest

from bascule.store.etcd import reader
from bascule.store.etcd.history import History
from bascule.store.etcd.layout import Layout
from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Put, RefusedError, Remove, Transaction
from kit.etcd import Etcd

OBJECTS = 12_000
IN_ONE = 120


def test_a_list_of_many_pages_is_of_one_revision(shared_etcd: Etcd) -> None:
    """12,000 objects of 1 KiB are three times gRPC's default limit, and two pages. The first and the last object are
    always changed together, so a list that shows them different is of two revisions."""

    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/pages"))
        names = [f"backends/b{number:05}" for number in range(OBJECTS)]
        for begin in range(0, OBJECTS, IN_ONE * 4):
            parts = [names[first : first + IN_ONE] for first in range(begin, begin + IN_ONE * 4, IN_ONE)]
            await asyncio.gather(
                *(store.commit(Transaction(tuple(Put(name, b"x" * 1024) for name in part))) for part in parts if part)
            )
        done = False

        async def change() -> None:
            value = 0
            while not done:
                value += 1
                await store.commit(Transaction((Put(names[0], b"%d" % value), Put(names[-1], b"%d" % value))))

        changing = asyncio.create_task(change())
        for _ in range(3):
            reading = await store.read()
            assert len(reading.entries) == OBJECTS
            assert reading.entries[names[0]].value == reading.entries[names[-1]].value
        done = True
        await changing
        await store.close()

    asyncio.run(go())


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(
    shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bascule.store.etcd.client.RECEIVE_BYTES_MAX", 64 * 1024)

    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/large"))
        for number in range(40):
            await store.commit(Transaction((Put(f"backends/b{number}", b"x" * 10_000),)))
        assert len((await store.read()).entries) == 40
        await store.close()

    asyncio.run(go())


def test_a_compaction_between_two_pages_begins_the_list_again(server: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAGE_KEYS", 5)
    monkeypatch.setattr(reader, "PAGE_KEYS_MAX", 5)

    async def go() -> None:
        store = EtcdStore(server.options())
        for number in range(20):
            await store.commit(Transaction((Put(f"backends/b{number}", b"1"),)))
        call, compactions = store.client.call, 0

        async def compacting(*arguments: object, **more: object) -> object:
            nonlocal compactions
            answer = await call(*arguments, **more)  # type: ignore[arg-type]
            if arguments[1] == "Range" and compactions < 2:
                compactions += 1
                server.put("/bascule/backends/b0", str(compactions))
                server.compact()
            return answer

        monkeypatch.setattr(store.client, "call", compacting)
        reading = await store.read()
        assert len(reading.entries) == 20
        assert reading.entries["backends/b0"].value == b"2"
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("operations", "flag"),
    [
        (tuple(Put(f"backends/b{number}", b"{}") for number in range(200)), "--max-txn-ops"),
        (tuple(Put(f"backends/b{number}", os.urandom(30_000)) for number in range(60)), "--max-request-bytes"),
    ],
)
def test_more_than_etcd_takes_is_refused_whole_with_what_to_do(
    shared_etcd: Etcd, operations: tuple[Put, ...], flag: str
) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/too-much"))
        with pytest.raises(RefusedError) as caught:
            await store.commit(Transaction(operations))
        assert flag in caught.value.remedy
        assert (await store.read()).entries == {}
        await store.close()

    asyncio.run(go())


def test_a_pool_of_many_servers_is_removed_in_one_transaction(shared_etcd: Etcd) -> None:
    """What is below a key counts once, however much it is."""

    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/pool"))
        for begin in range(0, 500, 100):
            servers = range(begin, begin + 100)
            await store.commit(Transaction(tuple(Put(f"backends/a/servers/{number}", b"{}") for number in servers)))
        await store.commit(Transaction((Put("backends/a", b"{}"),)))
        await store.commit(Transaction((Remove("backends/a"),)))
        assert (await store.read()).entries == {}
        (record,) = await store.history(1)
        assert len(record.alterations) == 501
        await store.close()

    asyncio.run(go())


def test_a_full_etcd_refuses_writes_with_what_to_do_and_goes_on_being_read() -> None:
    async def go(server: Etcd) -> None:
        store = EtcdStore(server.options())
        reading = await store.read()

        async def fill() -> None:
            for number in range(100):
                await store.commit(Transaction((Put(f"backends/b{number}", os.urandom(400_000)),)))

        with pytest.raises(RefusedError) as caught:
            await fill()
        assert "alarm disarm" in caught.value.remedy
        assert len((await store.read()).entries) >= 1
        async for batch in store.watch(reading.revision):
            assert batch.identity == reading.identity
            break
        await store.close()

    with Etcd(flags=["--quota-backend-bytes", str(8 << 20)]) as server:
        asyncio.run(go(server))


def test_the_history_survives_compaction_and_keeps_its_bound(server: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(server.options())
        for number in range(30):
            await store.commit(Transaction((Put("backends/a", b"%d" % number),), author="ann", message=f"{number}"))
        server.put("/bascule/backends/a", "around")
        around = (await store.history(1))[0]
        assert (around.author, around.at_s) == ("", 0.0)
        assert [(a.key, a.before, a.after) for a in around.alterations] == [("backends/a", b"29", b"around")]
        server.compact()  # and with it goes what only etcd knew of
        records = await store.history()
        assert [record.message for record in records] == [str(number) for number in reversed(range(30))]
        assert [(a.before, a.after) for a in records[0].alterations] == [(b"28", b"29")]
        older = await store.history(5, before=records[9].revision)
        assert older == records[10:15]
        await History(store.client, Layout("/bascule")).prune_to(10)
        assert await store.history() == records[:10]
        await store.close()

    asyncio.run(go())


def test_what_changed_nothing_takes_no_place_in_the_history(shared_etcd: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/nothing"))
        wanted = []
        for number in range(5):
            wanted.append(await store.commit(Transaction((Put("backends/a", b"%d" % number),))))
            for _ in range(3):
                await store.commit(Transaction((Put("backends/a", b"%d" % number),)))
        found = []
        while page := await store.history(2, found[-1] if found else 0):
            assert len(page) == 2 or page[-1].revision == wanted[0], "a short answer is the end"
            found += [record.revision for record in page]
        assert found == wanted[::-1]
        await store.close()

    asyncio.run(go())


def test_a_change_too_large_for_the_history_keeps_its_names(shared_etcd: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(shared_etcd.options("/huge"))
        await store.commit(Transaction((Put("backends/a", os.urandom(600_000)),), message="huge"))
        (record,) = await store.history(1)
        assert [(a.key, a.before, a.after) for a in record.alterations] == [("backends/a", None, None)]
        assert record.message.startswith("huge (values too large")
        await store.close()

    asyncio.run(go())
