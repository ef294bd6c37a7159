"""Ranks clauses, builds the trie over them and writes the ROUTES sections (layout.pxd)."""

from bascule.routing.clauses cimport Clauses
from bascule.routing.ranking cimport Ranking


cdef class RouteTableSections:    # what building gives
    cdef dict sections            # section number -> bytes
    cdef list conflicts           # (winner, loser) as frontend indices, in order of rank
    cdef Ranking ranking          # None unless asked for
    cdef list order               # None unless asked for: the clause of each rank

# Dead clauses are left out. The GIL is let go of while clauses are ranked and put into the trie.
cdef RouteTableSections build_routes(Clauses clauses, bint with_ranking)
