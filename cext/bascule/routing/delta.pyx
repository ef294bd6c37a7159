"""See delta.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from bascule.routing.clauses cimport HOST_ANY, HOST_EXACT, Clause, Clauses, Piece
from bascule.routing.layout cimport (
    EDGE_END, EDGE_MORE, ROUTES_POSITIONS, SEGMENT_LITERAL, TAIL_END, EdgeRecord, EntryRecord, NodeRecord, PredicateRecord,
    SegmentRecord,
)
from bascule.routing.ranking cimport RankKey, Ranking, compare_keys, key_of
from bascule.routing.trie cimport RouteTableSections, build_routes
from bascule.routing.view cimport RouteView, literal_child, node_at, node_entries
from bascule.shared.snapshot cimport NO_INDEX, FrontendRecord


cdef int compare_ids(const char* text, uint32_t length, const BaseFrontends* base, uint32_t frontend) noexcept nogil:
    cdef const FrontendRecord* other = base.records + frontend
    cdef int result = memcmp(text, base.strings + other.id.offset, min(length, other.id.length))
    if result == 0 and length != other.id.length:
        result = -1 if length < other.id.length else 1
    return result


cdef uint32_t position_of(Ranking ranking, const Clause* clause, const char* text, const BaseFrontends* base) noexcept:
    """How many clauses of the base come before a clause in the one order of all."""
    cdef RankKey key = key_of(clause)
    cdef uint64_t low = 0, high = ranking.run_count, middle
    while low < high:             # the first run that is not more specific
        middle = (low + high) // 2
        if compare_keys(&ranking.runs[middle].key, &key) < 0:
            low = middle + 1
        else:
            high = middle
    if low == ranking.run_count:
        return <uint32_t>ranking.count
    if compare_keys(&ranking.runs[low].key, &key) != 0:
        return ranking.runs[low].first
    high = ranking.runs[low + 1].first if low + 1 < ranking.run_count else ranking.count
    low = ranking.runs[low].first
    while low < high:
        middle = (low + high) // 2
        if compare_ids(text + clause.id, clause.id_length, base, ranking.frontends[middle]) > 0:
            low = middle + 1
        else:
            high = middle
    return <uint32_t>low


# ---- the same route in the base

cdef bint same_text(const char* a, uint32_t a_length, const char* b, uint32_t b_length) noexcept nogil:
    return a_length == b_length and memcmp(a, b, a_length) == 0


cdef uint32_t edge_child(const RouteView* view, const NodeRecord* node, const Piece* piece, const char* text) noexcept nogil:
    cdef const EdgeRecord* edge
    if node.first_edge == NO_INDEX:
        return 0
    edge = view.edges + node.first_edge
    while True:
        if (edge.kind == piece.kind
                and same_text(view.strings + edge.prefix, edge.prefix_length, text + piece.prefix, piece.prefix_length)
                and same_text(view.strings + edge.suffix, edge.suffix_length, text + piece.suffix, piece.suffix_length)):
            return edge.node
        if edge.last:
            return 0
        edge += 1


cdef const NodeRecord* step(const RouteView* view, const NodeRecord* node, const Piece* piece, const char* text) noexcept nogil:
    cdef uint32_t unit
    if piece.kind == SEGMENT_LITERAL:
        return literal_child(view, node, text + piece.prefix, piece.prefix_length)
    unit = edge_child(view, node, piece, text)
    return node_at(view, unit) if unit else NULL


cdef const NodeRecord* node_of(const RouteView* view, Clauses clauses, const Clause* clause) noexcept:
    """The node of the base where a clause would have its entry; NULL when there is none."""
    cdef const Piece* piece = clauses.pieces + clause.pieces
    cdef const NodeRecord* node
    cdef uint32_t i
    if clause.host_form == HOST_ANY:
        node = node_at(view, view.header.any_host)
    elif clause.host_form == HOST_EXACT:
        node = node_at(view, view.header.exact_hosts)
    else:
        node = node_at(view, view.header.pattern_hosts)
    for i in range(<uint32_t>clause.host_count + clause.path_count):
        if i == clause.host_count and clause.host_form != HOST_ANY and clause.host_form != HOST_EXACT:
            node = host_end(view, node, clause)
        if node != NULL:
            node = step(view, node, piece + i, clauses.text)
        if node == NULL:
            return NULL
    if clause.path_count == 0 and clause.host_form != HOST_ANY and clause.host_form != HOST_EXACT:
        node = host_end(view, node, clause)
    return node


cdef const NodeRecord* host_end(const RouteView* view, const NodeRecord* node, const Clause* clause) noexcept nogil:
    cdef const EdgeRecord* edge
    cdef uint8_t kind = EDGE_END if clause.host_tail == TAIL_END else EDGE_MORE
    if node.first_edge == NO_INDEX:
        return NULL
    edge = view.edges + node.first_edge
    while edge.kind != kind:
        if edge.last:
            return NULL
        edge += 1
    return node_at(view, edge.node)


cdef bint same_segments(const RouteView* view, const PredicateRecord* a, Clauses clauses, const PredicateRecord* b) noexcept:
    cdef const SegmentRecord* x = view.segments + a.first_segment
    cdef const SegmentRecord* y = <const SegmentRecord*>clauses.segments.data + b.first_segment
    cdef const char* strings = clauses.strings.data
    cdef uint32_t i
    for i in range(a.segment_count):
        if x[i].kind != y[i].kind:
            return False
        if not same_text(view.strings + x[i].prefix, x[i].prefix_length, strings + y[i].prefix, y[i].prefix_length):
            return False
        if not same_text(view.strings + x[i].suffix, x[i].suffix_length, strings + y[i].suffix, y[i].suffix_length):
            return False
    return True


cdef bint same_predicate(const RouteView* view, const PredicateRecord* a, Clauses clauses, const PredicateRecord* b) noexcept:
    cdef const char* strings = clauses.strings.data
    return (a.kind == b.kind and a.tail == b.tail and a.prefix == b.prefix and a.segment_count == b.segment_count
            and same_text(view.strings + a.name, a.name_length, strings + b.name, b.name_length)
            and same_text(view.strings + a.value, a.value_length, strings + b.value, b.value_length)
            and same_segments(view, a, clauses, b))


cdef bint same_predicates(const RouteView* view, const EntryRecord* entry, Clauses clauses, const Clause* clause) noexcept:
    """Whether both ask the same, in whatever order."""
    cdef const uint32_t* refs = <const uint32_t*>clauses.refs.data + clause.refs
    cdef const PredicateRecord* predicates = <const PredicateRecord*>clauses.predicates.data
    cdef uint32_t i, j, ref
    for i in range(clause.predicate_count):
        for j in range(entry.predicate_count):
            ref = view.refs[entry.refs + j]
            if (ref & 1) == (refs[i] & 1) and same_predicate(
                    view, view.predicates + (ref >> 1), clauses, predicates + (refs[i] >> 1)):
                break
        else:
            return False
    return True


cdef uint32_t equal_in_base(const RouteView* view, const BaseFrontends* base, Clauses clauses, const Clause* clause) noexcept:
    cdef const NodeRecord* node = node_of(view, clauses, clause)
    cdef const EntryRecord* entry
    cdef uint32_t count
    if node == NULL:
        return NO_INDEX
    entry = node_entries(node, clause.path_tail, &count)
    for _ in range(count):
        if base.retired[entry.frontend >> 3] >> (entry.frontend & 7) & 1 == 0 and entry.frontend != clause.frontend:
            if (base.records[entry.frontend].priority == clause.priority and entry.predicate_count == clause.predicate_count
                    and same_predicates(view, entry, clauses, clause)):
                return entry.frontend
        entry += 1
    return NO_INDEX


# ---- the delta

cdef class Delta:
    """See delta.pxd."""

    def __cinit__(self):
        self.clauses = Clauses()

    cdef int put(self, uint32_t frontend, const char* id_text, uint32_t id_length, const char* text, uint32_t length,
                 int32_t priority, bint replaces) except -1:
        cdef uint64_t before = self.clauses.clause_count
        self.clauses.add_utf8(frontend, id_text, id_length, text, length, priority)
        if replaces:
            self.clauses.kill(frontend, before)
        return 0

    cdef void drop(self, uint32_t frontend) noexcept:
        self.clauses.kill(frontend, self.clauses.clause_count)

    cdef tuple build(self, Ranking ranking, const BaseFrontends* base):
        cdef RouteTableSections table
        cdef Clause* clause
        cdef bytes positions
        cdef uint32_t* place
        cdef uint64_t i
        if self.clauses.clause_count == self.clauses.dead_count:
            return {}, []
        table = build_routes(self.clauses, False)
        positions = PyBytes_FromStringAndSize(NULL, len(table.order) * sizeof(uint32_t))
        place = <uint32_t*>PyBytes_AS_STRING(positions)
        for i in range(<uint64_t>len(table.order)):
            clause = self.clauses.clauses + <uint64_t>table.order[i]
            if clause.position == NO_INDEX:
                clause.position = position_of(ranking, clause, self.clauses.text, base)
            place[i] = clause.position
        table.sections[ROUTES_POSITIONS] = positions
        return table.sections, table.conflicts

    cdef list conflicts_with_base(self, uint32_t frontend, const RouteView* view, const BaseFrontends* base):
        cdef const Clause* clause
        cdef uint32_t other
        cdef uint64_t i
        cdef list found = []
        for i in range(self.clauses.clause_count):
            clause = self.clauses.clauses + i
            if clause.frontend != frontend or clause.dead:
                continue
            other = equal_in_base(view, base, self.clauses, clause)
            if other == NO_INDEX:
                continue
            if compare_ids(self.clauses.text + clause.id, clause.id_length, base, other) < 0:
                found.append((frontend, other))
            else:
                found.append((other, frontend))
        return list(dict.fromkeys(found))
