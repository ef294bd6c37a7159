"""A worker's view of the ROUTES sections: checked pointers, and the compiled regexps beside them.

Owner: the RouteTable it is part of. Writers: routes_locate and route_table_open. Dies with the RouteTable, before the image is
unmapped.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.routing.layout cimport EdgeRecord, NodeRecord, PredicateRecord, RouteHeader, SegmentRecord, SlotRecord
from bascule.routing.match cimport RouteRequest, Slice
from bascule.routing.pcre cimport PcreCode, PcreScratch


cdef struct RouteView:
    const RouteHeader* header
    const uint8_t* nodes
    uint64_t nodes_size
    const SlotRecord* slots
    uint64_t slot_mask
    const EdgeRecord* edges
    uint64_t edge_count
    const PredicateRecord* predicates
    uint64_t predicate_count
    const SegmentRecord* segments
    uint64_t segment_count
    const uint32_t* refs
    uint64_t ref_count
    const char* strings
    uint64_t strings_size
    PcreCode** regexps            # header.regexp_count of them
    PcreScratch* scratch          # NULL without regexps
    char* decoded                 # SUBJECT_BYTES_MAX bytes for decoded query values; NULL without regexps
