"""Which object has which slot of the statistics region: written by the master alone, read again by its successors.

Identities live in an append-only log in the region itself (layout: statistics_layout.pxd), so a new master goes on
with the same slots. An entry is complete before log_state makes it visible; a master that dies in between has changed
nothing.

Life of a slot: free -> [slot()] live -> [release()] resting -> [reuse delay over, gauges 0] live, next generation.
A slot rests so that exchanges pinned to an older snapshot can end under the old object's number first.
"""

import os
import time

from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

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
    cdef list kinds               # kind number -> {id: slot}
    cdef list resting             # [(released at, slot)], oldest first
    cdef double reuse_delay_s
    cdef uint32_t next_slot       # slots from here on were never used
    cdef uint32_t epoch
    cdef uint64_t used            # bytes of the active half
    cdef bint unread              # the log says more than `kinds`: see seed

    def __cinit__(self, int fd, *, double reuse_delay_s=60.0):
        region_map(&self.mapping, fd, True)
        if check_region(self.mapping.base, self.mapping.size, &self.layout) != STATISTICS_OK:
            raise RegionError("this is no statistics region of a layout this version knows: start a fresh one")
        self.header = <RegionHeader*>self.mapping.base
        self.generations = <uint32_t*>(self.mapping.base + self.layout.generations_offset)
        self.kinds = [{} for _ in range(KIND_COUNT)]
        self.resting = []
        self.reuse_delay_s = reuse_delay_s
        self.adopt()

    def __dealloc__(self):
        region_unmap(&self.mapping)

    def __len__(self) -> int:
        self.catch_up()
        return sum(map(len, self.kinds))

    def slot(self, str kind not None, str id not None) -> int:
        """The object's slot, a new one if it has none yet. Raises DirectoryFull, and ValueError for an unknown kind."""
        cdef object number = KIND_NUMBERS.get(kind)
        if number is None:
            raise ValueError(f"unknown kind {kind!r}: use listener, frontend, backend or server")
        self.catch_up()
        cdef dict ids = <dict>self.kinds[number]
        cdef object known = ids.get(id)
        if known is not None:
            return known
        cdef uint32_t slot = self.take_slot()
        cdef uint32_t generation = load32(&self.generations[slot]) + 1
        if generation == GENERATION_RENEWING:
            generation = 1
        try:
            self.append(number, LOG_ADD, slot, generation, id)
        except BaseException:
            self.resting.append((0.0, slot))
            raise
        # The log says so first: a successor restores the table from it.
        store32_release(&self.generations[slot], generation)
        ids[id] = slot
        return slot

    def release(self, str kind not None, str id not None) -> None:
        """The object is gone: its numbers vanish from the readers' lists, its slot rests. KeyError if unknown."""
        self.catch_up()
        number = KIND_NUMBERS.get(kind)
        if number is None or id not in self.kinds[number]:
            raise KeyError(f"no {kind} {id!r} in the statistics directory")
        slot = (<dict>self.kinds[number])[id]
        self.append(number, LOG_RELEASE, slot, self.generations[slot], "")
        del (<dict>self.kinds[number])[id]
        self.resting.append((time.monotonic(), slot))

    def retain(self, wanted) -> int:
        """Releases every object that is not in `wanted`, an iterable of (kind, id); returns how many."""
        self.catch_up()
        keep = set(wanted)
        gone = [(KIND_NAMES[number], id) for number, ids in enumerate(self.kinds) for id in ids
                if (KIND_NAMES[number], id) not in keep]
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
        rows = [(KIND_NAMES[number], id, slot) for number, ids in enumerate(self.kinds) for id, slot in ids.items()]
        return sorted(rows, key=lambda row: row[2])

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

    cpdef int catch_up(self) except -1:
        """Reads the names that `seed` has left in the log: 0.5 us each."""
        if self.unread:
            self.unread = False
            self.adopt()
        return 0

    cdef int adopt(self) except -1:
        """Replays the log of earlier masters. Their released slots rest anew: for how long they did is unknown."""
        cdef uint64_t state = load64(&self.header.log_state)
        cdef const uint8_t* half
        cdef const LogEntry* entry
        cdef uint64_t position = 0
        cdef dict owners = {}
        self.epoch = <uint32_t>(state >> 32)
        self.used = state & 0xFFFFFFFF
        half = self.mapping.base + self.layout.log_offset[self.epoch & 1]
        if self.used > self.layout.log_size:
            raise RegionError("the statistics directory's log is damaged: start a fresh region")
        while position + sizeof(LogEntry) <= self.used:
            entry = <const LogEntry*>(half + position)
            position += entry_size(entry.id_length)
            if position > self.used or entry.slot >= self.header.objects or not 0 < entry.kind < KIND_COUNT:
                raise RegionError("the statistics directory's log is damaged: start a fresh region")
            self.next_slot = max(self.next_slot, entry.slot + 1)
            self.generations[entry.slot] = entry.generation
            if entry.operation == LOG_ADD:
                id = PyUnicode_DecodeUTF8(<const char*>entry + sizeof(LogEntry), entry.id_length, "strict")
                owners[entry.slot] = (entry.kind, id)
            else:
                owners[entry.slot] = None
        now = time.monotonic()
        for slot, owner in owners.items():
            if owner is None:
                self.resting.append((now, slot))
            else:
                (<dict>self.kinds[owner[0]])[owner[1]] = slot
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

    cdef int append(self, uint32_t kind, uint8_t operation, uint32_t slot, uint32_t generation, str id) except -1:
        cdef Py_ssize_t length
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
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

    cdef uint8_t* half(self):
        return self.mapping.base + self.layout.log_offset[self.epoch & 1]

    cdef void commit(self):
        store64_release(&self.header.log_state, (<uint64_t>self.epoch << 32) | self.used)

    cdef int compact(self) except -1:
        """Writes the live identities and the resting slots into the other half, then switches to it in one store."""
        cdef Py_ssize_t length
        cdef const char* text
        cdef uint32_t slot
        self.epoch += 1
        self.used = 0
        for number, ids in enumerate(self.kinds):
            for id, slot in (<dict>ids).items():
                text = PyUnicode_AsUTF8AndSize(id, &length)
                write_entry(self.half(), &self.used, number, LOG_ADD, slot, self.generations[slot], text, length)
        for _, slot in self.resting:
            write_entry(self.half(), &self.used, 1, LOG_RELEASE, slot, self.generations[slot], b"", 0)
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
