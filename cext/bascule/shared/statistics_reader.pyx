"""Sums of the statistics over all workers, read from the shared region while the workers write.

Nothing is locked and nothing is written. A block counts only if it carries the slot's generation before and after it is
copied (a sequence lock whose writer never waits); numbers of one block may be a few exchanges apart from each other.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from bascule.shared.atomic cimport fence_acquire, load32, load32_acquire, load64, load64_acquire
from bascule.shared.region cimport Mapping, region_map, region_unmap
from bascule.shared.statistics cimport (
    STAT_ERRORS, STAT_OCTAVE_BUCKETS, STAT_OCTAVES, STAT_STATUSES, STATISTICS_OK, StatBlock
)
from bascule.shared.statistics_layout cimport (
    KIND_COUNT, LOG_ADD, LogEntry, RegionHeader, RegionLayout, SegmentHeader, check_region
)

from bascule.shared.region import RegionError


cdef enum:
    WORDS = 113                   # the 64-bit words of a block before its generation
    BOUNDS = 17

cdef tuple KIND_NAMES = ("", "listener", "frontend", "backend", "server")
# Index = StatError, without ERROR_NONE.
cdef tuple ERROR_NAMES = (
    "none", "bad_request", "request_timeout", "too_large", "no_route", "no_server", "rate_limited",
    "concurrency_limited", "connect_failed", "connect_timeout", "response_timeout", "bad_response", "server_closed",
    "response_cut", "client_gone", "client_slow", "overload", "exchange_timeout", "retried", "method_refused",
)
# Index = StatEvent.
cdef tuple EVENT_NAMES = ("log_line_lost", "shed_client", "shed_server", "shed_request")
# Upper bounds (us) of the coarse histogram; the fine buckets are far narrower than the distance between two of them.
LATENCY_BOUNDS_US = (
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
)
cdef uint64_t BOUNDS_US[17]
for _position in range(<uint32_t>BOUNDS):
    BOUNDS_US[_position] = LATENCY_BOUNDS_US[_position]

cdef struct Sum:
    # Owner: the Reader. One object over all workers.
    uint64_t requests
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t connections
    int64_t in_flight
    int64_t connections_open
    uint64_t latency_sum_us
    uint64_t latency_lost
    uint64_t statuses[64]
    uint64_t errors[24]
    uint64_t latency_count
    uint32_t octave_end           # octaves from here on are empty
    uint64_t buckets[34][64]


cdef class ObjectTotals:
    """One object's numbers, summed over the workers, since its slot was given to it; latencies in microseconds."""

    cdef readonly str kind
    cdef readonly str id
    cdef readonly uint32_t slot
    cdef readonly uint64_t requests
    cdef readonly uint64_t bytes_in
    cdef readonly uint64_t bytes_out
    cdef readonly uint64_t connections
    cdef readonly int64_t in_flight
    cdef readonly int64_t connections_open
    cdef readonly dict statuses
    cdef readonly dict errors
    cdef readonly uint64_t latency_count
    cdef readonly uint64_t latency_lost
    cdef readonly uint64_t latency_sum_us
    cdef readonly double mean_us
    cdef readonly uint64_t p50_us
    cdef readonly uint64_t p75_us
    cdef readonly uint64_t p95_us
    cdef readonly uint64_t p99_us
    cdef readonly uint64_t p999_us
    cdef readonly uint64_t max_us
    cdef readonly tuple cumulative

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id}: {self.requests} requests, {self.in_flight} in flight, p99 {self.p99_us} us>"


cdef class SegmentTotals:
    """One worker's segment: who writes it and how full its histogram pool is."""

    cdef readonly uint32_t worker
    cdef readonly uint32_t pid
    cdef readonly uint32_t opened
    cdef readonly uint32_t octaves_used
    cdef readonly uint32_t octaves_max
    cdef readonly uint64_t latency_lost
    cdef readonly dict events


cdef class Traffic:
    """What came in over all listeners in some workers up to a moment, or between two moments."""

    cdef Sum total

    def __init__(self):
        """Nothing."""
        memset(&self.total, 0, <size_t>(<uint8_t*>&self.total.buckets - <uint8_t*>&self.total))

    @property
    def requests(self) -> int:
        """Exchanges ended."""
        return self.total.requests

    @property
    def errors(self) -> dict:
        """Reason -> how many of them; only reasons that occurred."""
        return {
            ERROR_NAMES[i]: self.total.errors[i] for i in range(1, len(ERROR_NAMES)) if self.total.errors[i]
        }

    def quantile_us(self, double quantile) -> int:
        """The latency that this share of them did not exceed, in microseconds within 0.8 %; 0 without any."""
        cdef uint64_t seen = 0, rank = rank_of(quantile, self.total.latency_count)
        cdef uint32_t octave, bucket
        for octave in range(self.total.octave_end):
            for bucket in range(<uint32_t>STAT_OCTAVE_BUCKETS):
                seen += self.total.buckets[octave][bucket]
                if seen >= rank and self.total.latency_count:
                    return bucket_middle(octave, bucket)
        return 0

    def plus(self, Traffic other not None):
        """Both together."""
        cdef Traffic result = Traffic()
        combine(&result.total, &self.total, &other.total, False)
        return result

    def since(self, Traffic earlier not None):
        """What came after an earlier moment. A listener that is gone by now takes its numbers with it: never below 0."""
        cdef Traffic result = Traffic()
        combine(&result.total, &self.total, &earlier.total, True)
        return result


