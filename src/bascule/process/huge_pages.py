"""Huge pages for the table of limits, from the moment it is really used.

A decision over many clients reads the table at random, and on 4 KiB pages a walk through the page tables comes on top:
200 instead of 150 ns at 100,000 keys (docs/shared-memory.md). Huge pages make the whole region resident, but so do keys,
which fall anywhere: 10,000 of them touch half of the pages of 64 MiB. So the region is moved to huge pages when a
quarter of it is resident, and one without limits stays as small as it is.
"""

import asyncio
import os

from bascule.process.log import Log
from bascule.shared.region import use_huge_pages

LOOK_S = 2.0
RESIDENT_SHARE = 4
"""One in so many pages."""

_BLOCK_BYTES = 512


async def back_when_used(region: int, log: Log, look_s: float = LOOK_S) -> None:
    """Return when the region on the descriptor is on huge pages, as far as the kernel has them."""
    while not _is_used(region):
        await asyncio.sleep(look_s)
    backed = await asyncio.to_thread(use_huge_pages, region)
    if backed:
        log.info("the table of limits is on huge pages", bytes=backed)
    else:
        log.info("the table of limits stays on small pages: this kernel (before 6.1) or its free memory allows no more")


def _is_used(region: int) -> bool:
    status = os.fstat(region)
    return status.st_blocks * _BLOCK_BYTES * RESIDENT_SHARE >= status.st_size
