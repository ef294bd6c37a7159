"""The part of the promise that stores keep which take transactions; see acceptance.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from bascule.store.interface import (
    Compare,
    ConflictError,
    LeaseLostError,
    Put,
    RefusedError,
    Remove,
    Store,
    StoreError,
    Transaction,
)
from store.acceptance import A1, A2, Acceptance, Harness, Session, encoded, gather_until, opened, run, server, touched


class WritableAcceptance(Acceptance):
    """For stores that take transactions: these, history and leases."""

    def test_a_transaction_is_one_revision(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            before = (await session.store.read()).revision
            revision = await session.store.commit(
                Transaction((Put("backends/app", b"{}"), Put(A1, encoded(server(1))), Put(A2, encoded(server(2)))))
            )
            assert revision > before
            reading = await session.store.read()
            assert {entry.modified for entry in reading.entries.values()} == {revision}
            assert {entry.created for entry in reading.entries.values()} == {revision}
            assert reading.entries[A1].value == encoded(server(1))
            (batch,) = await gather_until(session.store, before, lambda batches: True)
            assert batch.revision == revision
            assert {event.key: event.entry for event in batch.events} == dict(reading.entries)

        run(harness, test)

    def test_comparisons_decide(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            first = await session.put("backends/app", compares=(Compare("backends/app", 0),))
            with pytest.raises(ConflictError) as caught:
                await session.put("backends/app", {"a": 1}, compares=(Compare("backends/app", 0),))
            assert caught.value.key == "backends/app"
            assert caught.value.modified in (first, -1)
            second = await session.put("backends/app", {"a": 2}, compares=(Compare("backends/app", first),))
            with pytest.raises(ConflictError):
                await store.commit(
                    Transaction(
                        (Put(A1, b"{}"), Remove("backends/app")), (Compare(A2, 0), Compare("backends/app", first))
                    )
                )
            reading = await store.read()
            assert set(reading.entries) == {"backends/app"}
            assert reading.entries["backends/app"].created == first
            assert reading.entries["backends/app"].modified == second
            await store.commit(Transaction((Remove("backends/app"),), (Compare("backends/app", second),)))
            with pytest.raises(ConflictError) as caught:
                await session.put("backends/app", compares=(Compare("backends/app", second),))
            assert caught.value.modified in (0, -1)

        run(harness, test)

    def test_comparing_reads_what_others_wrote(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            revision = await session.put("backends/app")
            await session.write({"backends/app": {"balance": "wrr"}})
            with pytest.raises(ConflictError):
                await session.put("backends/app", compares=(Compare("backends/app", revision),))

        run(harness, test)

    def test_removing_takes_what_is_below_and_nothing_beside(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            keys = ["backends/app", A1, "backends/app0", "backends/app-1", "backends/app.x/servers/s", "backends/ap"]
            await session.store.commit(Transaction(tuple(Put(key, b"{}") for key in keys)))
            revision = await session.store.commit(Transaction((Remove("backends/app"),)))
            assert set((await session.store.read()).entries) == set(keys[2:])
            batches = await gather_until(session.store, revision - 1, lambda batches: True)
            assert {event.key for event in batches[-1].events} == {"backends/app", A1}
            await session.store.commit(Transaction((Put("backends/app", b"{}"), Put(A1, b"{}"))))
            await session.store.commit(Transaction((Remove("backends/app", below=False),)))
            assert A1 in (await session.store.read()).entries

        run(harness, test)

    def test_removing_with_what_is_below_spares_what_nobody_has_seen(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            await session.put("backends/app")
            known = await session.put(A1)
            newer = await session.put(A2)
            with pytest.raises(ConflictError) as caught:
                await session.store.commit(Transaction((Remove("backends/app", known=known),)))
            assert (caught.value.key, caught.value.modified) == (A2, newer)
            assert set((await session.store.read()).entries) == {"backends/app", A1, A2}
            await session.store.commit(Transaction((Remove("backends/app", known=newer),)))
            assert (await session.store.read()).entries == {}

        run(harness, test)

    def test_removing_what_is_absent_is_no_error(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            revision = await session.put("backends/app")
            assert await session.store.commit(Transaction((Remove("backends/none"),))) >= revision
            assert set((await session.store.read()).entries) == {"backends/app"}

        run(harness, test)

    @pytest.mark.parametrize(
        "operations",
        [
            (Put(A1, b"{}"), Put(A1, b"[]")),
            (Remove(A1), Put(A1, b"{}")),
            (Remove("backends/app"), Put(A1, b"{}")),
        ],
    )
    def test_no_key_is_written_twice(self, harness: Harness, operations: tuple[Put | Remove, ...]) -> None:
        async def test(session: Session) -> None:
            await session.put(A1)
            before = await session.store.read()
            with pytest.raises(RefusedError):
                await session.store.commit(Transaction(operations))
            assert (await session.store.read()).entries == before.entries

        run(harness, test)

    def test_no_increment_is_lost(self, harness: Harness) -> None:
        """Many writers on two connections, each by compare-and-set."""

        async def increment(store: Store) -> None:
            while True:
                entry = (await store.read()).entries["settings"]
                put = Put("settings", encoded(json.loads(entry.value) + 1))
                try:
                    await store.commit(Transaction((put,), (Compare("settings", entry.modified),)))
                except ConflictError:
                    continue
                return

        async def test(session: Session) -> None:
            await session.put("settings", 0)
            async with opened(harness) as other:
                stores = [session.store, other.store]
                await asyncio.gather(*(increment(stores[number % 2]) for number in range(20)))
            assert json.loads((await session.store.read()).entries["settings"].value) == 20

        run(harness, test)

    def test_many_at_once(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            before = (await session.store.read()).revision
            puts = tuple(Put(f"backends/b{number}", b"{}") for number in range(100))
            revision = await session.store.commit(Transaction(puts))
            assert revision > before
            reading = await session.store.read()
            assert len(reading.entries) == 100
            assert {entry.modified for entry in reading.entries.values()} == {revision}

        run(harness, test)

    def test_a_cancelled_commit_harms_nothing(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            for number in range(5):
                task = asyncio.create_task(session.put(f"backends/b{number}"))
                await asyncio.sleep(0.0005 * number)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await session.put("backends/last")
            assert "backends/last" in (await session.store.read()).entries

        run(harness, test)

    def test_it_does_what_a_dict_does(self, harness: Harness) -> None:
        from store.machine import run_machine

        run_machine(harness)

    # ---- history

    def test_history_says_who_and_why(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            first = await session.put(A1, server(1), author="ann", message="begin")
            second = await store.commit(
                Transaction((Put(A1, encoded(server(2))), Put(A2, b"{}")), author="bob", message="more")
            )
            third = await store.commit(Transaction((Remove("backends/app"),), author="ann"))
            records = [record for record in await store.history() if record.revision >= first]
            assert [record.revision for record in records] == [third, second, first]
            assert [(record.author, record.message) for record in records] == [
                ("ann", ""),
                ("bob", "more"),
                ("ann", "begin"),
            ]
            changed = {alteration.key: (alteration.before, alteration.after) for alteration in records[1].alterations}
            assert changed == {A1: (encoded(server(1)), encoded(server(2))), A2: (None, b"{}")}
            gone = {alteration.key: alteration.after for alteration in records[0].alterations}
            assert gone == {A1: None, A2: None}
            assert all(record.at_s > 1_700_000_000 for record in records)
            (latest,) = await store.history(1)
            assert latest == records[0]
            assert (await store.history(1, before=third))[0] == records[1]

        run(harness, test)

    # ---- leases

    def test_what_lives_by_a_lease_vanishes_with_it(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            lease = await store.grant(harness.lease_ms)
            revision = await store.commit(
                Transaction((Put(A1, b"{}", lease), Put(A2, b"{}", lease), Put("backends/app", b"{}")))
            )
            entries = (await store.read()).entries
            assert entries[A1].lease == entries[A2].lease == lease
            assert entries["backends/app"].lease == 0
            batches = await gather_until(store, revision, lambda batches: touched(batches, A1) and touched(batches, A2))
            events = [event for batch in batches for event in batch.events]
            assert {(event.key, event.entry, event.expired) for event in events} == {(A1, None, True), (A2, None, True)}
            assert set((await store.read()).entries) == {"backends/app"}
            assert all(record.revision <= revision for record in await store.history())
            with pytest.raises(LeaseLostError):
                await store.keep_alive(lease)
            with pytest.raises(LeaseLostError):
                await session.put(A1, lease=lease)
            assert A1 not in (await store.read()).entries

        run(harness, test)

    def test_heartbeats_keep_it_and_make_no_revision(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            lease = await store.grant(2 * harness.lease_ms)
            await session.put(A1, lease=lease)
            revision = (await store.read()).revision
            for _ in range(12):  # 1.5 times its time
                assert await store.keep_alive(lease) >= 2 * harness.lease_ms
                await asyncio.sleep(harness.lease_ms / 4000)
            reading = await store.read()
            assert A1 in reading.entries
            assert reading.revision == revision

        run(harness, test)

    def test_revoking_is_leaving(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            lease = await store.grant(60_000)
            revision = await session.put(A1, lease=lease)
            await store.revoke(lease)
            batches = await gather_until(store, revision, lambda batches: touched(batches, A1))
            assert [(event.key, event.entry, event.expired) for event in batches[-1].events] == [(A1, None, False)]
            with pytest.raises(LeaseLostError):
                await store.keep_alive(lease)
            await store.revoke(lease)

        run(harness, test)

    def test_removing_by_hand_is_leaving(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            lease = await store.grant(60_000)
            revision = await session.put(A1, lease=lease)
            await store.commit(Transaction((Remove(A1),)))
            batches = await gather_until(store, revision, lambda batches: touched(batches, A1))
            assert [event.expired for event in batches[-1].events] == [False]
            await store.revoke(lease)

        run(harness, test)

    def test_putting_without_a_lease_takes_it_off(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            store = session.store
            lease = await store.grant(60_000)
            await session.put(A1, lease=lease)
            await session.put(A1)
            await store.revoke(lease)
            assert (await store.read()).entries[A1].lease == 0

        run(harness, test)

    def test_a_lease_outlives_its_connection(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            async with opened(harness) as other:
                lease = await other.store.grant(60_000)
                await other.put(A1, lease=lease)
            assert (await session.store.read()).entries[A1].lease == lease
            assert await session.store.keep_alive(lease) >= 60_000
            await session.store.revoke(lease)
            assert A1 not in (await session.store.read()).entries

        run(harness, test)

    def test_a_lease_nobody_granted(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            with pytest.raises(LeaseLostError):
                await session.store.keep_alive(123456)
            for lease in (123456, -1, 1 << 63, 10**19):
                with pytest.raises(LeaseLostError):
                    await asyncio.wait_for(session.put(A1, lease=lease), 20)
            assert (await session.store.read()).entries == {}

        run(harness, test)

    # ---- errors

    def test_every_error_says_what_to_do(self, harness: Harness) -> None:
        async def test(session: Session) -> None:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: session.put(A1, compares=(Compare(A1, 99),)),
                lambda: session.put(A1, lease=123456),
                lambda: session.store.commit(Transaction((Put(A1, b"{}"), Put(A1, b"{}")))),
            ]
            for call in calls:
                with pytest.raises(StoreError) as caught:
                    await call()
                assert str(caught.value)
                assert caught.value.remedy

        run(harness, test)
