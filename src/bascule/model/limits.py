"""Every bound of the configuration in one place, related to each other by assertions.

Units are last in the names. A bound that a C struct imposes names the struct; see cext/bascule/shared/snapshot.pxd.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final  # importing it costs a start 10 ms of CPU

ID_LENGTH_MAX: Final = 96
ID_PATTERN: Final = rf"[A-Za-z0-9._-]{{1,{ID_LENGTH_MAX}}}"

DURATION_MAX_MS: Final = 7 * 24 * 3600 * 1000
"""One week. Durations are uint32 milliseconds in the image and 31-bit ticks on the timer wheel."""

HEADER_BYTES_DEFAULT: Final = 16 * 1024
HEADER_BYTES_MIN: Final = 1024
HEADER_BYTES_MAX: Final = 29 * 1024
"""A head must fit one buffer of the engine (32 KiB), and with it the lines that are added on its way: HEAD_BYTES_BOUND."""
URI_BYTES_DEFAULT: Final = 8 * 1024
URI_BYTES_MIN: Final = 256

BODY_RATE_MAX_BYTES: Final = 1 << 30
CONNECTIONS_MAX: Final = 1 << 24
IDLE_CONNECTIONS_MAX: Final = 1 << 16

WEIGHT_MAX: Final = 1000
SERVERS_PER_BACKEND_MAX: Final = 10_000
PRIORITY_MAX: Final = 1_000_000
ROUTE_BYTES_MAX: Final = 8 * 1024
VERSION_BYTES_MAX: Final = 128

RATES_PER_LIMIT_MAX: Final = 4
"""MiddlewareRecord.rates has four places."""
MIDDLEWARES_PER_FRONTEND_MAX: Final = 32
CONCURRENCY_LIMITS_PER_FRONTEND_MAX: Final = 4
"""An exchange remembers what it holds in four places: HOLDINGS_MAX."""
REQUESTS_MAX: Final = 1_000_000_000
BURST_MAX: Final = 1_000_000_000
PERIOD_MAX_MS: Final = 366 * 24 * 3600 * 1000
CONCURRENCY_MAX: Final = 1 << 24
TOLERANCE_MAX_NS: Final = 1 << 62
"""A bucket's depth in time: arrival time plus tolerance must stay inside int64 nanoseconds."""

HOST_NAME_BYTES_MAX: Final = 253
UNIX_PATH_BYTES_MAX: Final = 107
"""sizeof(sockaddr_un.sun_path) less the closing NUL (unix(7))."""
PORT_MAX: Final = 65_535

WORKERS_MAX: Final = 64
"""Of all generations together: each worker has a segment of its own in the shared regions (shared/limits_layout.pxd)."""
SLOTS_MAX: Final = 1024
DRAIN_MAX_MS: Final = 24 * 3600 * 1000
LIMITS_MEMORY_MIN_BYTES: Final = 1 << 20
LIMITS_MEMORY_MAX_BYTES: Final = 1 << 36
WORKER_MEMORY_MIN_BYTES: Final = 1 << 20
WORKER_MEMORY_MAX_BYTES: Final = 1 << 40
RESOLVE_INTERVAL_MIN_MS: Final = 1000
HEALTH_INTERVAL_MIN_MS: Final = 100
HEALTH_THRESHOLD_MAX: Final = 100
HISTORY_AGE_MAX_MS: Final = 3650 * 24 * 3600 * 1000

KEY_BYTES_MAX: Final = 256
"""Two ids and what stands between them: longer keys are nobody's."""
VALUE_BYTES_MAX: Final = 64 * 1024
"""Of one stored object: the longest route with its middlewares' keys is a quarter of it."""

OBJECTS_MAX: Final = 4_000_000
"""Of one kind; indices are uint32 with NO_INDEX reserved."""

LISTED_MAX: Final = 400_000
"""Objects in statistics: of more, those are left out for which nothing was ever counted. Each is 1.5 KB while it is listed."""

assert DURATION_MAX_MS < 1 << 31
assert HEADER_BYTES_MIN <= HEADER_BYTES_DEFAULT <= HEADER_BYTES_MAX
assert URI_BYTES_MIN <= URI_BYTES_DEFAULT < HEADER_BYTES_DEFAULT, "the request target is a part of the head"
assert URI_BYTES_MIN < HEADER_BYTES_MIN
assert CONCURRENCY_LIMITS_PER_FRONTEND_MAX <= MIDDLEWARES_PER_FRONTEND_MAX
assert WEIGHT_MAX < 1 << 16, "ServerRecord.weight is uint16"
assert PRIORITY_MAX < 1 << 31, "FrontendRecord.priority is int32"
assert REQUESTS_MAX < 1 << 32, "RateSpec.requests is uint32"
assert PERIOD_MAX_MS * 1_000_000 < TOLERANCE_MAX_NS
assert PERIOD_MAX_MS // 1000 < 1 << 32, "RateSpec.period_s is uint32"
assert CONNECTIONS_MAX < 1 << 32
assert CONCURRENCY_MAX < 1 << 32
assert DRAIN_MAX_MS <= DURATION_MAX_MS
assert OBJECTS_MAX < 0xFFFFFFFF
assert WORKERS_MAX <= SLOTS_MAX, "every worker holds at least one slot"
