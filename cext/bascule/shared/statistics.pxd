"""Counters and latency histograms in shared memory: one writer each, readers add up.

Every object (listener, frontend, backend, server) has an identity number, its stat_slot, given out by the master
(StatisticsDirectory in statistics.pyx) and kept as long as the object exists, over snapshots, crashes and upgrades. Workers key
their private state (server pools, round-robin weights) by the same number.

Owner of the region: the keeper (memfd). Writers: the directory by the master; segment w by worker w alone.
Readers: anyone, with relaxed loads; a total is the sum over the segments.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    STATISTICS_LAYOUT_VERSION = 1
    STAT_STATUSES = 64            # see status_index in statistics.pyx: the registered codes, and one "other" a class
    STAT_ERRORS = 24
    STAT_OCTAVES = 34             # log-linear histogram: octaves of 1 us .. 1 h, allocated when first used
    STAT_OCTAVE_BUCKETS = 64

cdef enum StatError:              # reasons; order is the layout, append only
    ERROR_NONE = 0
    ERROR_BAD_REQUEST = 1         # malformed, 400
    ERROR_REQUEST_TIMEOUT = 2     # 408
    ERROR_TOO_LARGE = 3           # 413, 414, 431
    ERROR_NO_ROUTE = 4            # 404
    ERROR_NO_SERVER = 5           # 503: none up
    ERROR_RATE_LIMITED = 6        # 429
    ERROR_CONCURRENCY_LIMITED = 7  # 429
    ERROR_CONNECT_FAILED = 8      # 502: refused, unreachable
    ERROR_CONNECT_TIMEOUT = 9     # 504
    ERROR_RESPONSE_TIMEOUT = 10   # 504: no response head in time
    ERROR_BAD_RESPONSE = 11       # 502: malformed
    ERROR_SERVER_CLOSED = 12      # 502: closed before the response head
    ERROR_RESPONSE_CUT = 13       # closed or silent inside the response body
    ERROR_CLIENT_GONE = 14        # 499
    ERROR_CLIENT_SLOW = 15        # silent or too slow while reading or sending a body
    ERROR_OVERLOAD = 16           # 503: out of memory budget, descriptors or connections
    ERROR_EXCHANGE_TIMEOUT = 17   # 504, whole exchange
    ERROR_RETRIED = 18            # not an error for the client: transparent retries
    ERROR_METHOD_REFUSED = 19     # CONNECT and the like, 405/501

cdef struct StatBlock:
    # Writer: one worker. All counters only grow, but in_flight. 1024 bytes, cache-line aligned, no two workers share one.
    uint64_t requests             # exchanges ended (listener: also those refused before routing)
    uint64_t bytes_in             # from the client (head and body)
    uint64_t bytes_out            # to the client (head and body)
    uint64_t connections          # accepted (listener) or opened (server)
    int64_t in_flight             # exchanges now; listener: client connections are in connections_open
    int64_t connections_open
    uint64_t latency_sum_us
    uint64_t reserved0
    uint64_t statuses[64]
    uint64_t errors[24]
    uint32_t octaves[34]          # 1 + index of an octave block of this segment, 0 = none yet
    uint8_t reserved1[120]

cdef struct StatSegment:          # a worker's view of its own segment; fields private to statistics.pyx
    uint8_t* base                 # of the region
    uint64_t size
    StatBlock* blocks             # indexed by stat_slot
    uint32_t block_count
    uint64_t* octave_blocks       # octave_count * STAT_OCTAVE_BUCKETS counters
    uint32_t octave_count
    void* header                  # the segment's header: octaves used, heartbeat, pid

cdef int statistics_open(StatSegment* segment, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil
cdef StatBlock* statistics_block(StatSegment* segment, uint32_t stat_slot) noexcept nogil  # never NULL: out of range -> a spare
cdef void statistics_latency(StatSegment* segment, StatBlock* block, uint64_t latency_us) noexcept nogil
cdef uint32_t statistics_status_index(uint32_t status) noexcept nogil
