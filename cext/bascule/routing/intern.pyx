"""Growing arrays and interned blobs (contract: intern.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from bascule.routing.layout cimport route_hash


cdef int grow(void** data, uint64_t* capacity, uint64_t needed, size_t item) except -1 nogil:
    cdef uint64_t wanted = capacity[0]
    cdef void* moved
    if needed <= wanted:
        return 0
    if needed >= 0xFFFFFFF0ULL:
        with gil:
            raise OverflowError("the image would pass 4 GiB; split the configuration over several balancers")
    if wanted < 64:
        wanted = 64
    while wanted < needed:
        wanted += wanted >> 1
    moved = realloc(data[0], wanted * item)
    if moved == NULL:
        with gil:
            raise MemoryError
    data[0] = moved
    capacity[0] = wanted
    return 0


cdef int rehash(Interner* interner) except -1:
    cdef uint64_t wanted = 256 if interner.slot_count == 0 else interner.slot_count * 2
    cdef uint64_t* slots = <uint64_t*>calloc(wanted, sizeof(uint64_t))
    cdef uint64_t i, at, slot
    if slots == NULL:
        raise MemoryError
    for i in range(interner.slot_count):
        slot = interner.slots[i]
        if slot == 0:
            continue
        at = route_hash(0, interner.data + ((slot >> 32) - 1), <uint32_t>slot) & (wanted - 1)
        while slots[at]:
            at = (at + 1) & (wanted - 1)
        slots[at] = slot
    free(interner.slots)
    interner.slots = slots
    interner.slot_count = wanted
    return 0


cdef uint32_t intern_blob(Interner* interner, const void* blob, uint32_t length) except? 0xFFFFFFFF:
    cdef uint64_t at, slot
    if length == 0:
        return 0
    if (interner.count + 1) * 2 > interner.slot_count:
        rehash(interner)
    at = route_hash(0, <const char*>blob, length) & (interner.slot_count - 1)
    while interner.slots[at]:
        slot = interner.slots[at]
        if <uint32_t>slot == length and memcmp(interner.data + ((slot >> 32) - 1), blob, length) == 0:
            return <uint32_t>((slot >> 32) - 1)
        at = (at + 1) & (interner.slot_count - 1)
    grow(<void**>&interner.data, &interner.capacity, interner.used + length, 1)
    memcpy(interner.data + interner.used, blob, length)
    interner.slots[at] = (interner.used + 1) << 32 | length
    interner.used += length
    interner.count += 1
    return <uint32_t>(interner.used - length)


cdef void interner_free(Interner* interner) noexcept:
    free(interner.data)
    free(interner.slots)
    memset(interner, 0, sizeof(Interner))
