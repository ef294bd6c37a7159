"""Residual predicates: what is left of a route when host and path have been matched by the trie."""

from libc.stdint cimport uint8_t, uint32_t

from bascule.routing.layout cimport PredicateRecord
from bascule.routing.match cimport RouteRequest, Slice
from bascule.routing.view cimport RouteView

# 1 = holds, 0 = does not, -1 = undecided (a regexp hit a limit): the entry is passed over, negated or not.
# Captures of header patterns are appended to `captures`, at most CAPTURES_MAX in all.
cdef int predicate_holds(const RouteView* view, const PredicateRecord* record, const RouteRequest* request, Slice* captures,
                         uint32_t* capture_count) noexcept nogil

# One path segment, host label or header part against a parameter with literal text around it; 1 and `value` if it fits.
cdef int segment_fits(uint8_t kind, const char* prefix, uint32_t prefix_length, const char* suffix, uint32_t suffix_length,
                      const char* start, const char* end, Slice* value) noexcept nogil
