"""Rate and concurrency limits in one shared table for the whole host (DESIGN section 3.8).

GCRA: an entry is a key tag and one 64-bit word, the theoretical arrival time (TAT) in ns of CLOCK_MONOTONIC, updated by
compare-and-swap. An entry whose TAT has passed equals an absent one, so evicting it loses nothing.

Owner of the region: the keeper (memfd). Writers: every worker, by atomic operations only. Dies with the keeper.
Every worker passes the same 64-bit keys: key = limits_hash(table, middleware identity, key bytes).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from bascule.shared.snapshot cimport RateSpec


cdef enum:
    LIMITS_LAYOUT_VERSION = 1

cdef struct LimitTable:           # a worker's view of the mapped region; fields private to limits.pyx
    uint8_t* base
    uint64_t size
    uint64_t seed                 # of limits_hash; random per region, so that clients cannot choose collisions
    void* rates
    void* concurrency
    uint64_t rate_sets
    uint64_t concurrency_sets
    uint32_t worker               # this worker's number, owner of its concurrency holdings
    void* holdings

cdef struct RateDecision:
    int admitted                  # 1 = every period admitted and was charged; 0 = nothing was charged
    uint32_t limit                # requests of the period that decides (the tightest when admitted)
    uint32_t remaining            # requests left in it now
    uint32_t period_s
    uint64_t retry_after_ns       # when not admitted: until the request would be admitted
    uint64_t reset_ns             # until the bucket is full again

cdef int limits_open(LimitTable* table, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil  # 0, or a LimitsError
cdef uint64_t limits_hash(const LimitTable* table, uint64_t identity, const uint8_t* key, uint32_t length) noexcept nogil
cdef void limits_take(LimitTable* table, uint64_t key, const RateSpec* rates, uint32_t rate_count, uint64_t now_ns,
                      RateDecision* decision) noexcept nogil
# Concurrency: acquire returns a handle >= 0 to be released exactly once, or -1 when the key is at its maximum.
cdef int64_t limits_acquire(LimitTable* table, uint64_t key, uint32_t concurrency_max) noexcept nogil
cdef void limits_release(LimitTable* table, int64_t handle) noexcept nogil
