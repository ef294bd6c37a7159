"""The workers' side of the statistics region, and its creation: see statistics.pxd.

The directory of identities is statistics_directory.pyx, the sums are statistics_reader.pyx.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

from bascule.shared.atomic cimport (
    fence_release, load32, store32, store32_release, store64, top_bit
)
from bascule.shared.region cimport Mapping, region_create, region_map, region_unmap
from bascule.shared.statistics_layout cimport (
    GENERATION_RENEWING, OBJECTS_MAX, STATISTICS_HEADER_SIZE, WORKERS_MAX, RegionHeader, RegionLayout,
    SegmentHeader, check_region, region_layout
)

from bascule.shared.region import RegionError


SLOTS_MAX = OBJECTS_MAX


cdef enum:
    OCTAVE_BLOCKS_PER_OBJECT = 4  # the average of busy objects is five, and most objects are not busy in most workers


# ---- status codes ----

# The codes of the IANA registry that occur, and 499 (client gone), which nginx made customary. Their position is the
# layout: append only, at most 64. Index 0 counts numbers outside 100..599, index 1..5 other codes of class 1xx..5xx.
STATUS_CODES = (
    0, 1, 2, 3, 4, 5,
    100, 101, 103,
    200, 201, 202, 203, 204, 205, 206, 207,
    300, 301, 302, 303, 304, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
    421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499,
    500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
)
cdef uint8_t STATUS_INDEX[600]


cdef uint32_t statistics_status_index(uint32_t status) noexcept nogil:
    return STATUS_INDEX[status] if status < 600 else 0


cdef fill_status_index():
    assert len(STATUS_CODES) <= STAT_STATUSES
    cdef uint32_t code
    for code in range(600):
        STATUS_INDEX[code] = code // 100
    for index, registered in enumerate(STATUS_CODES):
        STATUS_INDEX[<uint32_t>registered] = index
    for code in range(100):
        STATUS_INDEX[code] = 0


# ---- a worker's segment ----

cdef void reset_gauges(StatSegment* segment) noexcept nogil:
    """What a dead predecessor had in flight is gone. Visits only touched blocks, so that untouched pages stay holes."""
    cdef uint32_t word, slot
    cdef uint64_t bits
    for word in range((segment.block_count + 63) // 64):
        bits = segment.touched[word]
        while bits:
            slot = word * 64 + top_bit(bits)
            bits ^= (<uint64_t>1) << (slot % 64)
            store64(<uint64_t*>&segment.blocks[slot].in_flight, 0)
            store64(<uint64_t*>&segment.blocks[slot].connections_open, 0)


cdef int statistics_open(StatSegment* segment, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil:
    cdef RegionLayout layout
    cdef RegionHeader* header = <RegionHeader*>base
    cdef SegmentHeader* own
    cdef uint8_t* start
    cdef int fault = check_region(base, size, &layout)
    if fault != STATISTICS_OK:
        return fault
    if worker >= header.workers:
        return STATISTICS_BAD_WORKER
    start = base + layout.segments_offset + worker * layout.segment_stride
    segment.base = base
    segment.size = size
    segment.touched = <uint64_t*>start
    segment.blocks = <StatBlock*>(start + layout.blocks_offset)
    segment.octave_blocks = <uint64_t*>(start + layout.octaves_offset)
    segment.generations = <const uint32_t*>(base + layout.generations_offset)
    segment.block_count = header.objects
    segment.octave_count = header.octave_blocks
    own = <SegmentHeader*>(base + layout.segment_headers_offset) + worker
    segment.header = own
    if own.pid != 0:
        reset_gauges(segment)
    store32(&own.opened, own.opened + 1)
    store32_release(&own.pid, getpid())
    return STATISTICS_OK


cdef void statistics_event(StatSegment* segment, StatEvent event, uint64_t count) noexcept nogil:
    if segment.header != NULL:
        (<SegmentHeader*>segment.header).events[<uint32_t>event] += count


cdef uint32_t statistics_octave(StatSegment* segment, StatBlock* block, uint32_t octave) noexcept nogil:
    """Gives the block an octave of the pool: 1 + its index, or 0 after counting the latency as lost."""
    cdef SegmentHeader* header = <SegmentHeader*>segment.header
    cdef uint32_t index = header.octave_free
    cdef uint64_t* counters
    # A crash between two of these stores leaks one octave block and can do nothing worse.
    if index != 0:
        counters = &segment.octave_blocks[<uint64_t>(index - 1) * STAT_OCTAVE_BUCKETS]
        store32(&header.octave_free, <uint32_t>counters[0])
        store64(&counters[0], 0)
    elif header.octaves_used < segment.octave_count:
        index = header.octaves_used + 1
        store32(&header.octaves_used, index)
    else:
        header.latency_lost += 1
        block.latency_lost += 1
        return 0
    store32_release(&block.octaves[octave], index)
    return index


cdef void free_octaves(StatSegment* segment, StatBlock* block) noexcept nogil:
    cdef SegmentHeader* header = <SegmentHeader*>segment.header
    cdef uint64_t* counters
    cdef uint32_t octave, index
    for octave in range(<uint32_t>STAT_OCTAVES):
        index = block.octaves[octave]
        if index == 0 or index > segment.octave_count:
            continue
        store32_release(&block.octaves[octave], 0)
        counters = &segment.octave_blocks[<uint64_t>(index - 1) * STAT_OCTAVE_BUCKETS]
        memset(counters, 0, STAT_OCTAVE_BUCKETS * 8)
        store64(&counters[0], header.octave_free)
        store32_release(&header.octave_free, index)


cdef void statistics_renew(StatSegment* segment, uint32_t stat_slot) noexcept nogil:
    """Makes the block belong to the object that has the slot now, with all numbers at zero."""
    cdef StatBlock* block = &segment.blocks[stat_slot]
    cdef uint64_t* word = &segment.touched[stat_slot // 64]
    cdef uint32_t generation = load32(&segment.generations[stat_slot])
    store32(&block.generation, GENERATION_RENEWING)
    fence_release()
    free_octaves(segment, block)
    memset(block, 0, <size_t>(<uint8_t*>&block.generation - <uint8_t*>block))
    store64(word, word[0] | (<uint64_t>1) << (stat_slot % 64))
    store32_release(&block.generation, generation)


# ---- Python face ----

cdef dict FAULT_TEXTS = {
    STATISTICS_BAD_MAGIC: "this is no statistics region",
    STATISTICS_BAD_VERSION: "the statistics region has a layout that this version does not know: start a fresh one",
    STATISTICS_BAD_SIZE: "the statistics region was cut or its header was overwritten: start a fresh one",
    STATISTICS_BAD_WORKER: "the worker's number has no segment in the statistics region: run fewer workers or start a"
                           " region with more",
}


def describe(int fault) -> str:
    """What a StatisticsFault returned by statistics_open means, in words."""
    return FAULT_TEXTS.get(fault, f"unknown fault {fault}")


def create(*, uint32_t workers=64, uint32_t objects=131072) -> int:
    """A new region for `workers` segments and `objects` slots: a close-on-exec memfd, which the caller closes.

    The file is large (24 GiB by default) but sparse; only pages that are written take memory. Raises ValueError for
    counts out of range and OSError when the kernel refuses.
    """
    cdef RegionHeader header
    cdef Mapping mapping
    if not 1 <= workers <= WORKERS_MAX:
        raise ValueError(f"workers must be 1 to {WORKERS_MAX}, not {workers}")
    if not 1 <= objects <= OBJECTS_MAX:
        raise ValueError(f"objects must be 1 to {OBJECTS_MAX}, not {objects}")
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, b"BSCLSTAT", 8)
    header.layout_version = STATISTICS_LAYOUT_VERSION
    header.header_size = STATISTICS_HEADER_SIZE
    header.workers = workers
    header.objects = objects
    # A few objects may all be busy and wide; many are not.
    header.octave_blocks = objects * OCTAVE_BLOCKS_PER_OBJECT + 1024
    header.size = region_layout(workers, objects, header.octave_blocks).size
    fd = region_create(b"bascule-statistics", header.size)
    region_map(&mapping, fd, True)
    memcpy(mapping.base, &header, sizeof(header))
    region_unmap(&mapping)
    return fd


cdef class Writer:
    """One worker's segment, for processes that count without an engine; opening it resets its gauges."""

    cdef Mapping mapping
    cdef StatSegment segment

    def __cinit__(self, int fd, uint32_t worker):
        cdef int fault
        region_map(&self.mapping, fd, True)
        fault = statistics_open(&self.segment, self.mapping.base, self.mapping.size, worker)
        if fault != STATISTICS_OK:
            raise RegionError(describe(fault))

    def __dealloc__(self):
        region_unmap(&self.mapping)

    def record(self, uint32_t slot, uint32_t status=200, uint64_t latency_us=0, *, uint64_t bytes_in=0,
               uint64_t bytes_out=0, uint32_t error=0) -> None:
        """Counts one ended exchange; `error` is a StatError number, 0 for none."""
        cdef StatBlock* block = statistics_block(&self.segment, slot)
        block.requests += 1
        block.bytes_in += bytes_in
        block.bytes_out += bytes_out
        block.statuses[statistics_status_index(status)] += 1
        if 0 < error < STAT_ERRORS:
            block.errors[error] += 1
        statistics_latency(&self.segment, block, latency_us)

    def latencies(self, uint32_t slot, values) -> None:
        """Counts many latencies (in us) without exchanges."""
        cdef uint64_t value
        for value in values:
            statistics_latency(&self.segment, statistics_block(&self.segment, slot), value)

    def gauges(self, uint32_t slot, int64_t in_flight=0, int64_t connections_open=0) -> None:
        """Adds to the gauges; a positive number of connections also counts as connections made."""
        cdef StatBlock* block = statistics_block(&self.segment, slot)
        block.in_flight += in_flight
        block.connections_open += connections_open
        if connections_open > 0:
            block.connections += connections_open

    def repeat(self, uint32_t slot, uint64_t count) -> None:
        """Accounts `count` exchanges of varying latency in one compiled loop, for benchmarks."""
        cdef StatBlock* block
        cdef uint64_t i
        with nogil:
            for i in range(count):
                block = statistics_block(&self.segment, slot)
                block.in_flight += 1
                block.requests += 1
                block.bytes_in += 200
                block.bytes_out += 1000
                block.statuses[statistics_status_index(200)] += 1
                statistics_latency(&self.segment, block, 100 + (i * 37) % 4000)
                block.in_flight -= 1


fill_status_index()

from bascule.shared.statistics_directory import Directory, DirectoryFull  # no-cython-lint
from bascule.shared.statistics_reader import LATENCY_BOUNDS_US, ObjectTotals, Reader, SegmentTotals, Traffic  # no-cython-lint
