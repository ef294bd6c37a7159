"""Which object has which slot of the statistics region: written by the master alone, read again by its successors.

Identities live in an append-only log in the region itself (layout: statistics_layout.pxd), so a new master goes on
with the same slots. An entry is complete before log_state makes it visible; a master that dies in between has changed
nothing.

Life of a slot: free -> [slot()] live -> [release()] resting -> [reuse delay over, gauges 0] live, next generation.
A slot rests so that exchanges pinned to an older snapshot can end under the old object's number first.

Who has which slot is looked up in the log itself, by a hash index of places in it: a dictionary of names took 200 bytes an object.
"""

import os
import time

from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

from bascule.routing.layout cimport route_hash
from bascule.shared.atomic cimport load32, load64, store32_release, store64_release
from bascule.shared.region cimport Mapping, region_map, region_unmap
from bascule.shared.snapshot cimport (
    FRONTEND_REMOVED, NO_INDEX, SNAPSHOT_OK, BackendRecord, FrontendRecord, ListenerRecord, ServerRecord, Snapshot, Str,
    snapshot_open,
)
from bascule.shared.statistics cimport STATISTICS_OK, StatBlock
from bascule.shared.statistics_layout cimport (
    GENERATION_RENEWING, KIND_BACKEND, KIND_COUNT, KIND_FRONTEND, KIND_LISTENER, KIND_SERVER, LOG_ADD, LOG_RELEASE, LogEntry,
    RegionHeader, RegionLayout, SegmentHeader, check_region,
)

from bascule.shared.region import RegionError


cdef enum:
    ID_BYTES_MAX = 4096
    RESTING_TRIED = 8             # per allocation: how many resting slots may turn out busy
    FREE = 0
    GONE = 0xFFFFFFFF             # a place of the index that was taken: a search goes on behind it
    INDEX_MIN = 1024

cdef dict KIND_NUMBERS = {"listener": 1, "frontend": 2, "backend": 3, "server": 4}
cdef tuple KIND_NAMES = ("", "listener", "frontend", "backend", "server")


class DirectoryFull(RuntimeError):
    """Every slot is taken, or the log of identities is full of live ones."""


