"""The one order of all clauses, most specific first, and the place of a clause in it."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from bascule.routing.clauses cimport Clause


cdef struct RankKey:              # all that decides between two clauses before the id does
    uint64_t host_key
    uint64_t path_keys[2]
    int32_t priority
    uint16_t host_literal_bytes
    uint16_t path_literal_bytes
    uint16_t predicate_count
    uint8_t path_root

cdef struct RankRun:              # neighbours of one key
    RankKey key
    uint32_t first                # rank

cdef class Ranking:
    # The order of the clauses of a base, so that the place of any other clause in it can be found: runs of equal keys, and within
    # a run the ids. Owner: the snapshot compiler, until the next full compilation.
    cdef RankRun* runs
    cdef uint64_t run_count
    cdef uint64_t run_capacity
    cdef uint32_t* frontends      # of each rank
    cdef uint64_t count

    cdef int fill(self, const Clause* clauses, const uint32_t* ranks, uint64_t count) except -1 nogil
    # As another Ranking was: both arrays are copied.
    cdef int load(self, const RankRun* runs, uint64_t run_count, const uint32_t* frontends, uint64_t count) except -1


cdef inline int differ(uint64_t a, uint64_t b) noexcept nogil:
    """-1 when a is the larger: larger is more specific and comes first."""
    return -1 if a > b else (1 if a < b else 0)


cdef inline RankKey key_of(const Clause* clause) noexcept nogil:
    cdef RankKey key
    key.priority = clause.priority
    key.host_key = clause.host_key
    key.host_literal_bytes = clause.host_literal_bytes
    key.path_keys[0] = clause.path_keys[0]
    key.path_keys[1] = clause.path_keys[1]
    key.path_literal_bytes = clause.path_literal_bytes
    key.predicate_count = clause.predicate_count
    key.path_root = clause.path_root
    return key


cdef inline int compare_keys(const RankKey* a, const RankKey* b) noexcept nogil:
    """The precedence of routes but for the id; docs/routing.md says it in words, routing/reference.py in Python."""
    cdef int result
    if a.priority != b.priority:
        return -1 if a.priority > b.priority else 1
    result = differ(a.host_key, b.host_key)
    if result == 0:
        result = differ(a.host_literal_bytes, b.host_literal_bytes)
    if result == 0:
        result = differ(a.path_keys[0], b.path_keys[0])
    if result == 0:
        result = differ(a.path_keys[1], b.path_keys[1])
    if result == 0:
        result = differ(a.path_literal_bytes, b.path_literal_bytes)
    if result == 0:
        result = differ(a.predicate_count, b.predicate_count)
    if result == 0:
        result = differ(a.path_root, b.path_root)
    return result
