"""Sums of the statistics over all workers, read from the shared region while the workers write."""

from typing import final

LATENCY_BOUNDS_US: tuple[int, ...]
"""Upper bounds (us, ascending) of ObjectTotals.cumulative."""

@final
class ObjectTotals:
    """One object's numbers, summed over the workers, since its slot was given to it; latencies in microseconds."""

    kind: str
    id: str
    slot: int
    requests: int
    bytes_in: int
    bytes_out: int
    connections: int
    in_flight: int
    connections_open: int
    statuses: dict[int, int]
    """Status code -> exchanges; only codes that occurred. 1 to 5: other codes of that class, 0: no HTTP code."""
    errors: dict[str, int]
    """Reason -> count; only reasons that occurred."""
    latency_count: int
    """Latencies in the histogram."""
    latency_lost: int
    """Latencies that found the histogram pool used up: in the sum and the mean, not in the quantiles."""
    latency_sum_us: int
    mean_us: float
    p50_us: int
    p75_us: int
    p95_us: int
    p99_us: int
    p999_us: int
    max_us: int
    cumulative: tuple[int, ...]
    """Latencies up to each of LATENCY_BOUNDS_US."""

@final
class SegmentTotals:
    """One worker's segment: who writes it and how full its histogram pool is."""

    worker: int
    pid: int
    opened: int
    octaves_used: int
    octaves_max: int
    latency_lost: int
    events: dict[str, int]
    """What happened to the worker as a whole: log_line_lost, shed_client, shed_server, shed_request."""

@final
class Traffic:
    """What came in over all listeners in some workers up to a moment, or between two moments."""

    def __init__(self) -> None:
        """Nothing."""

    @property
    def requests(self) -> int:
        """Exchanges ended."""

    @property
    def errors(self) -> dict[str, int]:
        """Reason -> how many of them; only reasons that occurred."""

    def quantile_us(self, quantile: float) -> int:
        """The latency that this share of them did not exceed, in microseconds within 0.8 %; 0 without any."""

    def plus(self, other: Traffic) -> Traffic:
        """Both together."""

    def since(self, earlier: Traffic) -> Traffic:
        """What came after an earlier moment. A listener that is gone since then takes its numbers with it: never below 0."""

@final
class Reader:
    """Sums over the workers for anyone who has the region's descriptor; opens it read-only."""

    def __init__(self, fd: int, *, only: str = "") -> None:
        """`only`: the one kind of objects to know; all without it. Raises RegionError for a descriptor that is no statistics
        region of this layout."""

    def __len__(self) -> int:
        """Return the number of live objects."""

    def totals(self, *, touched: bool = False) -> list[ObjectTotals]:
        """[ObjectTotals] of every live object, by kind, then by id; `touched`: but for those that nothing was counted for."""

    def total(self, kind: str, id: str) -> ObjectTotals | None:
        """The ObjectTotals of one object, None when the directory does not know it."""

    def segments(self) -> list[SegmentTotals]:
        """[SegmentTotals] of the workers that ever opened their segment, by number."""

    def traffic(self, worker: int) -> Traffic:
        """What one worker number has counted since the region was made; ValueError when there is no such segment."""

def order(row: ObjectTotals) -> tuple[int, str]:
    """Sort key of an object: its kind in the order of a request's way, then its id."""
