"""Counters and latency histograms in shared memory: the workers' side, and the region's creation."""

from collections.abc import Iterable
from typing import final

from bascule.shared.statistics_directory import Directory as Directory
from bascule.shared.statistics_directory import DirectoryFull as DirectoryFull
from bascule.shared.statistics_reader import LATENCY_BOUNDS_US as LATENCY_BOUNDS_US
from bascule.shared.statistics_reader import ObjectTotals as ObjectTotals
from bascule.shared.statistics_reader import Reader as Reader
from bascule.shared.statistics_reader import SegmentTotals as SegmentTotals
from bascule.shared.statistics_reader import Traffic as Traffic

SLOTS_MAX: int
"""Slots that a region may have."""
STATUS_CODES: tuple[int, ...]
"""The codes counted singly, by index in a block; 1 to 5 stand for other codes of that class, 0 for no HTTP code."""

def describe(fault: int) -> str:
    """What a StatisticsFault returned by statistics_open means, in words."""

def create(*, workers: int = 64, objects: int = 131072) -> int:
    """A new region for `workers` segments and `objects` slots: a close-on-exec memfd, which the caller closes.

    The file is large (24 GiB by default) but sparse; only pages that are written take memory. Raises ValueError for
    counts out of range and OSError when the kernel refuses.
    """

@final
class Writer:
    """One worker's segment, for processes that count without an engine; opening it resets its gauges."""

    def __init__(self, fd: int, worker: int) -> None:
        """Raises RegionError for a descriptor that is no such region, and for a worker number without a segment."""

    def record(
        self,
        slot: int,
        status: int = 200,
        latency_us: int = 0,
        *,
        bytes_in: int = 0,
        bytes_out: int = 0,
        error: int = 0,
    ) -> None:
        """Counts one ended exchange; `error` is a StatError number, 0 for none."""

    def latencies(self, slot: int, values: Iterable[int]) -> None:
        """Counts many latencies (in us) without exchanges."""

    def gauges(self, slot: int, in_flight: int = 0, connections_open: int = 0) -> None:
        """Adds to the gauges; a positive number of connections also counts as connections made."""

    def repeat(self, slot: int, count: int) -> None:
        """Accounts `count` exchanges of varying latency in one compiled loop, for benchmarks."""
