"""Ranks clauses, builds the trie over them and writes the ROUTES sections (layout.pxd)."""

from bascule.routing.clauses cimport Clauses

# (section number -> bytes, [(winner, loser), ...] as frontend indices, in order of rank)
cdef tuple build_routes(Clauses clauses)
