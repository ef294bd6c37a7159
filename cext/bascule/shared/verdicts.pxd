"""What the master thinks of each server right now, one word a server, in shared memory: read with one load a pick.

The snapshot says what the configuration says; a verdict says what came out since: unhealthy, ready, still growing. It
changes many times a second without a new snapshot, and survives the master, workers and snapshots.

    +-------------+--------+--------+-- ... --+
    | header 4096 | word 0 | word 1 |         |     indexed by the server's stat_slot (shared/statistics.pxd)
    +-------------+--------+--------+-- ... --+

Owner of the region: the keeper (memfd, sparse). Writer: the master, one aligned 32-bit store a word. Readers: workers,
relaxed loads; a pick that reads the old word is a pick made a moment earlier. The word of a slot is 0 before the
slot is given to an object and again when the object goes: no verdict, the snapshot alone decides.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.shared.atomic cimport load32


cdef enum:
    VERDICTS_LAYOUT_VERSION = 1
    VERDICTS_HEADER_BYTES = 4096
    VERDICT_SHARE_FULL = 64       # times WEIGHT_MAX times SERVERS_PER_BACKEND_MAX stays below 2**31

cdef enum VerdictBit:
    VERDICT_SHARE = 0x7F          # how many 64ths of its weight the server gets; counts only with VERDICT_SET
    VERDICT_SET = 0x80
    VERDICT_READY = 0x100         # a server that the snapshot calls starting takes traffic

cdef struct VerdictsHeader:
    char magic[8]                 # "BSCLVERD"
    uint32_t layout_version
    uint32_t word_count
    uint64_t size                 # of the whole region

cdef struct VerdictTable:         # a worker's view; without a region, `count` is 0 and every word reads as 0
    uint8_t* base
    uint64_t size
    const uint32_t* words
    uint32_t count

# Whether `size` mapped bytes are a region of this layout; fills in the table.
cdef bint verdicts_open(VerdictTable* table, uint8_t* base, uint64_t size) noexcept nogil

cdef inline uint32_t verdict_word(const VerdictTable* table, uint32_t stat_slot) noexcept nogil:
    """The word of a server; 0, no verdict, for a slot out of range."""
    return load32(&table.words[stat_slot]) if stat_slot < table.count else 0
