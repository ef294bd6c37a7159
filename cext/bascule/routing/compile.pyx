"""Route expressions to the ROUTES sections of a snapshot image: the Python face of the compiler."""

from libc.stdint cimport int32_t, uint32_t

from bascule.routing.clauses cimport Clauses
from bascule.routing.trie cimport RouteTableSections, build_routes


cdef class RouteCompiler:
    """Collects routes, then gives their sections and conflicts."""
    cdef Clauses clauses
    cdef dict names               # frontend index -> id
    cdef RouteTableSections built  # None after an add

    def __cinit__(self):
        self.clauses = Clauses()
        self.names = {}

    def add(self, uint32_t frontend_index, str frontend_id not None, str expression not None, int32_t priority=0):
        self.clauses.add(frontend_index, frontend_id, expression, priority)
        self.names[frontend_index] = frontend_id
        self.built = None

    def sections(self):
        if self.built is None:
            self.built = build_routes(self.clauses, False)
        return self.built.sections

    def conflicts(self):
        self.sections()
        if not self.built.conflicts:
            return []
        from bascule.routing.conflict import Conflict  # imports dataclasses: 20 ms of CPU

        return [
            Conflict(winner, loser, self.names[winner], self.names[loser]) for winner, loser in dict.fromkeys(self.built.conflicts)
        ]
