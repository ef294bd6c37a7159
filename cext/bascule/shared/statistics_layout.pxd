"""Where everything lies in the statistics region. Overview: statistics.pxd.

    offset                bytes                 writer     what
    0                     4096                  creator    RegionHeader (log_state: the directory)
    4096                  workers * 128         worker w   SegmentHeader[w]
    generations_offset    objects * 4           directory  generation of the object now in each slot, 0 = never used
    log_offset[0], [1]    objects * 128 each    directory  identities: LogEntry, bytes of the id, padding to 4
    segments_offset + w * segment_stride        worker w   segment of worker w:
      + 0                 objects / 8           .          touched bitmap
      + blocks_offset     (objects + 1) * 1024  .          StatBlock
      + octaves_offset    octave_blocks * 512   .          histogram counters, uint64
All parts start on a page. The log is append-only in one half; when that is full, the live part is copied to the other
half and log_state, one word that holds the epoch (its parity names the half) and the bytes in use, moves over in one
store.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from bascule.shared.statistics cimport (
    STATISTICS_BAD_MAGIC, STATISTICS_BAD_SIZE, STATISTICS_BAD_VERSION, STATISTICS_LAYOUT_VERSION, STATISTICS_OK
)


cdef enum:
    STATISTICS_HEADER_SIZE = 4096
    WORKERS_MAX = 1024
    OBJECTS_MAX = 1 << 23         # twice the 3,000,000 of a million frontends, each with a backend and a server
    GENERATION_RENEWING = 0xFFFFFFFF
    LOG_ADD = 1
    LOG_RELEASE = 2
    LOG_BYTES_PER_OBJECT = 128    # of one half, with room for a long id
    KIND_LISTENER = 1
    KIND_FRONTEND = 2
    KIND_BACKEND = 3
    KIND_SERVER = 4
    KIND_COUNT = 5

cdef struct RegionHeader:
    char magic[8]                 # b"BSCLSTAT"
    uint32_t layout_version       # STATISTICS_LAYOUT_VERSION
    uint32_t header_size          # STATISTICS_HEADER_SIZE
    uint64_t size                 # of the whole region
    uint32_t workers              # segments
    uint32_t objects              # slots
    uint32_t octave_blocks        # of one segment's pool
    uint32_t reserved
    uint64_t log_state            # epoch << 32 | bytes used of the half epoch & 1; release store, acquire load

cdef struct SegmentHeader:        # 128 bytes: two segments share neither a cache line nor a prefetched pair
    uint32_t pid                  # of the last worker that opened it, 0 = never
    uint32_t opened               # how often
    uint32_t octaves_used         # high-water mark of the pool
    uint32_t octave_free          # 1 + first of the freed octave blocks, chained by their first counter; 0 = none
    uint64_t latency_lost         # sum of the blocks'
    uint64_t events[13]           # StatEvent

cdef struct LogEntry:             # 12 bytes, then the id, padded to 4
    uint32_t slot
    uint32_t generation
    uint16_t id_length            # 0 in LOG_RELEASE
    uint8_t kind                  # KIND_*
    uint8_t operation             # LOG_*

cdef struct RegionLayout:
    uint64_t segment_headers_offset
    uint64_t generations_offset
    uint64_t log_offset[2]
    uint64_t log_size             # of one half
    uint64_t segments_offset
    uint64_t segment_stride
    uint64_t blocks_offset        # in a segment
    uint64_t octaves_offset       # in a segment
    uint64_t size


cdef inline uint64_t page_up(uint64_t size) noexcept nogil:
    return (size + 4095) & ~<uint64_t>4095


cdef inline RegionLayout region_layout(uint32_t workers, uint32_t objects, uint32_t octave_blocks) noexcept nogil:
    cdef RegionLayout layout
    layout.segment_headers_offset = STATISTICS_HEADER_SIZE
    layout.generations_offset = page_up(layout.segment_headers_offset + <uint64_t>workers * 128)
    layout.log_size = page_up(<uint64_t>objects * LOG_BYTES_PER_OBJECT)
    layout.log_offset[0] = page_up(layout.generations_offset + <uint64_t>objects * 4)
    layout.log_offset[1] = layout.log_offset[0] + layout.log_size
    layout.segments_offset = layout.log_offset[1] + layout.log_size
    layout.blocks_offset = page_up(((<uint64_t>objects + 63) // 64) * 8)
    layout.octaves_offset = page_up(layout.blocks_offset + (<uint64_t>objects + 1) * 1024)
    layout.segment_stride = page_up(layout.octaves_offset + <uint64_t>octave_blocks * 512)
    layout.size = layout.segments_offset + layout.segment_stride * workers
    return layout


cdef inline int check_region(const uint8_t* base, uint64_t size, RegionLayout* layout) noexcept nogil:
    """Proves the header of a mapped region; everything else follows from its three counts."""
    cdef const RegionHeader* header = <const RegionHeader*>base
    if size < STATISTICS_HEADER_SIZE or memcmp(header.magic, b"BSCLSTAT", 8) != 0:
        return STATISTICS_BAD_MAGIC
    if header.layout_version != STATISTICS_LAYOUT_VERSION:
        return STATISTICS_BAD_VERSION
    if header.header_size != STATISTICS_HEADER_SIZE or header.size != size:
        return STATISTICS_BAD_SIZE
    if header.workers > WORKERS_MAX or header.objects > OBJECTS_MAX:
        return STATISTICS_BAD_SIZE
    layout[0] = region_layout(header.workers, header.objects, header.octave_blocks)
    return STATISTICS_OK if layout.size == size else STATISTICS_BAD_SIZE
