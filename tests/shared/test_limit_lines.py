"""Where the periods of a key lie: together, in room for others, and as they were when their number is changed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.shared.limits import LimitTable, create, inspect, rate
from bascule.shared.region import RegionError

from .processes import Child

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
START = 1000 * SECOND
RATES_OFFSET = 4096 + 64 * 128
LINE_BYTES = 64
Rates = list[tuple[int, int, int, int]]
PERIODS = [rate(3, SECOND), rate(5, 60 * SECOND), rate(7, HOUR), rate(9, 24 * HOUR)]


@pytest.fixture
def fd() -> Iterator[int]:
    """A region with a seed of its own, so that the same keys meet in a line every time."""
    descriptor = create(1 << 20, seed=bytes(range(16)))
    yield descriptor
    os.close(descriptor)


def cells(fd: int, table: LimitTable) -> dict[int, int]:
    """Tag by position of every cell that is taken."""
    size = table.capacity[0] * 16
    words = struct.unpack(f"={size // 8}Q", os.pread(fd, size, RATES_OFFSET))
    return {position: tag for position, tag in enumerate(words[::2]) if tag}


def lines(fd: int, table: LimitTable) -> list[int]:
    return [position * 16 // LINE_BYTES for position in cells(fd, table)]


# ---- place ----


@pytest.mark.parametrize("periods", [1, 2, 3, 4])
def test_all_periods_of_a_key_are_in_one_cache_line(periods: int) -> None:
    for number in range(50):
        fd = create(1 << 20)
        try:
            table = LimitTable(fd, 0)
            assert table.take(1, b"%d" % number, PERIODS[:periods], START)
            found = lines(fd, table)
            assert len(found) == periods, "16 bytes a period"
            assert len(set(found)) == 1
        finally:
            os.close(fd)


def test_nearly_all_keys_of_a_table_in_use_have_one_line_each(fd: int) -> None:
    """A quarter full with keys of four periods, all of whose time has not passed."""
    table = LimitTable(fd, 0)
    keys = table.capacity[0] // 16
    slow = [rate(2, HOUR * (i + 1)) for i in range(4)]
    table.repeat(1, b"key", slow, keys, START, 0, keys)
    by_key: dict[int, set[int]] = {}
    for position, tag in cells(fd, table).items():
        by_key.setdefault(tag >> 2, set()).add(position * 16 // LINE_BYTES)
    assert len(by_key) > keys * 0.99
    assert sum(len(found) == 1 for found in by_key.values()) > keys * 0.98


def test_a_table_a_quarter_full_of_long_keys_forgets_hardly_one(fd: int) -> None:
    table = LimitTable(fd, 0)
    keys = table.capacity[0] // 16
    once = [rate(1, HOUR * (i + 1)) for i in range(4)]
    assert table.repeat(1, b"key", once, keys, START, 0, keys) == keys
    assert table.live_evictions <= keys * 4 * 0.01
    again = table.repeat(1, b"key", once, keys, START, 0, keys)
    assert again <= keys * 0.02
    assert (again > 0) <= (table.live_evictions > 0), "what was forgotten was counted"


def test_the_periods_of_a_key_do_not_push_each_other_out(fd: int) -> None:
    """In a table that is far too small for its keys: each is refused right after it was admitted."""
    table = LimitTable(fd, 0)
    once = [rate(1, HOUR * (i + 1)) for i in range(4)]
    table.repeat(1, b"crowd", once, table.capacity[0], START, 0, table.capacity[0])
    for number in range(2000):
        assert table.take(2, b"%d" % number, once, START)
        assert not table.take(2, b"%d" % number, once, START)


def test_two_busy_keys_of_one_line_get_a_line_each(fd: int) -> None:
    """Their short periods have passed whenever they come again, and still they do not take each other's cells for ever."""
    table = LimitTable(fd, 0)
    keys = table.capacity[0] // 128
    rates = [rate(1_000_000, SECOND), *(rate(1_000_000, HOUR * i) for i in (1, 2, 3))]
    now = START
    for _ in range(5):
        table.repeat(1, b"busy", rates, keys, now, 0, keys)
        now += SECOND // 100
    before = cells(fd, table)
    for _ in range(20):
        table.repeat(1, b"busy", rates, keys, now, 0, keys)
        now += SECOND // 100
    assert cells(fd, table) == before


# ---- another number of periods ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 40 * SECOND)), max_size=60))
def test_a_changed_number_of_periods_keeps_those_that_stay(steps: list[tuple[int, int, int]]) -> None:
    """Against one TAT a key and place in the list, each charged while the list is so long."""
    fd = create(1 << 20)
    try:
        table, now = LimitTable(fd, 0), START
        tats: dict[tuple[int, int], int] = {}
        for periods, key, gap in steps:
            now += gap
            rates = PERIODS[:periods]
            old = [max(tats.get((key, i), 0), now) for i in range(periods)]
            admitted = all(tat <= now + tolerance for tat, (_, tolerance, _, _) in zip(old, rates, strict=True))
            assert bool(table.take(1, b"%d" % key, rates, now)) == admitted
            if admitted:
                tats.update({(key, i): old[i] + rates[i][0] for i in range(periods)})
    finally:
        os.close(fd)


def test_changing_the_number_of_periods_in_a_crowd_harms_nobody_else(fd: int) -> None:
    """Keys that are held to one request an hour stay so, whatever the number of periods of their neighbours is."""
    table = LimitTable(fd, 0)
    held = table.capacity[0] // 64
    once = [rate(1, HOUR)]
    assert table.repeat(1, b"held", once, held, START, 0, held) == held
    for round_ in range(12):
        rates = PERIODS[: 1 + round_ * 5 % 4]
        table.repeat(2, b"changing", rates, held, START + round_ * SECOND, 0, held)
        assert table.repeat(1, b"held", once, held, START + round_ * SECOND, 0, held) == 0
    assert table.live_evictions == 0


# ---- processes that die, and other layouts ----


def hammer_for_ever(fd: int, worker: int, periods: int) -> None:
    table = LimitTable(fd, worker)
    print("ready", flush=True)
    now = START
    while True:
        table.repeat(1, b"few", PERIODS[:periods], 5000, now, 1000, 300)
        now += SECOND


def test_killed_processes_leave_a_table_that_is_right(fd: int) -> None:
    children = [Child(__name__, "hammer_for_ever", fd, worker, 4 - worker % 2) for worker in range(2)]
    table = LimitTable(fd, 9)
    for child in children:
        assert child.line() == "ready"
        table.repeat(1, b"few", PERIODS, 20_000, START, 1000, 300)
        child.kill()
    # Nothing is further ahead than the limit allows, and all periods of a new key are counted.
    later = START + 1000 * HOUR
    assert table.repeat(1, b"few", PERIODS, 3000, later, 0, 300) == 900
    assert [bool(table.take(2, b"new", PERIODS, later)) for _ in range(4)] == [True] * 3 + [False]


def test_a_region_of_the_layout_before_is_not_touched(fd: int) -> None:
    """Its cells lie elsewhere: the region is restarted, alone, by who finds it (docs/upgrade.md)."""
    assert struct.unpack("=I", os.pread(fd, 4, 8)) == (3,)
    os.pwrite(fd, struct.pack("=I", 2), 8)
    whole = os.pread(fd, 1 << 20, 0)
    for look in (lambda: inspect(fd), lambda: LimitTable(fd, 0)):
        with pytest.raises(RegionError, match="layout that this version does not know"):
            look()
    assert os.pread(fd, 1 << 20, 0) == whole
