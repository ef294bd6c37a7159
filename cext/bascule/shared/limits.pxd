"""Rate and concurrency limits in one shared table for the whole host (DESIGN section 3.8).

GCRA: a cell is a key tag and one 64-bit word, the theoretical arrival time (TAT) in ns of CLOCK_MONOTONIC, updated by
compare-and-swap. A cell whose TAT has passed equals an absent one, so evicting it loses nothing.

    +-------------+------------------+--------------------+------------------------+--------------------------------+
    | header 4096 | WorkerLine * 64  | rates: lines of 4  | concurrency: sets of 8 | holdings: uint32 a worker and  |
    |             | 128 bytes each   | {tag, tat}, 64 B   | tag << 24 | count      | concurrency entry              |
    +-------------+------------------+--------------------+------------------------+--------------------------------+

A cell is one period of one key: 16 bytes a period, 64 for the four that a limit has at most. The periods of a key lie in one
line, its home, which its hash names. Where others fill that, they lie in the next line of the group of four (256 bytes, one page):
keys with one or two periods in their pair of lines, keys with more in any of the four. Cells stand alone: each is found by
its own tag, charged by its own compare-and-swap, and given away when its own time has passed.

A limit whose number of periods is changed: periods go by their place in the list. Those that it keeps go on where they are, new ones
start full, dropped ones are forgotten when their time has passed, as any other cell. From three or four down to one or two, a
crowded key that lay in the other pair of its group starts full.

Owner of the region: the keeper (memfd). Writers: every worker, by atomic operations only; worker lines and holdings
have one writer each. Dies with the keeper. Bounded: a key without room takes the cell whose time passes first.
Every worker passes the same 64-bit keys: key = limits_hash(table, middleware identity, key bytes).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from bascule.shared.snapshot cimport RateSpec


cdef enum:
    LIMITS_LAYOUT_VERSION = 3

cdef enum LimitsFault:
    LIMITS_OK = 0
    LIMITS_BAD_MAGIC = 1          # no limits region
    LIMITS_BAD_VERSION = 2        # another layout: start a fresh region
    LIMITS_BAD_SIZE = 3           # cut, or its header does not hold together
    LIMITS_BAD_WORKER = 4         # the worker number has no place for its holdings

cdef struct LimitTable:           # a worker's view of the mapped region; fields private to limits.pyx
    uint8_t* base
    uint64_t size
    uint64_t seed                 # of limits_hash; random per region, so that clients cannot choose collisions
    uint64_t seed_high
    void* rates
    void* concurrency
    uint64_t rate_lines
    uint64_t concurrency_sets
    uint32_t worker               # this worker's number, owner of its concurrency holdings
    void* holdings                # of this worker
    void* holder                  # WorkerLine of this worker

cdef struct RateDecision:
    int admitted                  # 1 = every period admitted and was charged; 0 = nothing was charged
    # Set when refused, and by limits_remaining:
    uint32_t limit                # requests of the period that decides (the tightest when admitted)
    uint32_t remaining            # requests left in it now
    uint32_t period_s
    uint64_t retry_after_ns       # when not admitted: until the request would be admitted
    uint64_t reset_ns             # until the bucket is full again
    uint64_t tats[4]              # of each period after the charge; set when admitted

# Attaches a worker and releases what a dead worker of the same number held. Returns a LimitsFault.
cdef int limits_open(LimitTable* table, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil
# siphash13 under the seed of the region.
cdef uint64_t limits_hash(const LimitTable* table, uint64_t identity, const uint8_t* key,
                          uint32_t length) noexcept nogil
# Fetches what limits_take will look at. The line comes from memory: three quarters of what a decision costs at 100,000 keys and
# more, so a caller that knows the key does something else of 100 ns or more before it asks for the decision.
cdef void limits_prefetch(const LimitTable* table, uint64_t key, uint32_t rate_count) noexcept nogil
cdef void limits_take(LimitTable* table, uint64_t key, const RateSpec* rates, uint32_t rate_count, uint64_t now_ns,
                      RateDecision* decision) noexcept nogil
# For who tells a client that was admitted how much is left: a division a period, so limits_take does not.
cdef void limits_remaining(RateDecision* decision, const RateSpec* rates, uint32_t rate_count,
                           uint64_t now_ns) noexcept nogil