# ---- one object ----

cdef inline uint64_t bucket_middle(uint32_t octave, uint32_t bucket) noexcept nogil:
    """The value (us) that stands for a bucket: at most 0.8 % from any value in it."""
    if octave == 0:
        return bucket
    return (<uint64_t>(STAT_OCTAVE_BUCKETS + bucket) << (octave - 1)) + (((<uint64_t>1 << (octave - 1)) - 1) >> 1)


cdef void add_block(Sum* total, const StatBlock* block, uint32_t generation, const uint64_t* pool,
                    uint32_t pool_size) noexcept nogil:
    """Adds one worker's block if it belongs to this generation from beginning to end."""
    cdef StatBlock copy
    cdef uint64_t fresh[34][64]
    cdef uint64_t word
    cdef uint32_t i, j, index
    if load32_acquire(&block.generation) != generation:
        return
    for i in range(<uint32_t>WORDS):
        word = load64(<const uint64_t*>block + i)
        memcpy(<uint8_t*>&copy + 8 * i, &word, 8)
    for i in range(<uint32_t>STAT_OCTAVES):
        index = copy.octaves[i]
        if index == 0 or index > pool_size:
            copy.octaves[i] = 0
            continue
        for j in range(<uint32_t>STAT_OCTAVE_BUCKETS):
            fresh[i][j] = load64(&pool[<uint64_t>(index - 1) * STAT_OCTAVE_BUCKETS + j])
    fence_acquire()
    if load32(&block.generation) != generation:
        return
    total.requests += copy.requests
    total.bytes_in += copy.bytes_in
    total.bytes_out += copy.bytes_out
    total.connections += copy.connections
    total.in_flight += copy.in_flight
    total.connections_open += copy.connections_open
    total.latency_sum_us += copy.latency_sum_us
    total.latency_lost += copy.latency_lost
    for i in range(<uint32_t>STAT_STATUSES):
        total.statuses[i] += copy.statuses[i]
    for i in range(<uint32_t>STAT_ERRORS):
        total.errors[i] += copy.errors[i]
    for i in range(<uint32_t>STAT_OCTAVES):
        if copy.octaves[i] == 0:
            continue
        while total.octave_end <= i:
            memset(&total.buckets[total.octave_end], 0, sizeof(total.buckets[0]))
            total.octave_end += 1
        for j in range(<uint32_t>STAT_OCTAVE_BUCKETS):
            total.buckets[i][j] += fresh[i][j]
            total.latency_count += fresh[i][j]


cdef inline uint64_t combined(uint64_t one, uint64_t other, bint less) noexcept nogil:
    if less:
        return one - other if one > other else 0
    return one + other


cdef void combine(Sum* result, const Sum* one, const Sum* other, bint less) noexcept nogil:
    """Puts the sum or the difference of exchanges, errors and latencies in `result`, which is empty."""
    cdef uint32_t i, j
    result.requests = combined(one.requests, other.requests, less)
    for i in range(<uint32_t>STAT_ERRORS):
        result.errors[i] = combined(one.errors[i], other.errors[i], less)
    result.octave_end = one.octave_end if one.octave_end > other.octave_end else other.octave_end
    for i in range(result.octave_end):
        for j in range(<uint32_t>STAT_OCTAVE_BUCKETS):
            result.buckets[i][j] = combined(
                one.buckets[i][j] if i < one.octave_end else 0, other.buckets[i][j] if i < other.octave_end else 0,
                less)
            result.latency_count += result.buckets[i][j]


cdef inline uint64_t rank_of(double quantile, uint64_t count) noexcept nogil:
    """Nearest rank: the smallest number of values that is at least the wanted share."""
    cdef double exact = quantile * count
    cdef uint64_t rank = <uint64_t>exact
    rank += exact > rank
    return 1 if rank == 0 else count if rank > count else rank


