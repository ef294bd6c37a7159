"""Growing arrays and interned blobs of the route compiler (the master's side; nothing here runs on the way of a request)."""

from libc.stdint cimport uint32_t, uint64_t


cdef struct Interner:
    # Owner: one RouteCompiler. Equal blobs get the same offset into `data`; offsets are below 4 GiB.
    char* data
    uint64_t used
    uint64_t capacity
    uint64_t* slots               # offset + 1 in the high half, length in the low half; 0 = free
    uint64_t slot_count           # a power of two
    uint64_t count

# Makes room for `needed` items of `item` bytes; keeps what is there. MemoryError, or OverflowError beyond 2^32 items.
cdef int grow(void** data, uint64_t* capacity, uint64_t needed, size_t item) except -1 nogil
cdef uint32_t intern_blob(Interner* interner, const void* blob, uint32_t length) except? 0xFFFFFFFF
cdef void interner_free(Interner* interner) noexcept
