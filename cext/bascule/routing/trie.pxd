"""Ranks clauses, builds the trie over them and writes the ROUTES sections (layout.pxd)."""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t, uint8_t

from bascule.routing.clauses cimport Clause, Clauses


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

cdef class RouteTableSections:    # what building gives
    cdef dict sections            # section number -> bytes
    cdef list conflicts           # (winner, loser) as frontend indices, in order of rank
    cdef Ranking ranking          # None unless asked for
    cdef list order               # None unless asked for: the clause of each rank

cdef int compare_keys(const RankKey* a, const RankKey* b) noexcept nogil   # < 0: a is more specific
cdef RankKey key_of(const Clause* clause) noexcept nogil

# Dead clauses are left out. The GIL is let go of while clauses are ranked and put into the trie.
cdef RouteTableSections build_routes(Clauses clauses, bint with_ranking)