cdef void summarise(const Sum* total, uint64_t* values, uint64_t* cumulative) noexcept nogil:
    """The values at five quantiles and the maximum, and the counts up to each bound, in one pass over the buckets."""
    cdef double quantiles[5]
    cdef uint64_t ranks[6]
    cdef uint64_t seen = 0, middle
    cdef uint32_t octave, bucket, next_rank = 0, next_bound = 0
    quantiles[0], quantiles[1], quantiles[2], quantiles[3], quantiles[4] = 0.5, 0.75, 0.95, 0.99, 0.999
    for bucket in range(5):
        ranks[bucket] = rank_of(quantiles[bucket], total.latency_count)
    ranks[5] = total.latency_count
    memset(values, 0, 6 * sizeof(uint64_t))
    for octave in range(total.octave_end):
        for bucket in range(<uint32_t>STAT_OCTAVE_BUCKETS):
            if total.buckets[octave][bucket] == 0:
                continue
            middle = bucket_middle(octave, bucket)
            while next_bound < BOUNDS and BOUNDS_US[next_bound] < middle:
                cumulative[next_bound] = seen
                next_bound += 1
            seen += total.buckets[octave][bucket]
            while next_rank < 6 and ranks[next_rank] <= seen:
                values[next_rank] = middle
                next_rank += 1
    while next_bound < BOUNDS:
        cumulative[next_bound] = seen
        next_bound += 1


cdef ObjectTotals totals_of(const Sum* total, uint32_t slot, str kind, str id, tuple codes):
    cdef ObjectTotals row = ObjectTotals.__new__(ObjectTotals)
    cdef uint64_t values[6]
    cdef uint64_t cumulative[BOUNDS]
    cdef uint32_t i
    row.kind, row.id, row.slot = kind, id, slot
    row.requests, row.bytes_in, row.bytes_out = total.requests, total.bytes_in, total.bytes_out
    row.connections, row.connections_open, row.in_flight = total.connections, total.connections_open, total.in_flight
    row.statuses, row.errors = {}, {}
    for i in range(<uint32_t>len(codes)):
        if total.statuses[i]:
            row.statuses[codes[i]] = total.statuses[i]
    for i in range(1, <uint32_t>STAT_ERRORS):
        if total.errors[i]:
            row.errors[ERROR_NAMES[i] if i < <uint32_t>len(ERROR_NAMES) else f"reason_{i}"] = total.errors[i]
    row.latency_count, row.latency_lost = total.latency_count, total.latency_lost
    row.latency_sum_us = total.latency_sum_us
    row.mean_us = 0.0
    if total.latency_count + total.latency_lost:
        row.mean_us = <double>total.latency_sum_us / (total.latency_count + total.latency_lost)
    summarise(total, values, cumulative)
    row.p50_us, row.p75_us, row.p95_us, row.p99_us, row.p999_us, row.max_us = (
        values[0], values[1], values[2], values[3], values[4], values[5])
    row.cumulative = tuple([cumulative[i] for i in range(<uint32_t>BOUNDS)])
    return row


# ---- the region ----

