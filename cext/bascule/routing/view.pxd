"""A worker's view of the ROUTES sections: checked pointers, and the compiled regexps beside them.

Owner: the RouteTable it is part of. Writers: routes_locate and route_table_open. Dies with the RouteTable, before the image is
unmapped.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from libc.string cimport memcmp

from bascule.routing.layout cimport (
    NODE_UNIT, EdgeRecord, EntryRecord, NodeRecord, PredicateRecord, RouteHeader, SegmentRecord, SlotRecord, route_hash,
)
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


cdef inline const NodeRecord* node_at(const RouteView* view, uint32_t unit) noexcept nogil:
    return <const NodeRecord*>(view.nodes + <uint64_t>unit * NODE_UNIT)


cdef inline const NodeRecord* literal_child(const RouteView* view, const NodeRecord* parent, const char* label,
                                            uint64_t length) noexcept nogil:
    cdef uint32_t unit = <uint32_t>((<const uint8_t*>parent - view.nodes) // NODE_UNIT)
    cdef uint64_t h, at
    cdef const SlotRecord* slot
    cdef const NodeRecord* node
    if length > 0xFFFF:
        return NULL
    h = route_hash(unit, label, <uint32_t>length)
    at = h & view.slot_mask
    while True:
        slot = view.slots + at
        if slot.node == 0:
            return NULL
        if slot.tag == <uint32_t>(h >> 32):
            node = node_at(view, slot.node)
            if node.parent == unit and node.label_length == length and memcmp(<const char*>(node + 1), label, length) == 0:
                return node
        at = (at + 1) & view.slot_mask


cdef inline const EntryRecord* node_entries(const NodeRecord* node, int tail, uint32_t* count) noexcept nogil:
    """One group of a node's entries, by layout.Tail."""
    cdef const EntryRecord* entries = <const EntryRecord*>(<const char*>(node + 1) + ((node.label_length + 7) & ~7))
    count[0] = node.end_count if tail == 0 else node.more_count if tail == 1 else node.any_count
    if tail == 0:
        return entries
    return entries + node.end_count + (node.more_count if tail == 2 else 0)
