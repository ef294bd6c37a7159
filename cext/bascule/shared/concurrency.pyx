"""Concurrency limits of the shared limits region: see concurrency.pxd.

An entry is one word, tag << 24 | count; a count of 0 is as good as empty. Beside it every worker notes in its own
array how many it holds of each entry, before the entry is raised and after it is lowered: a worker that dies in
between leaves the note too high, never the entry, so recovery can let one request too many through but never lock a
key up for good.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from bascule.shared.atomic cimport cas64, load64, load64_seq, store32
from bascule.shared.limits_layout cimport CONCURRENCY_WAYS, COUNT_BITS, COUNT_MASK, WorkerLine, scale


cdef int64_t UNCOUNTED = 0x7FFFFFFFFFFFFFFFLL  # handle of an admission that found no room to be counted


cdef inline uint64_t* concurrency_set(LimitTable* table, uint64_t key) noexcept nogil:
    return <uint64_t*>table.concurrency + scale(key, table.concurrency_sets) * CONCURRENCY_WAYS


cdef struct Scan:
    # What one look at a set found of a key. Owner: the caller's stack.
    uint64_t* entry               # the key's first entry, NULL if it has none
    uint64_t seen                 # its word
    uint64_t* free                # the first entry without holders, NULL if there is none
    uint64_t free_seen
    uint64_t count                # over all entries of the key


cdef inline void scan(uint64_t* entries, uint64_t tag, Scan* found) noexcept nogil:
    cdef uint64_t seen
    cdef uint32_t way
    memset(found, 0, sizeof(Scan))
    for way in range(<uint32_t>CONCURRENCY_WAYS):
        seen = load64_seq(&entries[way])
        if seen & COUNT_MASK == 0:
            if found.free == NULL:
                found.free = &entries[way]
                found.free_seen = seen
        elif seen & ~<uint64_t>COUNT_MASK == tag:
            if found.entry == NULL:
                found.entry = &entries[way]
                found.seen = seen
            found.count += seen & COUNT_MASK


cdef int64_t limits_acquire(LimitTable* table, uint64_t key, uint32_t concurrency_max) noexcept nogil:
    cdef uint64_t* entries = concurrency_set(table, key)
    cdef uint64_t tag = key << COUNT_BITS
    cdef uint64_t* entry
    cdef uint64_t seen
    cdef uint32_t* held
    cdef bint inserted
    cdef Scan found
    while True:
        scan(entries, tag, &found)
        if found.count >= concurrency_max:
            return -1
        inserted = found.entry == NULL
        entry = found.free if inserted else found.entry
        seen = found.free_seen if inserted else found.seen
        if entry == NULL or seen & COUNT_MASK == COUNT_MASK:
            (<WorkerLine*>table.holder).uncounted += 1
            return UNCOUNTED
        held = <uint32_t*>table.holdings + (entry - <uint64_t*>table.concurrency)
        store32(&(<WorkerLine*>table.holder).holds, 1)
        store32(held, held[0] + 1)
        if cas64(entry, &seen, tag | ((seen & COUNT_MASK) + 1)):
            if not inserted:
                return entry - <uint64_t*>table.concurrency
            scan(entries, tag, &found)
            if found.entry == entry:
                return entry - <uint64_t*>table.concurrency
            # Another worker inserted the key before this entry at the same time: this one gives way.
            lower(entry, 1)
        store32(held, held[0] - 1)


cdef void lower(uint64_t* entry, uint64_t count) noexcept nogil:
    cdef uint64_t seen = load64(entry)
    while not cas64(entry, &seen, seen - (count if count < seen & COUNT_MASK else seen & COUNT_MASK)):
        pass


cdef void limits_release(LimitTable* table, int64_t handle) noexcept nogil:
    cdef uint32_t* held = <uint32_t*>table.holdings + handle
    if handle < 0 or <uint64_t>handle >= table.concurrency_sets * CONCURRENCY_WAYS or held[0] == 0:
        return
    lower(<uint64_t*>table.concurrency + handle, 1)
    store32(held, held[0] - 1)


cdef bint limits_note(LimitTable* table, int64_t handle) noexcept nogil:
    cdef uint32_t* held
    if handle == UNCOUNTED:
        return True
    if handle < 0 or <uint64_t>handle >= table.concurrency_sets * CONCURRENCY_WAYS:
        return False
    held = <uint32_t*>table.holdings + handle
    store32(&(<WorkerLine*>table.holder).holds, 1)
    store32(held, held[0] + 1)
    return True


cdef void limits_forget(LimitTable* table, int64_t handle) noexcept nogil:
    cdef uint32_t* held = <uint32_t*>table.holdings + handle
    if handle < 0 or <uint64_t>handle >= table.concurrency_sets * CONCURRENCY_WAYS or held[0] == 0:
        return
    store32(held, held[0] - 1)


cdef void release_all(LimitTable* table) noexcept nogil:
    """What a dead predecessor of the same number held."""
    cdef uint32_t* held = <uint32_t*>table.holdings
    cdef uint64_t i
    for i in range(table.concurrency_sets * CONCURRENCY_WAYS):
        if held[i]:
            lower(<uint64_t*>table.concurrency + i, held[i])
            store32(&held[i], 0)
