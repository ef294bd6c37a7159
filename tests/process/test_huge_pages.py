"""The table of limits moves to huge pages when it is really used, and not before."""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator

import pytest

from bascule.process.huge_pages import back_when_used
from bascule.process.log import Log
from bascule.shared.limits import LimitTable, create, rate
from kit.waiting import until
from process.balancer import Balancer

SECOND_NS = 1_000_000_000
HOUR = [rate(1, 3600 * SECOND_NS)]


@pytest.fixture
def region() -> Iterator[int]:
    descriptor = create(16 << 20)
    yield descriptor
    os.close(descriptor)


def fill(descriptor: int, keys: int) -> LimitTable:
    table = LimitTable(descriptor, 63)
    assert table.repeat(1, b"key", HOUR, keys, SECOND_NS, 0, keys) == keys
    return table


def test_a_table_of_few_keys_stays_as_small_as_it_is(region: int) -> None:
    fill(region, 100)
    resident = os.fstat(region).st_blocks

    async def wait() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(back_when_used(region, Log(), look_s=0.01), 0.2)

    asyncio.run(wait())
    assert os.fstat(region).st_blocks == resident


def test_a_full_table_keeps_its_keys_on_huge_pages(region: int, capfd: pytest.CaptureFixture[str]) -> None:
    table = fill(region, 5000)
    asyncio.run(back_when_used(region, Log(), look_s=0.01))
    assert re.search("the table of limits (is on huge pages|stays on small pages)", capfd.readouterr().err)
    assert table.repeat(1, b"key", HOUR, 5000, SECOND_NS, 0, 5000) == 0


def test_a_running_balancer_looks_by_itself(start: Callable[..., Balancer]) -> None:
    balancer = start(workers=1)
    keeper = f"/proc/{balancer.process.pid}/fd"
    (name,) = (fd for fd in os.listdir(keeper) if "bascule-limits" in os.readlink(f"{keeper}/{fd}"))
    descriptor = os.open(f"{keeper}/{name}", os.O_RDWR)
    try:
        fill(descriptor, 20_000)
        until(lambda: "the table of limits" in balancer.log(), "a word about huge pages")
    finally:
        os.close(descriptor)
