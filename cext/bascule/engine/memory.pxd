"""Object slabs: fixed-size objects from chunks that are never returned while the worker lives.

Owner: the engine. Writer: its one thread. A free object is linked through its first word, last freed first reused, so the next
exchange finds its memory in the cache. `live` counts objects handed out; a debug build asserts zero at the end.
Steady state allocates nothing: `chunks` only grows while the number of simultaneous objects reaches a new maximum.
"""

from libc.stdint cimport uint32_t, uint64_t

from bascule.engine.system cimport prefetch


cdef struct SlabChunk:
    SlabChunk* next
    uint64_t bytes

cdef struct Slab:
    void* free                    # singly linked free objects
    uint32_t object_bytes
    uint32_t chunk_objects
    uint64_t live                 # handed out now
    uint64_t live_max             # refuse beyond; 0 = no bound
    uint64_t chunks               # chunks ever allocated
    SlabChunk* chunk_list

cdef void slab_init(Slab* slab, uint32_t object_bytes, uint32_t chunk_objects, uint64_t live_max) noexcept nogil
cdef void slab_destroy(Slab* slab) noexcept nogil
cdef int slab_grow(Slab* slab) noexcept nogil          # 0, or -1 when out of memory or at live_max


cdef inline void* slab_get(Slab* slab) noexcept nogil:
    """One object, contents undefined; NULL when the bound is reached or memory is out."""
    cdef void* found = slab.free
    if found == NULL:
        if slab_grow(slab) != 0:
            return NULL
        found = slab.free
    elif slab.live_max != 0 and slab.live >= slab.live_max:
        return NULL
    slab.free = (<void**>found)[0]
    prefetch(slab.free)  # with many objects out the next one is cold, and its first word is needed to take it
    slab.live += 1
    return found


cdef inline void slab_put(Slab* slab, void* object_) noexcept nogil:
    (<void**>object_)[0] = slab.free
    slab.free = object_
    slab.live -= 1


cdef enum:
    BUF_BYTES = 32768             # data bytes of one buffer: the largest head, and one read of a request body
    BUF_RESERVE = 32              # in front of body data: room for a chunk-size line

cdef struct Buf:
    # Owner: whoever points to it (a connection's input, an exchange's composed head or pending output).
    # Invariant: start <= end <= BUF_BYTES.
    Buf* next                     # chain of pending output; also the slab's free link
    uint32_t start                # first byte not consumed
    uint32_t end                  # one past the last byte filled
    char data[32768]