cdef class Directory:
    """The master's directory: identity -> slot. One at a time; opening it adopts what earlier masters gave out."""

    cdef Mapping mapping
    cdef RegionLayout layout
    cdef RegionHeader* header
    cdef uint32_t* generations
    cdef uint32_t* places         # hash index by kind and id: offset in the log / 4 + 1 of the LOG_ADD in force
    cdef uint64_t place_count     # a power of two, or 0
    cdef uint64_t places_used     # not FREE
    cdef uint64_t live            # objects
    cdef list resting             # [(released at, slot)], oldest first
    cdef double reuse_delay_s
    cdef uint32_t next_slot       # slots from here on were never used
    cdef uint32_t epoch
    cdef uint64_t used            # bytes of the active half
    cdef bint unread              # the log says more than the index: see seed

    def __cinit__(self, int fd, *, double reuse_delay_s=60.0):
        region_map(&self.mapping, fd, True)
        if check_region(self.mapping.base, self.mapping.size, &self.layout) != STATISTICS_OK:
            raise RegionError("this is no statistics region of a layout this version knows: start a fresh one")
        self.header = <RegionHeader*>self.mapping.base
        self.generations = <uint32_t*>(self.mapping.base + self.layout.generations_offset)
        self.resting = []
        self.reuse_delay_s = reuse_delay_s
        self.adopt()

    def __dealloc__(self):
        region_unmap(&self.mapping)
        free(self.places)

    def __len__(self) -> int:
        self.catch_up()
        return self.live

    def slot(self, str kind not None, str id not None) -> int:
        """The object's slot, a new one if it has none yet. Raises DirectoryFull, and ValueError for an unknown kind."""
        cdef object number = KIND_NUMBERS.get(kind)
        if number is None:
            raise ValueError(f"unknown kind {kind!r}: use listener, frontend, backend or server")
        self.catch_up()
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        cdef LogEntry* known = self.find(number, text, length)
        if known != NULL:
            return known.slot
        cdef uint32_t slot = self.take_slot()
        cdef uint32_t generation = load32(&self.generations[slot]) + 1
        if generation == GENERATION_RENEWING:
            generation = 1
        try:
            self.reserve(self.live + 1)
            self.append(number, LOG_ADD, slot, generation, text, length)
        except BaseException:
            self.resting.append((0.0, slot))
            raise
        # The log says so first: a successor restores the table from it.
        store32_release(&self.generations[slot], generation)
        self.enter(<LogEntry*>(self.half() + self.used - entry_size(length)))
        return slot

    def release(self, str kind not None, str id not None) -> None:
        """The object is gone: its numbers vanish from the readers' lists, its slot rests. KeyError if unknown."""
        self.catch_up()
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        cdef object number = KIND_NUMBERS.get(kind)
        cdef LogEntry* known = self.find(number, text, length) if number is not None else NULL
        if known == NULL:
            raise KeyError(f"no {kind} {id!r} in the statistics directory")
        cdef uint32_t slot = known.slot
        self.append(number, LOG_RELEASE, slot, self.generations[slot], b"", 0)  # may move the log: `known` is not used again
        self.places[self.place_of(number, text, length)] = GONE
        self.live -= 1
        self.resting.append((time.monotonic(), slot))

    def retain(self, wanted) -> int:
        """Releases every object that is not in `wanted`, an iterable of (kind, id); returns how many."""
        self.catch_up()
        keep = set(wanted)
        gone = [(kind, id) for kind, id, _ in self.rows() if (kind, id) not in keep]
        for kind, id in gone:
            self.release(kind, id)
        return len(gone)

    @property
    def bound(self) -> int:
        """No object has a slot from here on."""
        self.catch_up()
        return self.next_slot

    def items(self) -> list:
        """[(kind, id, slot)] of all live objects, by slot."""
        self.catch_up()
        return sorted(self.rows(), key=lambda row: row[2])

    cdef list rows(self):
        cdef list found = []
        cdef const LogEntry* entry
        cdef uint64_t i
        for i in range(self.place_count):
            if self.places[i] != FREE and self.places[i] != GONE:
                entry = self.at(self.places[i])
                found.append((KIND_NAMES[entry.kind],
                              PyUnicode_DecodeUTF8(<const char*>(entry + 1), entry.id_length, "strict"), entry.slot))
        return found

    # ---- the index

    cdef LogEntry* at(self, uint32_t place) noexcept nogil:
        return <LogEntry*>(self.mapping.base + self.layout.log_offset[self.epoch & 1] + <uint64_t>(place - 1) * 4)

    cdef uint64_t place_of(self, uint32_t kind, const char* id, uint64_t length) noexcept nogil:
        """The slot of the index that leads to an object, or the free one where the search for it ends."""
        cdef uint64_t at = route_hash(kind, id, <uint32_t>length) & (self.place_count - 1)
        cdef const LogEntry* entry
        while self.places[at] != FREE:
            if self.places[at] != GONE:
                entry = self.at(self.places[at])
                if entry.id_length == length and entry.kind == kind and memcmp(entry + 1, id, length) == 0:
                    return at
            at = (at + 1) & (self.place_count - 1)
        return at

    cdef LogEntry* find(self, uint32_t kind, const char* id, uint64_t length) noexcept nogil:
        cdef uint64_t at
        if self.place_count == 0:
            return NULL
        at = self.place_of(kind, id, length)
        return self.at(self.places[at]) if self.places[at] != FREE else NULL

    cdef void enter(self, const LogEntry* entry) noexcept nogil:
        """Room has been reserved, and the object is not in the index."""
        cdef uint64_t at = self.place_of(entry.kind, <const char*>(entry + 1), entry.id_length)
        self.places[at] = <uint32_t>((<const uint8_t*>entry - self.half()) // 4 + 1)
        self.places_used += 1
        self.live += 1

    cdef int reserve(self, uint64_t objects) except -1:
        """Makes room in the index for so many objects."""
        cdef uint32_t* old = self.places
        cdef uint64_t old_count = self.place_count, count = INDEX_MIN, i
        if (max(objects, self.places_used) + 1) * 3 <= self.place_count * 2:
            return 0
        while count * 2 < objects * 4:
            count *= 2
        self.places = <uint32_t*>calloc(count, sizeof(uint32_t))
        if self.places == NULL:
            self.places = old
            raise MemoryError
        self.place_count = count
        self.places_used = self.live = 0
        for i in range(old_count):
            if old[i] != FREE and old[i] != GONE:
                self.enter(self.at(old[i]))
        free(old)
        return 0

    def seed(self, int fd) -> None:
        """Gives every object of the records image in `fd` the slot that the image says. Only of a directory that has given out
        none. ValueError when the image is none, or says what cannot be; then nothing has been given out.

        The log alone is written, in one go; names are read from it when somebody asks.
        """
        cdef Snapshot snapshot
        cdef void* mapped
        cdef uint64_t size = os.fstat(fd).st_size
        cdef uint8_t* taken
        cdef int fault
        if self.used or self.next_slot:
            raise ValueError("this directory has given out slots: it cannot be seeded")
        mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
        if mapped == MAP_FAILED:
            raise ValueError("the image cannot be mapped")
        taken = <uint8_t*>calloc(self.header.objects, 1)
        try:
            if taken == NULL:
                raise MemoryError
            fault = snapshot_open(&snapshot, <const uint8_t*>mapped, size)
            if fault != SNAPSHOT_OK:
                raise ValueError(f"the image does not hold together (fault {fault})")
            if not self.seed_from(&snapshot, taken):
                self.used = 0
                raise ValueError("the image gives a slot twice, or one that the region does not have")
        finally:
            free(taken)
            munmap(mapped, size)
        self.commit()
        self.unread = True

    cdef bint seed_from(self, const Snapshot* snapshot, uint8_t* taken) noexcept:
        """Writes the log for all objects and, as resting, for the slots between them; False when something cannot be."""
        cdef const char* strings = snapshot.strings
        cdef const ListenerRecord* listener
        cdef const FrontendRecord* frontend
        cdef const BackendRecord* backend
        cdef uint32_t i, bound
        cdef bint good = True
        for i in range(snapshot.listener_count):
            listener = snapshot.listeners + i
            good = good and self.seed_one(KIND_LISTENER, listener.stat_slot, taken, strings, listener.id)
        for i in range(snapshot.frontend_count):
            frontend = snapshot.frontends + i
            if not frontend.flags & FRONTEND_REMOVED:
                good = good and self.seed_one(KIND_FRONTEND, frontend.stat_slot, taken, strings, frontend.id)
        for i in range(snapshot.backend_count):
            backend = snapshot.backends + i
            if backend.id.length:
                good = good and self.seed_one(KIND_BACKEND, backend.stat_slot, taken, strings, backend.id)
        if not good or not self.seed_servers(snapshot, taken):
            return False
        bound = self.header.objects
        while bound and not taken[bound - 1]:
            bound -= 1
        for i in range(bound):
            if not taken[i]:
                if self.used + entry_size(0) > self.layout.log_size:
                    return False
                write_entry(self.half(), &self.used, 1, LOG_RELEASE, i, 0, b"", 0)
        return True

    cdef bint seed_servers(self, const Snapshot* snapshot, uint8_t* taken) noexcept:
        cdef const char* strings = snapshot.strings
        cdef const BackendRecord* backend
        cdef const ServerRecord* server
        cdef char[2 * ID_BYTES_MAX + 2] name
        cdef Str place
        cdef uint32_t i
        for i in range(snapshot.server_count):
            server = snapshot.servers + i
            if server.backend == NO_INDEX or not server.id.length:
                continue
            backend = snapshot.backends + server.backend
            if backend.id.length > ID_BYTES_MAX or server.id.length > ID_BYTES_MAX:
                return False
            memcpy(name, strings + backend.id.offset, backend.id.length)
            name[backend.id.length] = c'/'
            memcpy(name + backend.id.length + 1, strings + server.id.offset, server.id.length)
            place.offset = 0
            place.length = backend.id.length + 1 + server.id.length
            if not self.seed_one(KIND_SERVER, server.stat_slot, taken, name, place):
                return False
        return True

    cdef bint seed_one(self, uint32_t kind, uint32_t slot, uint8_t* taken, const char* strings, Str id) noexcept:
        if (slot >= self.header.objects or taken[slot] or id.length > ID_BYTES_MAX
                or self.used + entry_size(id.length) > self.layout.log_size):
            return False
        taken[slot] = 1
        write_entry(self.half(), &self.used, kind, LOG_ADD, slot, 1, strings + id.offset, id.length)
        store32_release(&self.generations[slot], 1)
        return True

    cdef int catch_up(self) except -1:
        """Reads what `seed` has left in the log."""
        if self.unread:
            self.unread = False
            self.adopt()
        return 0

    cdef int adopt(self) except -1:
        """Replays the log of earlier masters. Their released slots rest anew: for how long they did is unknown."""
        cdef uint64_t state = load64(&self.header.log_state)
        cdef const uint8_t* half
        cdef const LogEntry* entry
        cdef uint64_t position = 0, adds = 0
        cdef uint32_t* owners     # of each slot: as `places`, GONE = released
        cdef uint32_t slot
        self.epoch = <uint32_t>(state >> 32)
        self.used = state & 0xFFFFFFFF
        half = self.mapping.base + self.layout.log_offset[self.epoch & 1]
        if self.used > self.layout.log_size:
            raise RegionError("the statistics directory's log is damaged: start a fresh region")
        if self.used == 0:
            return 0
        owners = <uint32_t*>calloc(self.header.objects, sizeof(uint32_t))
        if owners == NULL:
            raise MemoryError
        try:
            while position + sizeof(LogEntry) <= self.used:
                entry = <const LogEntry*>(half + position)
                if (position + entry_size(entry.id_length) > self.used or entry.slot >= self.header.objects
                        or not 0 < entry.kind < KIND_COUNT):
                    raise RegionError("the statistics directory's log is damaged: start a fresh region")
                self.next_slot = max(self.next_slot, entry.slot + 1)
                self.generations[entry.slot] = entry.generation
                owners[entry.slot] = <uint32_t>(position // 4 + 1) if entry.operation == LOG_ADD else GONE
                position += entry_size(entry.id_length)
            for slot in range(self.next_slot):
                adds += owners[slot] != FREE and owners[slot] != GONE
            self.reserve(adds)
            now = time.monotonic()
            for slot in range(self.next_slot):
                if owners[slot] == GONE:
                    self.resting.append((now, slot))
                elif owners[slot] != FREE:
                    self.enter(self.at(owners[slot]))
        finally:
            free(owners)
        return 0

    cdef int64_t take_slot(self) except -1:
        cdef uint32_t slot
        cdef Py_ssize_t tries = 0
        if self.resting:
            due = time.monotonic() - self.reuse_delay_s
            while tries < RESTING_TRIED and tries < len(self.resting) and self.resting[0][0] <= due:
                released_at, slot = self.resting.pop(0)
                if self.quiet(slot):
                    return slot
                self.resting.append((released_at, slot))
                tries += 1
        if self.next_slot < self.header.objects:
            self.next_slot += 1
            return self.next_slot - 1
        # No fresh slot is left: the delay gives way, an exchange in flight does not.
        for i, (_, resting) in enumerate(self.resting):
            if self.quiet(resting):
                del self.resting[i]
                return resting
        raise DirectoryFull(f"all {self.header.objects} statistics slots are taken: restart with a larger region, or"
                            " remove listeners, frontends, backends or servers")

    cdef bint quiet(self, uint32_t slot):
        """Whether no worker has anything in flight or open under the slot's last generation."""
        cdef uint32_t worker
        cdef const SegmentHeader* headers = <const SegmentHeader*>(
            self.mapping.base + self.layout.segment_headers_offset)
        cdef const uint8_t* start
        cdef const StatBlock* block
        for worker in range(self.header.workers):
            start = self.mapping.base + self.layout.segments_offset + worker * self.layout.segment_stride
            if load32(&headers[worker].pid) == 0 or not load64(<const uint64_t*>start + slot // 64) >> (slot % 64) & 1:
                continue
            block = <const StatBlock*>(start + self.layout.blocks_offset) + slot
            if load32(&block.generation) != load32(&self.generations[slot]):
                continue
            if load64(<const uint64_t*>&block.in_flight) or load64(<const uint64_t*>&block.connections_open):
                return False
        return True

    cdef int append(self, uint32_t kind, uint8_t operation, uint32_t slot, uint32_t generation, const char* text,
                    Py_ssize_t length) except -1:
        if length > ID_BYTES_MAX:
            raise ValueError(f"the id has {length} bytes, at most {ID_BYTES_MAX} fit")
        if self.used + entry_size(length) > self.layout.log_size:
            self.compact()
            if self.used + entry_size(length) > self.layout.log_size:
                raise DirectoryFull("the statistics directory's log is full: restart with a larger region, or use"
                                    " shorter ids")
        write_entry(self.half(), &self.used, kind, operation, slot, generation, text, length)
        self.commit()
        return 0

    cdef uint8_t* half(self) noexcept nogil:
        return self.mapping.base + self.layout.log_offset[self.epoch & 1]

    cdef void commit(self):
        store64_release(&self.header.log_state, (<uint64_t>self.epoch << 32) | self.used)

    cdef int compact(self) except -1:
        """Writes the live identities and the resting slots into the other half, then switches to it in one store."""
        cdef uint8_t* old = self.half()
        cdef uint8_t* other
        cdef uint32_t epoch = self.epoch + 1
        cdef uint32_t slot
        cdef uint64_t used = 0, i
        cdef const LogEntry* entry
        other = self.mapping.base + self.layout.log_offset[epoch & 1]
        for i in range(self.place_count):
            if self.places[i] == FREE or self.places[i] == GONE:
                continue
            entry = <const LogEntry*>(old + <uint64_t>(self.places[i] - 1) * 4)
            self.places[i] = <uint32_t>(used // 4 + 1)
            write_entry(other, &used, entry.kind, LOG_ADD, entry.slot, self.generations[entry.slot], <const char*>(entry + 1),
                        entry.id_length)
        for _, slot in self.resting:
            write_entry(other, &used, 1, LOG_RELEASE, slot, self.generations[slot], b"", 0)
        self.epoch, self.used = epoch, used
        self.commit()
        return 0


cdef inline uint64_t entry_size(uint64_t id_length) noexcept:
    return (sizeof(LogEntry) + id_length + 3) & ~<uint64_t>3


cdef void write_entry(uint8_t* half, uint64_t* used, uint32_t kind, uint8_t operation, uint32_t slot,
                      uint32_t generation, const char* text, Py_ssize_t length) noexcept:
    cdef LogEntry* entry = <LogEntry*>(half + used[0])
    entry.slot = slot
    entry.generation = generation
    entry.id_length = length
    entry.kind = kind
    entry.operation = operation
    memcpy(<uint8_t*>entry + sizeof(LogEntry), text, length)
    used[0] += entry_size(length)
