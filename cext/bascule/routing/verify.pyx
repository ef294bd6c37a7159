"""Checks the ROUTES sections of an image (contract: verify.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from bascule.routing.layout cimport (
    CAPTURES_MAX, EDGE_MORE, ENTRY_REST, NODE_UNIT, PREDICATE_CLIENT_IP, PREDICATE_HOST_REGEXP, PREDICATE_KINDS, ROUTES_EDGES,
    ROUTES_HEADER, ROUTES_LAYOUT_VERSION, ROUTES_NODES, ROUTES_POSITIONS, ROUTES_PREDICATES, ROUTES_REFS, ROUTES_RETIRED,
    ROUTES_SEGMENTS, ROUTES_SLOTS, ROUTES_STRINGS, SEGMENT_INT, SEGMENT_STRING, TAIL_ANY, EdgeRecord, EntryRecord, NodeRecord,
    PredicateRecord, RouteHeader, SegmentRecord, SlotRecord,
)
from bascule.routing.view cimport RouteView
from bascule.shared.snapshot cimport IMAGE_HEADER_SIZE, NO_INDEX, ImageHeader


cdef const uint8_t* section(const uint8_t* image, uint64_t size, int number, uint64_t item, uint64_t* count) noexcept nogil:
    """The start of a section of whole `item`s, and how many; NULL if it is not inside the image."""
    cdef uint64_t offset = (<const ImageHeader*>image).sections[number].offset
    cdef uint64_t length = (<const ImageHeader*>image).sections[number].size
    if length == 0:  # an empty section may have no place at all: shared.snapshot.assemble leaves it out
        count[0] = 0
        return image + IMAGE_HEADER_SIZE
    if offset & 7 or offset < IMAGE_HEADER_SIZE or offset > size or length > size - offset or length % item:
        return NULL
    count[0] = length // item
    return image + offset


cdef bint locate(const uint8_t* image, uint64_t size, RouteView* view) noexcept nogil:
    cdef uint64_t headers = 0, units = 0, slots = 0
    view.header = <const RouteHeader*>section(image, size, ROUTES_HEADER, sizeof(RouteHeader), &headers)
    view.nodes = section(image, size, ROUTES_NODES, NODE_UNIT, &units)
    view.slots = <const SlotRecord*>section(image, size, ROUTES_SLOTS, sizeof(SlotRecord), &slots)
    view.edges = <const EdgeRecord*>section(image, size, ROUTES_EDGES, sizeof(EdgeRecord), &view.edge_count)
    view.predicates = <const PredicateRecord*>section(image, size, ROUTES_PREDICATES, sizeof(PredicateRecord),
                                                      &view.predicate_count)
    view.segments = <const SegmentRecord*>section(image, size, ROUTES_SEGMENTS, sizeof(SegmentRecord), &view.segment_count)
    view.refs = <const uint32_t*>section(image, size, ROUTES_REFS, sizeof(uint32_t), &view.ref_count)
    view.strings = <const char*>section(image, size, ROUTES_STRINGS, 1, &view.strings_size)
    if (view.header == NULL or view.nodes == NULL or view.slots == NULL or view.edges == NULL or view.predicates == NULL
            or view.segments == NULL or view.refs == NULL or view.strings == NULL):
        return False
    if headers != 1 or view.header.layout_version != ROUTES_LAYOUT_VERSION or units < 2 or units >= NO_INDEX:
        return False
    if view.header.slot_bits > 32 or slots != <uint64_t>1 << view.header.slot_bits:
        return False
    view.nodes_size = units * NODE_UNIT
    view.slot_mask = slots - 1
    return True


cdef inline bint has_text(const RouteView* view, uint32_t offset, uint32_t length) noexcept nogil:
    return <uint64_t>offset + length <= view.strings_size


cdef bint check_entry(const RouteView* view, const EntryRecord* entry, uint8_t* referenced) noexcept nogil:
    cdef uint64_t end = <uint64_t>entry.refs + entry.predicate_count + 2 * <uint64_t>entry.param_count
    cdef const uint32_t* refs = view.refs + entry.refs
    cdef uint32_t i
    if entry.frontend >= view.header.frontend_bound or entry.param_count > CAPTURES_MAX or entry.flags > ENTRY_REST:
        return False
    if end > view.ref_count or entry.rank >= view.header.entry_count:
        return False
    referenced[entry.frontend >> 3] |= <uint8_t>(1 << (entry.frontend & 7))
    for i in range(entry.predicate_count):
        if refs[i] >> 1 >= view.predicate_count:
            return False
    refs += entry.predicate_count
    for i in range(entry.param_count):
        if not has_text(view, refs[2 * i], refs[2 * i + 1]):
            return False
    return True


cdef inline bint is_marked(const uint8_t* marks, const RouteView* view, uint64_t unit) noexcept nogil:
    return unit * NODE_UNIT < view.nodes_size and marks[unit >> 3] >> (unit & 7) & 1


cdef bint check_nodes(const RouteView* view, uint8_t* marks, uint8_t* referenced) noexcept nogil:
    """Walks over the nodes once, checks each and its entries, and marks where each starts."""
    cdef uint64_t at = NODE_UNIT
    cdef uint64_t entries, body, i
    cdef const NodeRecord* node
    cdef const EntryRecord* entry
    while at < view.nodes_size:
        if view.nodes_size - at < sizeof(NodeRecord):
            return False
        node = <const NodeRecord*>(view.nodes + at)
        body = at + sizeof(NodeRecord) + ((<uint64_t>node.label_length + 7) & ~<uint64_t>7)
        entries = <uint64_t>node.end_count + node.more_count + node.any_count
        if body > view.nodes_size or entries > (view.nodes_size - body) // sizeof(EntryRecord):
            return False
        if node.parent and (<uint64_t>node.parent * NODE_UNIT >= at or not is_marked(marks, view, node.parent)):
            return False
        if node.first_edge != NO_INDEX and node.first_edge >= view.edge_count:
            return False
        entry = <const EntryRecord*>(view.nodes + body)
        for i in range(entries):
            if not check_entry(view, entry + i, referenced):
                return False
        marks[(at // NODE_UNIT) >> 3] |= <uint8_t>(1 << ((at // NODE_UNIT) & 7))
        at = body + entries * sizeof(EntryRecord)
    return at == view.nodes_size


cdef bint check_runs(const RouteView* view, const uint8_t* marks) noexcept nogil:
    """Every edge of every node leads to a node whose parent is this one. A run ends: check_edges has seen to the last edge."""
    cdef uint64_t at = NODE_UNIT
    cdef const NodeRecord* node
    cdef const EdgeRecord* edge
    while at < view.nodes_size:
        node = <const NodeRecord*>(view.nodes + at)
        if node.first_edge != NO_INDEX:
            edge = view.edges + node.first_edge
            while True:
                if (<const NodeRecord*>(view.nodes + <uint64_t>edge.node * NODE_UNIT)).parent != at // NODE_UNIT:
                    return False
                if edge.last:
                    break
                edge += 1
        at += (sizeof(NodeRecord) + ((<uint64_t>node.label_length + 7) & ~<uint64_t>7)
               + (<uint64_t>node.end_count + node.more_count + node.any_count) * sizeof(EntryRecord))
    return True


cdef bint check_edges(const RouteView* view, const uint8_t* marks) noexcept nogil:
    cdef uint64_t i
    cdef const EdgeRecord* edge
    for i in range(view.edge_count):
        edge = view.edges + i
        if not SEGMENT_STRING <= edge.kind <= EDGE_MORE or not is_marked(marks, view, edge.node):
            return False
        if not has_text(view, edge.prefix, edge.prefix_length) or not has_text(view, edge.suffix, edge.suffix_length):
            return False
    return view.edge_count == 0 or view.edges[view.edge_count - 1].last != 0


cdef bint check_slots(const RouteView* view, const uint8_t* marks) noexcept nogil:
    cdef uint64_t i, free_count = 0
    for i in range(view.slot_mask + 1):
        if view.slots[i].node == 0:
            free_count += 1
        elif not is_marked(marks, view, view.slots[i].node):
            return False
    return free_count > 0


cdef bint check_predicates(const RouteView* view) noexcept nogil:
    cdef uint64_t i
    cdef uint32_t regexps = 0
    cdef const PredicateRecord* record
    for i in range(view.predicate_count):
        record = view.predicates + i
        if record.kind >= PREDICATE_KINDS or record.tail > TAIL_ANY:
            return False
        if not has_text(view, record.name, record.name_length) or not has_text(view, record.value, record.value_length):
            return False
        if <uint64_t>record.first_segment + record.segment_count > view.segment_count:
            return False
        if record.kind == PREDICATE_CLIENT_IP and (record.value_length != 16 or record.prefix > 128):
            return False
        if record.kind >= PREDICATE_HOST_REGEXP:
            if record.regexp != regexps:
                return False
            regexps += 1
    return regexps == view.header.regexp_count


cdef bint check_segments(const RouteView* view) noexcept nogil:
    cdef uint64_t i
    cdef const SegmentRecord* record
    for i in range(view.segment_count):
        record = view.segments + i
        if record.kind > SEGMENT_INT:
            return False
        if not has_text(view, record.prefix, record.prefix_length) or not has_text(view, record.suffix, record.suffix_length):
            return False
    return True


cdef bint routes_locate(const uint8_t* image, uint64_t size, uint32_t frontend_count, RouteView* view,
                        uint8_t** referenced) noexcept nogil:
    cdef uint8_t* marks
    cdef uint8_t* leads
    cdef bint sound
    memset(view, 0, sizeof(RouteView))
    if size < IMAGE_HEADER_SIZE or not locate(image, size, view) or view.header.frontend_bound > frontend_count:
        return False
    marks = <uint8_t*>calloc(view.nodes_size // NODE_UNIT // 8 + 1, 1)
    leads = <uint8_t*>calloc(view.header.frontend_bound // 8 + 1, 1)
    sound = (
        marks != NULL
        and leads != NULL
        and check_nodes(view, marks, leads)
        and is_marked(marks, view, view.header.exact_hosts)
        and is_marked(marks, view, view.header.pattern_hosts)
        and is_marked(marks, view, view.header.any_host)
        and check_edges(view, marks)
        and check_runs(view, marks)
        and check_slots(view, marks)
        and check_predicates(view)
        and check_segments(view)
    )
    free(marks)
    if sound and referenced != NULL:
        referenced[0] = leads
    else:
        free(leads)
    return sound


cdef const uint32_t* positions_locate(const uint8_t* image, uint64_t size, uint32_t entry_count,
                                      uint32_t base_entries) noexcept nogil:
    cdef uint64_t count = 0
    cdef const uint32_t* positions = <const uint32_t*>section(image, size, ROUTES_POSITIONS, sizeof(uint32_t), &count)
    cdef uint32_t least = 0, i
    if positions == NULL or count != entry_count:
        return NULL
    for i in range(entry_count):
        if positions[i] < least or positions[i] > base_entries:
            return NULL
        least = positions[i]
    return positions


cdef bint retired_locate(const uint8_t* image, uint64_t size, uint32_t frontend_bound, const uint8_t** retired) noexcept nogil:
    cdef uint64_t count = 0
    cdef const uint8_t* bits = section(image, size, ROUTES_RETIRED, 1, &count)
    retired[0] = bits if count else NULL
    return bits != NULL and (count == 0 or count * 8 >= frontend_bound)
