"""Which object has which slot of the statistics region: written by the master alone, read again by its successors.

Identities live in an append-only log in the region itself (layout: statistics_layout.pxd), so a new master goes on
with the same slots. An entry is complete before log_state makes it visible; a master that dies in between has changed
nothing.

Life of a slot: free -> [slot()] live -> [release()] resting -> [reuse delay over, gauges 0] live, next generation.
A slot rests so that exchanges pinned to an older snapshot can end under the old object's number first.
"""

import time

from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from bascule.shared.atomic cimport load32, load64, store32_release, store64_release
from bascule.shared.region cimport Mapping, region_map, region_unmap
from bascule.shared.statistics cimport STATISTICS_OK, StatBlock
from bascule.shared.statistics_layout cimport (
    GENERATION_RENEWING, KIND_COUNT, LOG_ADD, LOG_RELEASE, LogEntry, RegionHeader, RegionLayout, SegmentHeader,
    check_region
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
        return sum(map(len, self.kinds))

    def slot(self, str kind not None, str id not None) -> int:
        """The object's slot, a new one if it has none yet. Raises DirectoryFull, and ValueError for an unknown kind."""
        cdef object number = KIND_NUMBERS.get(kind)
        if number is None:
            raise ValueError(f"unknown kind {kind!r}: use listener, frontend, backend or server")
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
        number = KIND_NUMBERS.get(kind)
        if number is None or id not in self.kinds[number]:
            raise KeyError(f"no {kind} {id!r} in the statistics directory")
        slot = (<dict>self.kinds[number])[id]
        self.append(number, LOG_RELEASE, slot, self.generations[slot], "")
        del (<dict>self.kinds[number])[id]
        self.resting.append((time.monotonic(), slot))

    def retain(self, wanted) -> int:
        """Releases every object that is not in `wanted`, an iterable of (kind, id); returns how many."""
        keep = set(wanted)
        gone = [(KIND_NAMES[number], id) for number, ids in enumerate(self.kinds) for id in ids
                if (KIND_NAMES[number], id) not in keep]
        for kind, id in gone:
            self.release(kind, id)
        return len(gone)

    def items(self) -> list:
        """[(kind, id, slot)] of all live objects, by slot."""
        rows = [(KIND_NAMES[number], id, slot) for number, ids in enumerate(self.kinds) for id, slot in ids.items()]
        return sorted(rows, key=lambda row: row[2])

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
