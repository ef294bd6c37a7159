"""What one decision of a rate limit costs. Each round is a compiled loop; the figure to read is time / CALLS.

Target: at most 0.2 us a decision when a limit is on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bascule.shared.limits import LimitTable, create, rate
from bascule.shared.region import use_huge_pages

CALLS = 200_000
SECOND = 1_000_000_000
START = 1000 * SECOND


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = create()
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("periods", [1, 2, 4])
@pytest.mark.parametrize("keys", [1, 1000, 10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("huge_pages", [False, True])
def test_take(benchmark: BenchmarkFixture, fd: int, huge_pages: bool, keys: int, periods: int) -> None:
    """Hash and decide, round-robin over `keys` keys, all of them in the table already."""
    if huge_pages and not use_huge_pages(fd):
        pytest.fail("this kernel backs no shared memory by huge pages (Linux 6.1 or newer does)")
    table = LimitTable(fd, 0)
    rates = [rate(1000 * 60**i, SECOND * 60**i) for i in range(periods)]
    benchmark.extra_info["calls"] = CALLS
    table.repeat(1, b"client-address", rates, keys, START, 0, keys)
    benchmark(table.repeat, 1, b"client-address", rates, CALLS, START, 1000, keys)


def test_take_refused(benchmark: BenchmarkFixture, fd: int) -> None:
    """A key that is over its limit: no write to shared memory."""
    table, rates = LimitTable(fd, 0), [rate(1, 3600 * SECOND)]
    benchmark.extra_info["calls"] = CALLS
    table.take(1, b"client-address" + bytes(8), rates, START)
    benchmark(table.repeat, 1, b"client-address", rates, CALLS, START, 0)
    assert table.repeat(1, b"client-address", rates, 1, START, 0) == 0


def test_take_in_an_overfull_table(benchmark: BenchmarkFixture) -> None:
    """Every decision inserts a key and evicts another: a flood of ever new addresses."""
    fd = create(1 << 20)
    try:
        table, rates = LimitTable(fd, 0), [rate(1, SECOND)]
        benchmark.extra_info["calls"] = CALLS
        benchmark(table.repeat, 1, b"flood", rates, CALLS, START, 1, 10_000_000)
        assert table.live_evictions > 0
    finally:
        os.close(fd)


def test_acquire_and_release(benchmark: BenchmarkFixture, fd: int) -> None:
    """One pair through the Python face, which is most of the time."""
    table = LimitTable(fd, 0)

    def pair() -> None:
        table.release(table.acquire(1, b"client", 100))

    benchmark(pair)
