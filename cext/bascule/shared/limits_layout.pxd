"""The bytes of the limits region, for limits.pyx (rates, the region itself) and concurrency.pyx; nobody else reads them.

Byte diagram and ownership: limits.pxd.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    static inline uint64_t bascule_scale(uint64_t hash, uint64_t n) {
        return (uint64_t)(((unsigned __int128)hash * n) >> 64);
    }
    """
    # hash * n / 2**64: a number below n out of the hash's high bits, without a division.
    uint64_t scale "bascule_scale"(uint64_t hash, uint64_t n) noexcept nogil

cdef enum:
    HEADER_SIZE = 4096
    WORKERS_MAX = 64              # worker numbers with a WorkerLine and holdings
    WORKER_LINE_SIZE = 128
    WAYS = 4                      # cells of a line
    RATES_MAX = 4                 # periods of a limit: they fit in one line
    CONCURRENCY_WAYS = 8
    COUNT_BITS = 24
    COUNT_MASK = 0xFFFFFF
    SIZE_MIN = 1 << 20
    BYTES_PER_CONCURRENCY_ENTRY = 1024  # of the region: 65,536 keys in flight at 64 MiB

cdef struct LimitsHeader:
    char magic[8]                 # b"BSCLLIMT"
    uint32_t layout_version       # LIMITS_LAYOUT_VERSION
    uint32_t header_size          # HEADER_SIZE
    uint64_t size                 # of the region; all offsets follow from it (region_layout)
    uint64_t seed[2]              # of limits_hash

cdef struct Layout:
    uint64_t rate_lines           # a multiple of 4: lines go in groups of four
    uint64_t concurrency_sets
    uint64_t rates_offset         # a multiple of 256, so that groups are aligned
    uint64_t concurrency_offset
    uint64_t holdings_offset

cdef struct WorkerLine:
    # Writer: one worker. 128 bytes, so that no two workers share a cache line or a prefetched pair.
    uint64_t live_evictions       # keys that were forgotten before their time had passed: the table is too small
    uint64_t uncounted            # admissions by a concurrency limit that found no room to be counted
    uint32_t holds                # this worker's holdings were ever used
    uint8_t reserved[108]         # WORKER_LINE_SIZE in all

cdef struct RateCell:             # one period of one key. Writers: every worker, by compare-and-swap
    uint64_t tag                  # the key's low 62 bits << 2 | period; 0 = empty
    uint64_t tat                  # theoretical arrival time, ns; meaningless in an empty cell

cdef struct RateLine:             # 64 bytes
    RateCell cells[4]
