"""The assignment of slots to workers: complete, even, and with as few moves as possible."""

from hypothesis import given
from hypothesis import strategies as st

from bascule.process.slots import SLOTS_DEFAULT, SLOTS_MAX, assign, hold, slot_count

OWNERS = st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=64)
WORKERS = st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True)


@given(OWNERS, WORKERS)
def test_every_slot_has_an_owner_and_shares_differ_by_at_most_one(owners: list[int | None], workers: list[int]) -> None:
    result = assign(owners, workers)
    shares = [result.count(worker) for worker in workers]
    assert sum(shares) == len(owners)
    assert max(shares) - min(shares) <= 1


@given(OWNERS, WORKERS)
def test_no_more_slots_move_than_must(owners: list[int | None], workers: list[int]) -> None:
    result = assign(owners, workers)
    kept = sum(old == new for old, new in zip(owners, result, strict=True))
    share, larger = divmod(len(owners), len(workers))
    held = sorted((owners.count(worker) for worker in workers), reverse=True)
    most = sum(min(count, share + (place < larger)) for place, count in enumerate(held))
    assert kept == most


@given(OWNERS, WORKERS)
def test_an_even_assignment_stays(owners: list[int | None], workers: list[int]) -> None:
    once = assign(owners, workers)
    assert assign(once, workers) == once


def test_without_workers_the_slots_wait() -> None:
    assert assign([1, None], []) == [None, None]


def test_slots_are_never_fewer_than_workers() -> None:
    assert slot_count(2) == SLOTS_DEFAULT
    assert slot_count(40) == 40
    assert slot_count(6, 4) == 6
    assert slot_count(2, 4) == 4
    assert slot_count(2000) == SLOTS_MAX


@given(OWNERS, WORKERS)
def test_slots_that_leave_stay_with_who_has_them_and_are_never_without_a_holder(
    owners: list[int | None], workers: list[int]
) -> None:
    result = hold(owners, workers)
    assert len(result) == len(owners)
    for before, after in zip(owners, result, strict=True):
        assert after == before if before in workers else after in workers
