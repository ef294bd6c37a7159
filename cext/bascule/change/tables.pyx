"""See tables.pxd."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from bascule.routing.intern cimport grow, intern_blob, interner_free
from bascule.routing.layout cimport route_hash
from bascule.shared.snapshot cimport NO_INDEX


# ---- records

cdef void table_init(Table* table, uint64_t record_size) noexcept nogil:
    memset(table, 0, sizeof(Table))
    table.record_size = record_size


cdef void table_free(Table* table) noexcept nogil:
    free(table.data)
    table.data = NULL
    table.count = table.capacity = 0


cdef int table_reserve(Table* table, uint64_t count) except -1:
    cdef void* moved
    if count <= table.capacity:
        return 0
    if count >= NO_INDEX:
        raise OverflowError("the configuration has too many objects of one kind")
    moved = realloc(table.data, count * table.record_size)
    if moved == NULL:
        raise MemoryError
    table.data = <char*>moved
    table.capacity = count
    return 0


cdef void* table_add(Table* table, uint64_t count) except NULL:
    cdef void* start
    if table.count + count > table.capacity:
        table_reserve(table, table.count + count + (table.count >> 3) + 8)
    start = table.data + table.count * table.record_size
    memset(start, 0, count * table.record_size)
    table.count += count
    return start


cdef int table_load(Table* table, const void* data, uint64_t size) except -1:
    table.count = 0
    table_reserve(table, size // table.record_size + (size // table.record_size >> 3) + 8)
    if size:
        memcpy(table.data, data, size)
    table.count = size // table.record_size
    return 0


# ---- indices

cdef inline Str text_of(const TextIndex* index, const Table* table, uint32_t record) noexcept nogil:
    cdef Str text
    memcpy(&text, <char*>table_at(table, record) + index.place, sizeof(Str))
    return text


cdef void index_free(TextIndex* index) noexcept nogil:
    free(index.slots)
    index.slots = NULL
    index.slot_count = index.used = 0


cdef uint64_t find_slot(const TextIndex* index, const Table* table, const char* strings, const char* text,
                        uint32_t length) noexcept nogil:
    """The slot of a text, or the free one that ends its probe run."""
    cdef uint64_t at = route_hash(0, text, length) & (index.slot_count - 1)
    cdef Str known
    while index.slots[at]:
        if index.slots[at] != NO_INDEX:
            known = text_of(index, table, index.slots[at] - 1)
            if known.length == length and memcmp(strings + known.offset, text, length) == 0:
                return at
        at = (at + 1) & (index.slot_count - 1)
    return at


cdef uint32_t index_find(const TextIndex* index, const Table* table, const char* strings, const char* text,
                         uint32_t length) noexcept nogil:
    cdef uint64_t at
    if index.slot_count == 0:
        return NO_INDEX
    at = find_slot(index, table, strings, text, length)
    return index.slots[at] - 1 if index.slots[at] else NO_INDEX


cdef int enlarge(TextIndex* index, const Table* table, const char* strings) except -1:
    cdef TextIndex larger = index[0]
    cdef uint64_t i, live = 0
    cdef Str text
    for i in range(index.slot_count):
        live += index.slots[i] != 0 and index.slots[i] != NO_INDEX
    larger.slot_count = 64
    while larger.slot_count < live * 4 or larger.slot_count < table.count * 2:
        larger.slot_count *= 2
    larger.slots = <uint32_t*>calloc(larger.slot_count, sizeof(uint32_t))
    if larger.slots == NULL:
        raise MemoryError
    larger.used = live
    for i in range(index.slot_count):
        if index.slots[i] and index.slots[i] != NO_INDEX:
            text = text_of(index, table, index.slots[i] - 1)
            larger.slots[find_slot(&larger, table, strings, strings + text.offset, text.length)] = index.slots[i]
    free(index.slots)
    index[0] = larger
    return 0


cdef int index_add(TextIndex* index, const Table* table, const char* strings, uint32_t record) except -1:
    cdef Str text = text_of(index, table, record)
    cdef uint64_t at
    if (index.used + 1) * 2 > index.slot_count:
        enlarge(index, table, strings)
    at = find_slot(index, table, strings, strings + text.offset, text.length)
    index.used += index.slots[at] == 0
    index.slots[at] = record + 1
    return 0


cdef void index_drop(TextIndex* index, const Table* table, const char* strings, uint32_t record) noexcept nogil:
    cdef Str text = text_of(index, table, record)
    cdef uint64_t at
    if index.slot_count:
        at = find_slot(index, table, strings, strings + text.offset, text.length)
        if index.slots[at]:
            index.slots[at] = NO_INDEX


# ---- strings

cdef class Strings:
    """See tables.pxd."""

    def __dealloc__(self):
        interner_free(&self.texts)

    cdef Str intern_bytes(self, const char* text, uint32_t length) except *:
        cdef Str result
        result.offset = intern_blob(&self.texts, text, length)
        result.length = length
        return result

    cdef Str intern(self, str text) except *:
        cdef Py_ssize_t length = 0
        cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length)
        return self.intern_bytes(utf8, <uint32_t>length)

    cdef Str place(self, const char* data, uint32_t length, uint32_t alignment) except *:
        cdef uint64_t offset = (self.texts.used + alignment - 1) // alignment * alignment
        cdef Str result
        grow(<void**>&self.texts.data, &self.texts.capacity, offset + length, 1)
        memset(self.texts.data + self.texts.used, 0, offset - self.texts.used)
        memcpy(self.texts.data + offset, data, length)
        self.texts.used = offset + length
        result.offset = <uint32_t>offset
        result.length = length
        return result

    cdef int load(self, const void* data, uint64_t size) except -1:
        interner_free(&self.texts)
        grow(<void**>&self.texts.data, &self.texts.capacity, size + (size >> 3) + 64, 1)
        memcpy(self.texts.data, data, size)
        self.texts.used = size
        return 0
