"""The region of verdicts: see verdicts.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from bascule.shared.atomic cimport load32, store32
from bascule.shared.region cimport Mapping, region_create, region_map, region_unmap

from bascule.shared.region import RegionError

SHARE_FULL = VERDICT_SHARE_FULL


cdef bint verdicts_open(VerdictTable* table, uint8_t* base, uint64_t size) noexcept nogil:
    cdef const VerdictsHeader* header = <const VerdictsHeader*>base
    if size < VERDICTS_HEADER_BYTES or memcmp(header.magic, b"BSCLVERD", 8) != 0:
        return False
    if header.layout_version != VERDICTS_LAYOUT_VERSION or header.size != size:
        return False
    if header.word_count > (size - VERDICTS_HEADER_BYTES) // sizeof(uint32_t):
        return False
    table.base = base
    table.size = size
    table.words = <const uint32_t*>(base + VERDICTS_HEADER_BYTES)
    table.count = header.word_count
    return True


def create(uint32_t objects) -> int:
    """A new region for stat_slots below `objects`: a sparse close-on-exec memfd, which the caller closes."""
    cdef VerdictsHeader header
    cdef Mapping mapping
    cdef uint64_t size = VERDICTS_HEADER_BYTES + ((objects * <uint64_t>sizeof(uint32_t) + 4095) & ~<uint64_t>4095)
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, b"BSCLVERD", 8)
    header.layout_version = VERDICTS_LAYOUT_VERSION
    header.word_count = objects
    header.size = size
    fd = region_create(b"bascule-verdicts", size)
    region_map(&mapping, fd, True)
    memcpy(mapping.base, &header, sizeof(header))
    region_unmap(&mapping)
    return fd


cdef class Verdicts:
    cdef Mapping mapping
    cdef VerdictTable table

    def __init__(self, int fd):
        region_map(&self.mapping, fd, True)
        if not verdicts_open(&self.table, self.mapping.base, self.mapping.size):
            region_unmap(&self.mapping)
            raise RegionError(f"descriptor {fd} is no region of verdicts of this version; start a fresh one")

    def __dealloc__(self):
        region_unmap(&self.mapping)

    def __len__(self):
        return self.table.count

    cdef uint32_t* word(self, uint32_t slot) except NULL:
        if slot >= self.table.count:
            raise IndexError(f"slot {slot} is beyond the {self.table.count} of this region")
        return <uint32_t*>&self.table.words[slot]

    def set(self, uint32_t slot, uint32_t share, bint ready=False):
        if share > VERDICT_SHARE_FULL:
            raise ValueError(f"a share is 0 to {VERDICT_SHARE_FULL}, not {share}")
        store32(self.word(slot), VERDICT_SET | share | (VERDICT_READY if ready else 0))

    def clear(self, uint32_t slot):
        store32(self.word(slot), 0)

    def slots(self):
        cdef uint32_t slot
        return [slot for slot in range(self.table.count) if load32(&self.table.words[slot])]

    def get(self, uint32_t slot):
        cdef uint32_t word = load32(self.word(slot))
        if not word & VERDICT_SET:
            return None
        return word & VERDICT_SHARE, bool(word & VERDICT_READY)
