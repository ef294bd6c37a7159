"""Reconciliation: every lost event is found, counted, named and mended, and nothing else is."""

import asyncio
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.change.digest import INTERVAL_S, JITTER, KEYS_SHOWN, Digest, Reconciler
from bascule.store.interface import CompactedError, Entry, Reading, UnavailableError

VALUES = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([b"1", b"2", b"3"]))


class Table:
    """Fulfils bascule.change.digest.Ledger."""

    def __init__(self, entries: Mapping[str, Entry], revision: int = 10) -> None:
        self.entries = dict(entries)
        self.identity = "id"
        self.revision = revision
        self.held: dict[str, object] = {}
        self._digest = Digest((key, entry.value) for key, entry in entries.items())

    @property
    def digest(self) -> int:
        return self._digest.value

    def put(self, key: str, value: bytes, revision: int) -> None:
        self._digest.change(key, self.value(key), value)
        self.entries[key] = Entry(key, value, revision, revision)
        self.revision = revision

    def remove(self, key: str, revision: int) -> None:
        self._digest.change(key, self.value(key), None)
        del self.entries[key]
        self.revision = revision

    def value(self, key: str) -> bytes | None:
        return self.entries[key].value if key in self.entries else None

    def modified(self, key: str) -> int:
        return self.entries[key].modified if key in self.entries else 0

    def keys(self) -> Collection[str]:
        return self.entries.keys()

    def kept_back(self) -> Mapping[str, object]:
        return self.held


class Bench:
    """A table, the store it follows, and a reconciler between them."""

    def __init__(self, table: Table, stored: Mapping[str, Entry]) -> None:
        self.table = table
        self.stored = dict(stored)
        self.warnings: list[str] = []
        self.mended = 0
        self.error: Exception | None = None
        self.reconciler = Reconciler(table, self.read, self.mend, self.warnings.append)

    async def read(self, at: int) -> Reading:
        if self.error is not None:
            raise self.error
        return Reading("id", at, dict(self.stored))

    async def mend(self) -> None:
        self.mended += 1
        self.table = Table(self.stored)

    def compare(self) -> tuple[str, ...]:
        return asyncio.run(self.reconciler.compare())


def entries(values: Mapping[str, bytes], revision: int = 1) -> dict[str, Entry]:
    return {key: Entry(key, value, revision, revision) for key, value in values.items()}


@given(VALUES, st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([None, b"1", b"2"])), max_size=30))
def test_a_digest_that_followed_the_changes_is_that_of_the_result(
    before: dict[str, bytes], changes: list[tuple[str, bytes | None]]
) -> None:
    digest, now = Digest(before.items()), dict(before)
    for key, after in changes:
        digest.change(key, now.get(key), after)
        if after is None:
            now.pop(key, None)
        else:
            now[key] = after
    assert digest.value == Digest(reversed(now.items())).value


@given(VALUES, VALUES)
def test_a_comparison_names_exactly_what_differs(in_table: dict[str, bytes], stored: dict[str, bytes]) -> None:
    bench = Bench(Table(entries(in_table)), entries(stored))
    differing = {key for key in {*in_table, *stored} if in_table.get(key) != stored.get(key)}
    assert set(bench.compare()) == differing
    assert bench.mended == (1 if differing else 0)
    status = bench.reconciler.status
    assert (status.compared, status.mismatches, status.keys_mended) == (1, bool(differing), len(differing))
    assert len(bench.warnings) == bool(differing)


def test_what_changes_while_the_store_is_read_is_no_mismatch() -> None:
    stored = entries(dict.fromkeys("abc", b"1"))
    bench = Bench(Table(stored), stored)

    async def read(at: int) -> Reading:
        assert at == 10
        reading = Reading("id", at, dict(stored))
        bench.table.put("a", b"2", 11)
        bench.table.put("d", b"2", 12)
        bench.table.remove("b", 13)
        return reading

    bench.read = read  # type: ignore[method-assign]
    bench.reconciler = Reconciler(bench.table, read, bench.mend, bench.warnings.append)
    assert bench.compare() == ()
    assert bench.mended == 0


def test_a_loss_is_found_beside_changes_that_go_on() -> None:
    stored = entries({"a": b"1", "b": b"2", "c": b"1"})
    bench = Bench(Table(entries({"a": b"1", "b": b"1", "c": b"1"})), stored)

    async def read(at: int) -> Reading:
        bench.table.put("a", b"5", 11)
        return Reading("id", at, dict(stored))

    bench.reconciler = Reconciler(bench.table, read, bench.mend, bench.warnings.append)
    assert bench.compare() == ("b",)


def test_what_a_gate_holds_is_no_mismatch() -> None:
    bench = Bench(Table(entries({"a": b"1", "b": b"1"})), entries({"a": b"1"}))
    bench.table.held = {"b": object()}
    assert bench.compare() == ()
    bench.stored = entries({"a": b"2"})
    assert bench.compare() == ("a",)


def test_many_keys_are_counted_and_some_are_shown() -> None:
    bench = Bench(Table({}), entries({f"k{number}": b"1" for number in range(5000)}))
    assert len(bench.compare()) == 5000
    assert len(bench.reconciler.status.last_keys) == KEYS_SHOWN
    assert f"and {5000 - KEYS_SHOWN} more" in bench.warnings[0]
    assert len(bench.warnings[0]) < 1000


def test_nothing_is_compared_before_the_first_reading_or_with_another_store() -> None:
    bench = Bench(Table({}), entries({"a": b"1"}))
    bench.table.identity = ""
    assert bench.compare() == ()
    bench.table.identity = "other"
    assert bench.compare() == ()
    bench.table.identity = "id"
    bench.error = CompactedError(5)
    assert bench.compare() == ()
    assert bench.mended == 0


def test_a_store_that_does_not_answer_is_counted_and_asked_again() -> None:
    bench = Bench(Table({}), {})
    bench.error = UnavailableError("no")
    with pytest.raises(UnavailableError):
        bench.compare()

    async def some_rounds() -> None:
        bench.reconciler._interval_s = 0.001
        task = asyncio.create_task(bench.reconciler.run())
        while bench.reconciler.status.failures < 3:
            await asyncio.sleep(0.001)
        bench.error = None
        while bench.reconciler.status.compared < 3:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(some_rounds(), 20))


def test_the_interval_is_jittered_and_zero_is_off() -> None:
    bench = Bench(Table({}), {})
    for chance, share in ((0.0, 1 - JITTER), (0.5, 1.0), (1.0, 1 + JITTER)):
        reconciler = Reconciler(bench.table, bench.read, bench.mend, print, chance=lambda value=chance: value)
        assert reconciler.pause_s() == pytest.approx(INTERVAL_S * share)
    asyncio.run(asyncio.wait_for(Reconciler(bench.table, bench.read, bench.mend, print, interval_s=0).run(), 10))
