"""Huge pages keep what a region holds and never fail where the kernel has none."""

from __future__ import annotations

import os

import pytest

from bascule.shared.limits import LimitTable, create, rate
from bascule.shared.region import RegionError, use_huge_pages

SECOND = 1_000_000_000


def test_a_limits_region_keeps_its_entries_on_huge_pages() -> None:
    fd = create(16 << 20)
    try:
        table, rates = LimitTable(fd, 0), [rate(1, 3600 * SECOND)]
        assert table.repeat(1, b"k", rates, 5000, SECOND, 0, 5000) == 5000
        assert table.acquire(1, b"held", 1) >= 0
        backed = use_huge_pages(fd)
        assert backed % (2 << 20) == 0
        assert (16 << 20) - backed in (0, 16 << 20), "all or, on an old kernel, nothing"
        assert table.repeat(1, b"k", rates, 5000, SECOND, 0, 5000) == 0
        assert LimitTable(fd, 1).acquire(1, b"held", 1) == -1
        assert os.fstat(fd).st_blocks * 512 >= backed
    finally:
        os.close(fd)


def test_small_and_empty_descriptors() -> None:
    fd = create(1 << 20)
    empty = os.memfd_create("empty")
    try:
        assert use_huge_pages(fd) == 0
        with pytest.raises(RegionError, match="is empty"):
            use_huge_pages(empty)
    finally:
        os.close(fd)
        os.close(empty)
