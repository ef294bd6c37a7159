"""The routes changed since a base was compiled, as a small table beside it (layout.pxd, sections 8..17).

    Delta.put      a route is new or changed: its clauses join, and the frontend's earlier ones (`replaces`) die
    Delta.drop     a route is gone
    Delta.build    the table of what lives, and the place of each clause in the order of the base

Only what is put is parsed; building costs what is in the delta. The base is never touched, and nothing of it is looked at but
what the binary search for a clause's place needs: the Ranking, and the ids of the frontends in the records.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from bascule.routing.clauses cimport Clauses
from bascule.routing.ranking cimport Ranking
from bascule.routing.view cimport RouteView
from bascule.shared.snapshot cimport FrontendRecord


cdef struct BaseFrontends:        # borrowed for a call: the records whose indices base and delta use
    const FrontendRecord* records
    const char* strings
    const uint8_t* retired        # bits
    uint32_t bound                # frontends of the base are below it

cdef class Delta:
    cdef Clauses clauses

    cdef int put(self, uint32_t frontend, const char* id_text, uint32_t id_length, const char* text, uint32_t length,
                 int32_t priority, bint replaces) except -1   # RouteError
    cdef void drop(self, uint32_t frontend) noexcept
    # ({section: bytes}, [(winner, loser)]): conflicts within the delta; no sections when nothing lives
    cdef tuple build(self, Ranking ranking, const BaseFrontends* base)
    # Frontends of the base with a route equal to one of a frontend's, as [(winner, loser)]
    cdef list conflicts_with_base(self, uint32_t frontend, const RouteView* view, const BaseFrontends* base)
