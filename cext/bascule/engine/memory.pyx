"""Slab chunks. See memory.pxd."""

from bascule.engine.system cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap


cdef void slab_init(Slab* slab, uint32_t object_bytes, uint32_t chunk_objects, uint64_t live_max) noexcept nogil:
    slab.free = NULL
    slab.object_bytes = (object_bytes + 15) & ~15
    slab.chunk_objects = chunk_objects
    slab.live = 0
    slab.live_max = live_max
    slab.chunks = 0
    slab.chunk_list = NULL


cdef int slab_grow(Slab* slab) noexcept nogil:
    if slab.live_max != 0 and slab.live >= slab.live_max:
        return -1
    cdef uint64_t size = 64 + <uint64_t>slab.object_bytes * slab.chunk_objects
    cdef void* base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if base == MAP_FAILED:
        return -1
    cdef SlabChunk* chunk = <SlabChunk*>base
    chunk.next = slab.chunk_list
    chunk.bytes = size
    slab.chunk_list = chunk
    slab.chunks += 1
    # Linked back to front, so that the lowest addresses are handed out first and untouched pages stay untouched
    # as long as the number of simultaneous objects allows (linking touches one word an object).
    cdef char* first = <char*>base + 64
    cdef uint32_t i
    for i in range(slab.chunk_objects):
        (<void**>(first + <uint64_t>(slab.chunk_objects - 1 - i) * slab.object_bytes))[0] = slab.free
        slab.free = first + <uint64_t>(slab.chunk_objects - 1 - i) * slab.object_bytes
    return 0


cdef void slab_destroy(Slab* slab) noexcept nogil:
    cdef SlabChunk* chunk = slab.chunk_list
    cdef SlabChunk* next_
    while chunk != NULL:
        next_ = chunk.next
        munmap(chunk, chunk.bytes)
        chunk = next_
    slab.chunk_list = NULL
    slab.free = NULL
