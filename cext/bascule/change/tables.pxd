"""Growing sections of an image that is being compiled: strings, records, and hash indices over them. The master's side alone.

Owner: one change.state.State. Nothing here is on the way of a request.
"""

from libc.stdint cimport uint32_t, uint64_t

from bascule.routing.intern cimport Interner
from bascule.shared.snapshot cimport Str


cdef struct Table:                # fixed-size records, one after the other
    char* data
    uint64_t count
    uint64_t capacity             # records
    uint64_t record_size

cdef void table_init(Table* table, uint64_t record_size) noexcept nogil
cdef void table_free(Table* table) noexcept nogil
cdef int table_reserve(Table* table, uint64_t count) except -1           # room for so many in all
cdef void* table_add(Table* table, uint64_t count) except NULL           # so many zeroed records at the end; where they start
cdef int table_load(Table* table, const void* data, uint64_t size) except -1
cdef inline void* table_at(const Table* table, uint64_t index) noexcept nogil:
    return table.data + index * table.record_size


cdef struct TextIndex:
    # Which record of a table has a text at `place` (the offset of a Str in the record). Holds no text: records and strings are
    # looked at, so they may be changed only where the index is told.
    uint32_t* slots               # index + 1, 0 = free, NO_INDEX = was taken
    uint64_t slot_count           # a power of two
    uint64_t used                 # slots not free
    uint32_t place

cdef void index_free(TextIndex* index) noexcept nogil
cdef uint32_t index_find(const TextIndex* index, const Table* table, const char* strings, const char* text,
                         uint32_t length) noexcept nogil                 # NO_INDEX when there is none
cdef int index_add(TextIndex* index, const Table* table, const char* strings, uint32_t record) except -1
cdef void index_drop(TextIndex* index, const Table* table, const char* strings, uint32_t record) noexcept nogil


cdef class Strings:
    # The STRINGS section: interned texts once each, in order of first use; others where they were placed.
    cdef Interner texts

    cdef Str intern(self, str text) except *
    cdef Str intern_bytes(self, const char* text, uint32_t length) except *
    cdef Str place(self, const char* data, uint32_t length, uint32_t alignment) except *   # without looking for an equal one
    cdef int load(self, const void* data, uint64_t size) except -1       # what is loaded is not interned
