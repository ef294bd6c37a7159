"""See ranking.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from bascule.routing.clauses cimport Clause
from bascule.routing.intern cimport grow


cdef class Ranking:
    """See ranking.pxd."""

    def __dealloc__(self):
        free(self.runs)
        free(self.frontends)

    cdef int fill(self, const Clause* clauses, const uint32_t* ranks, uint64_t count) except -1 nogil:
        cdef RankKey key
        cdef uint64_t rank
        self.frontends = <uint32_t*>malloc((count + 1) * sizeof(uint32_t))
        if self.frontends == NULL:
            with gil:
                raise MemoryError
        self.count = count
        for rank in range(count):
            self.frontends[rank] = clauses[ranks[rank]].frontend
            key = key_of(clauses + ranks[rank])
            if self.run_count and compare_keys(&self.runs[self.run_count - 1].key, &key) == 0:
                continue
            grow(<void**>&self.runs, &self.run_capacity, self.run_count + 1, sizeof(RankRun))
            self.runs[self.run_count].key = key
            self.runs[self.run_count].first = <uint32_t>rank
            self.run_count += 1
        return 0

    cdef int load(self, const RankRun* runs, uint64_t run_count, const uint32_t* frontends, uint64_t count) except -1:
        self.frontends = <uint32_t*>malloc((count + 1) * sizeof(uint32_t))
        if self.frontends == NULL:
            raise MemoryError
        memcpy(self.frontends, frontends, count * sizeof(uint32_t))
        self.count = count
        if run_count:
            grow(<void**>&self.runs, &self.run_capacity, run_count, sizeof(RankRun))
            memcpy(self.runs, runs, run_count * sizeof(RankRun))
        self.run_count = run_count
        return 0
