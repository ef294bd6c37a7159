"""Rate and concurrency limits for the whole host, in one shared table."""

from collections.abc import Sequence
from typing import final

def describe(fault: int) -> str:
    """What a LimitsFault returned by limits_open means, in words."""

def create(size_bytes: int = 67108864, *, seed: bytes | None = None) -> int:
    """A new region of `size_bytes` (1 MiB to 1 TiB): a sparse close-on-exec memfd, which the caller closes.

    64 MiB hold three million rate cells, one for each period of a key whose time has not passed, and 65,536 concurrency keys
    in flight. `seed` (16 bytes) is random when not given. Raises ValueError for a size out of range.
    """

def inspect(fd: int) -> None:
    """Raises RegionError for a descriptor that is no region of this layout; looks and changes nothing."""

def rate(requests: int, period_ns: int, burst: int = 0) -> tuple[int, int, int, int]:
    """GCRA parameters (interval_ns, tolerance_ns, requests, period_s) of `requests` a period, bursts of `burst`.

    A `burst` of 0 means as many as `requests`. Raises ValueError when nothing could ever pass.
    """

@final
class Decision:
    """What a rate limit said; true when it admitted. Of several periods, the one that decides is described."""

    admitted: bool
    limit: int
    """Requests of the period."""
    remaining: int
    """Requests left in it now."""
    period_s: int
    retry_after_ns: int
    """Until the request would be admitted; 0 when it was."""
    reset_ns: int
    """Until the bucket is full again."""

    def __bool__(self) -> bool: ...

@final
class LimitTable:
    """One worker's access to a limits region; opening it releases what an earlier worker of that number held."""

    def __init__(self, fd: int, worker: int) -> None:
        """Raises RegionError for a descriptor that is no such region, and for a worker number without a place."""

    def hash(self, identity: int, key: bytes) -> int:
        """The 64-bit key of a middleware's identity and a request's key bytes."""

    def take(self, identity: int, key: bytes, rates: Sequence[tuple[int, int, int, int]], now_ns: int) -> Decision:
        """Takes one request from every period of `rates` (1 to 4 results of `rate`), or from none: a Decision."""

    def repeat(
        self,
        identity: int,
        key: bytes,
        rates: Sequence[tuple[int, int, int, int]],
        count: int,
        now_ns: int,
        step_ns: int,
        keys: int = 1,
    ) -> int:
        """Tries `count` times in one compiled loop, `step_ns` apart, and returns how many were admitted.

        With `keys` > 1 the tries go round as many different keys, whose numbers are appended to `key`.
        """

    def acquire(self, identity: int, key: bytes, concurrency_max: int) -> int:
        """A handle for `release`, or -1 when the key is at its maximum."""

    def release(self, handle: int) -> None:
        """Gives back one admission; a handle that is not held is ignored."""

    @property
    def capacity(self) -> tuple[int, int]:
        """(rate cells, one for each period of a key; concurrency entries) of the region."""

    @property
    def live_evictions(self) -> int:
        """Keys this worker number made the table forget before their time had passed: not 0 asks for more room."""

    @property
    def uncounted(self) -> int:
        """Requests this worker number admitted past a concurrency limit because the table had no room to count them."""
