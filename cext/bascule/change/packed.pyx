"""Many small texts with values in few large blocks. Docstrings: src/bascule/change/packed.pyi.

    data     PackedHead | key | value | padding to 8,  one record after the other, in the order in which they came
    keys     hash index: the record of a key
    owners   hash index: the first record whose key begins with this owner; the others follow by PackedHead.next

A dictionary of entries takes 380 bytes for each of 90 bytes, most of it headers of Python objects. Here it is 60 more than the text.
What is removed or has outgrown its place is garbage; beyond a quarter of the block all that lives is copied together.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy

from bascule.routing.layout cimport route_hash

from bascule.store.interface import Entry


cdef enum:
    FREE = 0
    GONE = 0xFFFFFFFF             # was taken: a search goes on behind it
    DEAD = 0xFFFFFFFF             # PackedHead.next of a record that is no more
    SLOTS_MIN = 64
    GARBAGE_MIN = 65536

cdef struct PackedHead:           # 48 bytes
    int64_t created
    int64_t modified
    int64_t lease
    uint32_t next                 # place of the next record of the same owner; 0 = none
    uint32_t value_length
    uint32_t key_length
    uint32_t owner_length         # 0 = none
    uint32_t size                 # of the record with its room, a multiple of 8
    uint32_t reserved

cdef struct Index:                # open addressing; slots hold places: offset / 8 + 1
    uint32_t* slots
    uint64_t count                # of slots, a power of two
    uint64_t used                 # not FREE


cdef uint32_t above(str key) except? 0xFFFFFFFF:
    """Bytes of a key before its second slash, 0 when it has none."""
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(key, &length)
    cdef const char* slash = <const char*>memchr(text, c'/', length)
    if slash != NULL:
        slash = <const char*>memchr(slash + 1, c'/', length - (slash + 1 - text))
    return <uint32_t>(slash - text) if slash != NULL else 0


cdef class Packed:
    cdef char* data
    cdef uint64_t used
    cdef uint64_t capacity
    cdef uint64_t garbage
    cdef uint64_t live
    cdef uint64_t version         # of the order of records: an iterator sees that it was changed
    cdef Index keys_
    cdef Index owners

    def __dealloc__(self):
        free(self.data)
        free(self.keys_.slots)
        free(self.owners.slots)

    # ---- places

    cdef PackedHead* at(self, uint32_t place) noexcept nogil:
        return <PackedHead*>(self.data + <uint64_t>(place - 1) * 8)

    cdef uint64_t slot_of(self, const Index* index, const char* text, uint32_t length, bint owner) noexcept nogil:
        """The slot of a text, or the free one where the search for it ends."""
        cdef uint64_t at = route_hash(0, text, length) & (index.count - 1)
        cdef PackedHead* head
        while index.slots[at] != FREE:
            if index.slots[at] != GONE:
                head = self.at(index.slots[at])
                if (head.owner_length if owner else head.key_length) == length and memcmp(head + 1, text, length) == 0:
                    return at
            at = (at + 1) & (index.count - 1)
        return at

    cdef uint32_t find(self, str text, bint owner) except? 0xFFFFFFFF:
        """The place of a key, or of an owner's first record; 0 when there is none."""
        cdef const Index* index = &self.owners if owner else &self.keys_
        cdef Py_ssize_t length = 0
        cdef const char* start = PyUnicode_AsUTF8AndSize(text, &length)
        if index.count == 0:
            return 0
        return index.slots[self.slot_of(index, start, <uint32_t>length, owner)]

    cdef int enter(self, Index* index, uint32_t place, bint owner) except -1:
        """Has a text that is not in the index lead to a place."""
        cdef PackedHead* head
        cdef uint64_t at
        if (index.used + 1) * 3 > index.count * 2:
            self.widen(index, owner)
        head = self.at(place)
        at = self.slot_of(index, <const char*>(head + 1), head.owner_length if owner else head.key_length, owner)
        index.used += 1
        index.slots[at] = place
        return 0

    cdef int widen(self, Index* index, bint owner) except -1:
        cdef Index old = index[0]
        cdef PackedHead* head
        cdef uint64_t i, live = 0
        for i in range(old.count):
            live += old.slots[i] != FREE and old.slots[i] != GONE
        index.count = SLOTS_MIN
        while index.count * 2 < (live + 1) * 4:
            index.count *= 2
        index.slots = <uint32_t*>calloc(index.count, sizeof(uint32_t))
        if index.slots == NULL:
            index[0] = old
            raise MemoryError
        index.used = live
        for i in range(old.count):
            if old.slots[i] != FREE and old.slots[i] != GONE:
                head = self.at(old.slots[i])
                index.slots[self.slot_of(index, <const char*>(head + 1), head.owner_length if owner else head.key_length,
                                         owner)] = old.slots[i]
        free(old.slots)
        return 0

    cdef uint32_t append(self, uint64_t size) except 0:
        """Room for a record at the end."""
        cdef void* moved
        cdef uint64_t capacity
        if self.used + size > self.capacity:
            capacity = self.used + size + (self.used >> 3) + 4096
            moved = realloc(self.data, capacity)
            if moved == NULL:
                raise MemoryError
            self.data = <char*>moved
            self.capacity = capacity
        if (self.used + size) // 8 >= GONE - 1:
            raise OverflowError("the configuration is larger than 32 GiB")
        self.used += size
        self.version += 1
        return <uint32_t>((self.used - size) // 8 + 1)

    # ---- owners

    cdef int link(self, uint32_t place) except -1:
        """Puts a record first of its owner's."""
        cdef PackedHead* head = self.at(place)
        cdef uint64_t at
        head.next = 0
        if head.owner_length == 0:
            return 0
        if self.owners.count:
            at = self.slot_of(&self.owners, <const char*>(head + 1), head.owner_length, True)
            if self.owners.slots[at] != FREE:
                head.next = self.owners.slots[at]
                self.owners.slots[at] = place
                return 0
        return self.enter(&self.owners, place, True)

    cdef void unlink(self, uint32_t place) noexcept:
        cdef PackedHead* head = self.at(place)
        cdef PackedHead* before
        cdef uint64_t at
        if head.owner_length == 0:
            return
        at = self.slot_of(&self.owners, <const char*>(head + 1), head.owner_length, True)
        if self.owners.slots[at] == place:
            self.owners.slots[at] = head.next if head.next else GONE
            return
        before = self.at(self.owners.slots[at])
        while before.next != place:
            before = self.at(before.next)
        before.next = head.next

    # ---- changes

    def put(self, str key not None, bytes value not None=b"", int64_t created=0, int64_t modified=0, int64_t lease=0,
            uint32_t owner_length=0):
        self.place(key, value, created, modified, lease, owner_length)

    def fill(self, entries) -> int:
        cdef str key
        cdef bytes value
        cdef uint64_t digest = 0
        for entry in entries:
            key, value = entry.key, entry.value
            digest += <uint64_t><int64_t>hash(b"%b\0%b" % (key.encode(), value))
            self.place(key, value, entry.created, entry.modified, entry.lease, above(key))
        return digest

    cdef int place(self, str key, bytes value, int64_t created, int64_t modified, int64_t lease, uint32_t owner_length) except -1:
        cdef Py_ssize_t key_length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(key, &key_length)
        cdef uint64_t size = (sizeof(PackedHead) + key_length + PyBytes_GET_SIZE(value) + 7) & ~<uint64_t>7
        cdef uint32_t place = 0
        cdef PackedHead* head
        if size >> 32 or owner_length > <uint64_t>key_length:
            raise ValueError("a record that large cannot be packed")
        if self.keys_.count:
            place = self.keys_.slots[self.slot_of(&self.keys_, text, <uint32_t>key_length, False)]
        if place and self.at(place).size < size:
            self.drop(place, text, <uint32_t>key_length)
            place = 0
        if place == 0:
            place = self.append(size)
            head = self.at(place)
            head.size = <uint32_t>size
            head.key_length = <uint32_t>key_length
            head.owner_length = owner_length
            memcpy(head + 1, text, key_length)
            self.enter(&self.keys_, place, False)
            self.link(place)
            self.live += 1
        head = self.at(place)
        head.created, head.modified, head.lease = created, modified, lease
        head.value_length = <uint32_t>PyBytes_GET_SIZE(value)
        memcpy(<char*>(head + 1) + key_length, PyBytes_AS_STRING(value), head.value_length)
        if self.garbage > GARBAGE_MIN and self.garbage > self.used // 4:
            self.compact()

        return 0

    def remove(self, str key not None) -> bool:
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(key, &length)
        cdef uint32_t place = self.find(key, False)
        if place == 0:
            return False
        self.drop(place, text, <uint32_t>length)
        return True

    cdef void drop(self, uint32_t place, const char* text, uint32_t length) noexcept:
        cdef PackedHead* head = self.at(place)
        self.unlink(place)
        self.keys_.slots[self.slot_of(&self.keys_, text, length, False)] = GONE
        head.next = DEAD
        self.garbage += head.size
        self.live -= 1
        self.version += 1

    cdef int compact(self) except -1:
        """Copies what lives together, in its order, and makes both indices anew."""
        cdef Packed fresh = Packed()
        cdef PackedHead* head
        cdef PackedHead* copy
        cdef uint64_t offset = 0, exact
        cdef uint32_t place
        while offset < self.used:
            head = <PackedHead*>(self.data + offset)
            offset += head.size
            if head.next == DEAD:
                continue
            exact = (sizeof(PackedHead) + head.key_length + head.value_length + 7) & ~<uint64_t>7
            place = fresh.append(exact)
            copy = fresh.at(place)
            memcpy(copy, head, exact)
            copy.size = <uint32_t>exact
            fresh.enter(&fresh.keys_, place, False)
            fresh.link(place)
        self.data, fresh.data = fresh.data, self.data
        self.keys_, fresh.keys_ = fresh.keys_, self.keys_
        self.owners, fresh.owners = fresh.owners, self.owners
        self.used, self.capacity, self.garbage = fresh.used, fresh.capacity, 0
        self.version += 1
        return 0

    # ---- questions

    def __len__(self):
        return self.live

    def __contains__(self, key):
        return isinstance(key, str) and self.find(key, False) != 0

    cdef bytes value_at(self, PackedHead* head):
        return PyBytes_FromStringAndSize(<char*>(head + 1) + head.key_length, head.value_length)

    cdef str key_at(self, PackedHead* head):
        return PyUnicode_DecodeUTF8(<char*>(head + 1), head.key_length, NULL)

    def value(self, str key not None):
        cdef uint32_t place = self.find(key, False)
        return self.value_at(self.at(place)) if place else None

    def holds(self, str key not None, bytes value not None) -> bool:
        cdef uint32_t place = self.find(key, False)
        cdef PackedHead* head
        if place == 0:
            return False
        head = self.at(place)
        return (head.value_length == <uint64_t>PyBytes_GET_SIZE(value)
                and memcmp(<char*>(head + 1) + head.key_length, PyBytes_AS_STRING(value), head.value_length) == 0)

    def get(self, str key not None):
        cdef uint32_t place = self.find(key, False)
        cdef PackedHead* head
        if place == 0:
            return None
        head = self.at(place)
        return Entry(key, self.value_at(head), head.created, head.modified, head.lease)

    def members(self, str owner not None) -> list:
        cdef uint32_t place = self.find(owner, True)
        cdef PackedHead* head
        cdef list found = []
        while place:
            head = self.at(place)
            found.append(self.key_at(head))
            place = head.next
        return found

    def count_members(self, str owner not None) -> int:
        cdef uint32_t place = self.find(owner, True)
        cdef uint64_t count = 0
        while place:
            count += 1
            place = self.at(place).next
        return count

    def __iter__(self):
        cdef uint64_t offset = 0, version = self.version
        cdef PackedHead* head
        while offset < self.used:
            head = <PackedHead*>(self.data + offset)
            offset += head.size
            if head.next == DEAD:
                continue
            yield self.key_at(head)
            if self.version != version:
                raise RuntimeError("a packed table was changed while somebody went through it")

    @property
    def size_bytes(self) -> int:
        return self.capacity + (self.keys_.count + self.owners.count) * sizeof(uint32_t)
