"""Counters and latency histograms in shared memory: one writer each, readers add up.

Every object (listener, frontend, backend, server) has an identity number, its stat_slot, given out by the master
(Directory in statistics_directory.pyx) and kept as long as the object exists, over snapshots, crashes and upgrades.
Workers key their private state (server pools, round-robin weights) by the same number.

    +-------------+-----------------+-------------+-------+-------+-----------+-----------+-- ... --+
    | header 4096 | segment headers | generations | log A | log B | segment 0 | segment 1 |         |
    +-------------+-----------------+-------------+-------+-------+-----------+-----------+-- ... --+
    a segment:  touched bitmap | blocks: one StatBlock a slot, one spare | pool of octave blocks (512 bytes each)
Exact offsets: statistics_layout.pxd. The file is sparse: a page that nobody wrote costs nothing, and nobody reads one.

Owner of the region: the keeper (memfd). Writers: the directory by the master; segment w by worker w alone.
Readers: anyone, with relaxed loads; a total is the sum over the segments (Reader in statistics_reader.pyx).

A slot that is given to another object gets a new generation number in the region's table. No one but its writer ever
writes to a block: statistics_block compares the block's generation with the table's and, when they differ, the worker
itself zeroes its block first; readers ignore blocks of another generation. So reuse needs no lock and cannot show one
object another's numbers.
Life of a block: untouched (generation 0) -> current -> [slot reused] -> stale -> renewed by its worker -> current.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from bascule.shared.atomic cimport load32, top_bit


cdef enum:
    STATISTICS_LAYOUT_VERSION = 1
    STAT_STATUSES = 64            # see status_index in statistics.pyx: the registered codes, and one "other" a class
    STAT_ERRORS = 24
    STAT_OCTAVES = 34             # log-linear histogram: octaves of 1 us .. 1 h, allocated when first used
    STAT_OCTAVE_BUCKETS = 64
    STAT_LATENCY_MAX_US = 0x7FFFFFFFFF  # 2**39 - 1, the end of the last octave

cdef enum StatisticsFault:
    STATISTICS_OK = 0
    STATISTICS_BAD_MAGIC = 1      # no statistics region
    STATISTICS_BAD_VERSION = 2    # another layout: start a fresh region
    STATISTICS_BAD_SIZE = 3       # cut, or its header does not hold together
    STATISTICS_BAD_WORKER = 4     # the worker number has no segment

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

cdef enum StatEvent:              # of a worker as a whole, of no object; order is the layout, append only
    EVENT_LOG_LINE_LOST = 0       # an access log line that its file did not take
    EVENT_SHED_CLIENT = 1         # an idle client connection closed because memory was short
    EVENT_SHED_SERVER = 2         # an idle server connection, likewise
    EVENT_SHED_REQUEST = 3        # a request answered 503, likewise
    STAT_EVENTS = 13

cdef struct StatBlock:
    # Writer: one worker. All counters only grow, but in_flight. 1024 bytes; no two workers share a cache line.
    uint64_t requests             # exchanges ended (listener: also those refused before routing)
    uint64_t bytes_in             # from the client (head and body)
    uint64_t bytes_out            # to the client (head and body)
    uint64_t connections          # accepted (listener) or opened (server)
    int64_t in_flight             # exchanges now; listener: client connections are in connections_open
    int64_t connections_open
    uint64_t latency_sum_us
    uint64_t latency_lost         # latencies without a bucket, because the segment's octave pool was used up
    uint64_t statuses[64]
    uint64_t errors[24]
    uint32_t octaves[34]          # 1 + index of an octave block of this segment, 0 = none yet
    uint32_t generation           # of the object counted here; 0 = nobody's, GENERATION_RENEWING = being zeroed
    uint8_t reserved[116]

cdef struct StatSegment:          # a worker's view of its own segment; fields private to shared/
    uint8_t* base                 # of the region
    uint64_t size
    StatBlock* blocks             # indexed by stat_slot; blocks[block_count] is the spare
    const uint32_t* generations   # of the slots, written by the directory
    uint64_t* touched             # bitmap: blocks that were ever current
    uint64_t* octave_blocks       # octave_count * STAT_OCTAVE_BUCKETS counters
    uint32_t block_count
    uint32_t octave_count
    void* header                  # SegmentHeader

# Attaches worker number `worker` to its segment and takes it over from a dead predecessor: the gauges (in_flight,
# connections_open) go back to 0, the counters go on. `base` must be page-aligned. Returns a StatisticsFault.
cdef int statistics_open(StatSegment* segment, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil

cdef void statistics_event(StatSegment* segment, StatEvent event, uint64_t count) noexcept nogil

# The slow paths of the two functions below.
cdef void statistics_renew(StatSegment* segment, uint32_t stat_slot) noexcept nogil
cdef uint32_t statistics_octave(StatSegment* segment, StatBlock* block, uint32_t octave) noexcept nogil

cdef inline StatBlock* statistics_block(StatSegment* segment, uint32_t stat_slot) noexcept nogil:
    """The worker's block of a slot; never NULL, a slot out of range gives the spare block that nobody reads."""
    if stat_slot >= segment.block_count:
        return &segment.blocks[segment.block_count]
    if segment.blocks[stat_slot].generation != load32(&segment.generations[stat_slot]):
        statistics_renew(segment, stat_slot)
    return &segment.blocks[stat_slot]

cdef inline void statistics_latency(StatSegment* segment, StatBlock* block, uint64_t latency_us) noexcept nogil:
    """Counts one latency into the block's histogram: log-linear, at most 1.6 % wide, so 0.8 % off at its middle.

    Octave 0 holds 0..63 us singly, octave k >= 1 holds [2**(k+5), 2**(k+6)) us in 64 steps; beyond 2**39 us (six days)
    it clamps. After G. Tene's HdrHistogram; octaves get their 512 bytes from the segment's pool when first used.
    """
    cdef uint64_t value = latency_us if latency_us < STAT_LATENCY_MAX_US else STAT_LATENCY_MAX_US
    cdef uint32_t octave = 0
    cdef uint32_t bucket = <uint32_t>value
    cdef uint32_t index
    if value >= STAT_OCTAVE_BUCKETS:
        octave = top_bit(value) - 5
        bucket = <uint32_t>(value >> (octave - 1)) - STAT_OCTAVE_BUCKETS
    block.latency_sum_us += latency_us
    index = block.octaves[octave]
    if index == 0:
        index = statistics_octave(segment, block, octave)
        if index == 0:
            return
    segment.octave_blocks[<uint64_t>(index - 1) * STAT_OCTAVE_BUCKETS + bucket] += 1

cdef uint32_t statistics_status_index(uint32_t status) noexcept nogil  # < STAT_STATUSES, for any number