cdef class Reader:
    """Sums over the workers for anyone who has the region's descriptor; opens it read-only."""

    cdef Mapping mapping
    cdef RegionLayout layout
    cdef const RegionHeader* header
    cdef const uint32_t* generations
    cdef const SegmentHeader* segments_
    cdef dict objects             # slot -> (kind, id, generation)
    cdef object epoch             # of the log half that was read, None before the first
    cdef uint64_t used            # of it
    cdef tuple codes
    cdef str only

    def __cinit__(self, int fd, *, str only=""):
        region_map(&self.mapping, fd, False)
        if check_region(self.mapping.base, self.mapping.size, &self.layout) != STATISTICS_OK:
            raise RegionError("this is no statistics region of a layout this version knows")
        self.header = <const RegionHeader*>self.mapping.base
        self.generations = <const uint32_t*>(self.mapping.base + self.layout.generations_offset)
        self.segments_ = <const SegmentHeader*>(self.mapping.base + self.layout.segment_headers_offset)
        self.objects = {}
        self.only = only
        from bascule.shared.statistics import STATUS_CODES
        self.codes = STATUS_CODES

    def __dealloc__(self):
        region_unmap(&self.mapping)

    def __len__(self):
        self.refresh()
        return len(self.objects)

    cdef bint touched(self, uint32_t slot) noexcept:
        """Whether any worker has ever counted something in a slot."""
        cdef const uint8_t* start = self.mapping.base + self.layout.segments_offset
        cdef uint32_t worker
        for worker in range(self.header.workers):
            if load32_acquire(&self.segments_[worker].pid) != 0 and (
                    load64(<const uint64_t*>(start + worker * self.layout.segment_stride) + slot // 64) >> (slot % 64) & 1):
                return True
        return False

    def totals(self, *, bint touched=False) -> list:
        """[ObjectTotals] of every live object, by kind, then by id; `touched`: but for those that nothing was counted for."""
        self.refresh()
        rows = [self.total_of(slot, kind, id, generation) for slot, (kind, id, generation) in self.objects.items()
                if not touched or self.touched(slot)]
        rows.sort(key=order)
        return rows

    def total(self, str kind not None, str id not None):
        """The ObjectTotals of one object, None when the directory does not know it."""
        self.refresh()
        for slot, owner in self.objects.items():
            if owner[0] == kind and owner[1] == id:
                return self.total_of(slot, kind, id, owner[2])
        return None

    def segments(self) -> list:
        """[SegmentTotals] of the workers that ever opened their segment, by number."""
        cdef SegmentTotals row
        cdef uint32_t worker
        cdef list rows = []
        for worker in range(self.header.workers):
            if load32_acquire(&self.segments_[worker].pid) == 0:
                continue
            row = SegmentTotals.__new__(SegmentTotals)
            row.worker = worker
            row.pid = load32(&self.segments_[worker].pid)
            row.opened = load32(&self.segments_[worker].opened)
            row.octaves_used = load32(&self.segments_[worker].octaves_used)
            row.octaves_max = self.header.octave_blocks
            row.latency_lost = load64(&self.segments_[worker].latency_lost)
            row.events = {name: load64(&self.segments_[worker].events[i]) for i, name in enumerate(EVENT_NAMES)}
            rows.append(row)
        return rows

    def traffic(self, uint32_t worker):
        """What one worker number has counted since the region was made; ValueError when there is no such segment."""
        cdef Traffic result = Traffic()
        cdef uint32_t slot, generation
        if worker >= self.header.workers:
            raise ValueError(f"there is no segment for worker {worker}")
        self.refresh()
        for slot, (kind, _, generation) in self.objects.items():
            if kind == "listener":
                self.add(&result.total, worker, slot, generation)
        return result

    cdef void add(self, Sum* total, uint32_t worker, uint32_t slot, uint32_t generation) noexcept:
        """Adds what one worker counted for one object."""
        cdef const uint8_t* start = self.mapping.base + self.layout.segments_offset
        start += worker * self.layout.segment_stride
        if load32_acquire(&self.segments_[worker].pid) == 0:
            return
        if load64(<const uint64_t*>start + slot // 64) >> (slot % 64) & 1:
            add_block(
                total, <const StatBlock*>(start + self.layout.blocks_offset) + slot, generation,
                <const uint64_t*>(start + self.layout.octaves_offset), self.header.octave_blocks)

    cdef ObjectTotals total_of(self, uint32_t slot, str kind, str id, uint32_t generation):
        cdef Sum total
        cdef uint32_t worker
        # The buckets are cleared as far as they are used: they are all but 0.8 of 18 KB.
        memset(&total, 0, <size_t>(<uint8_t*>&total.buckets - <uint8_t*>&total))
        for worker in range(self.header.workers):
            self.add(&total, worker, slot, generation)
        return totals_of(&total, slot, kind, id, self.codes)

    cdef int refresh(self) except -1:
        """Reads what the directory's log has gained; from the start, and again, when it was compacted meanwhile."""
        cdef uint64_t state
        while True:
            state = load64_acquire(&self.header.log_state)
            epoch = state >> 32
            if epoch != self.epoch:
                self.objects, self.used, self.epoch = {}, 0, epoch
            whole = self.replay(state & 0xFFFFFFFF, epoch & 1)
            fence_acquire()
            if load64(&self.header.log_state) >> 32 == epoch:
                if not whole:
                    raise RegionError("the statistics directory's log is damaged: start a fresh region")
                return 0
            self.epoch = None

    cdef bint replay(self, uint64_t used, uint32_t half) except -1:
        """Applies the log entries up to `used`; False when they do not hold together."""
        cdef const uint8_t* start = self.mapping.base + self.layout.log_offset[half]
        cdef const LogEntry* entry
        if used > self.layout.log_size:
            return False
        while self.used + sizeof(LogEntry) <= used:
            entry = <const LogEntry*>(start + self.used)
            end = self.used + ((sizeof(LogEntry) + entry.id_length + 3) & ~<uint64_t>3)
            if end > used or entry.slot >= self.header.objects or not 0 < entry.kind < KIND_COUNT:
                return False
            if self.only and KIND_NAMES[entry.kind] != self.only:
                pass
            elif entry.operation == LOG_ADD:
                id = PyUnicode_DecodeUTF8(<const char*>entry + sizeof(LogEntry), entry.id_length, "replace")
                self.objects[entry.slot] = (KIND_NAMES[entry.kind], id, entry.generation)
            else:
                self.objects.pop(entry.slot, None)
            self.used = end
        return True


cdef dict KIND_ORDER = {name: i for i, name in enumerate(KIND_NAMES)}


def order(ObjectTotals row not None) -> tuple:
    """Sort key of an object: its kind in the order of a request's way, then its id."""
    return KIND_ORDER[row.kind], row.id
