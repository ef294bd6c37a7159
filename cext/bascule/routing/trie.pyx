"""Ranks clauses, builds the trie over them and writes the ROUTES sections (contract: trie.pxd, layout.pxd).

Clauses are put into the trie in the order of their ranks. So the first one to make a node has the least rank below it, lists grow
at their ends, parents come before children, and the same clauses always give the same bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from bascule.routing.clauses cimport HOST_ANY, HOST_EXACT, Clause, Clauses, Piece
from bascule.routing.intern cimport Interner, grow
from bascule.routing.layout cimport (
    EDGE_END, EDGE_MORE, ENTRY_REST, NODE_UNIT, PREDICATE_HOST_REGEXP, ROUTES_EDGES, ROUTES_HEADER, ROUTES_LAYOUT_VERSION,
    ROUTES_NODES, ROUTES_PREDICATES, ROUTES_REFS, ROUTES_SEGMENTS, ROUTES_SLOTS, ROUTES_STRINGS, SEGMENT_LITERAL, TAIL_END,
    EdgeRecord, EntryRecord, NodeRecord, PredicateRecord, RouteHeader, SlotRecord, route_hash,
)
from bascule.routing.ranking cimport RankKey, Ranking, compare_keys, differ, key_of
from bascule.shared.snapshot cimport NO_INDEX

cdef extern from "<stdlib.h>" nogil:
    void qsort_r(void* base, size_t count, size_t size, int (*compare)(const void*, const void*, void*) noexcept nogil,
                 void* argument)

cdef enum:
    NODE_EXACT_HOSTS = 0
    NODE_PATTERN_HOSTS = 1
    NODE_ANY_HOST = 2
    ROOTS = 3

cdef struct BuildNode:
    Piece piece                   # how its parent leads to it
    uint32_t parent
    uint32_t min_rank
    uint32_t child_count          # literal children
    uint32_t first_edge           # children of other kinds, a list
    uint32_t last_edge
    uint32_t next_edge
    uint32_t unit                 # place in the image
    uint32_t[3] first             # entries by Tail: lists of ranks
    uint32_t[3] last
    uint32_t[3] counts


cdef int compare_clauses(const void* a, const void* b, void* clauses) noexcept nogil:
    return order_of(<_Ranked*>clauses, (<const uint32_t*>a)[0], (<const uint32_t*>b)[0])

cdef struct _Ranked:
    const Clause* clauses
    const char* text


cdef int order_of(const _Ranked* ranked, uint32_t first, uint32_t second) noexcept nogil:
    cdef const Clause* a = ranked.clauses + first
    cdef const Clause* b = ranked.clauses + second
    cdef RankKey key_a = key_of(a)
    cdef RankKey key_b = key_of(b)
    cdef int result = compare_keys(&key_a, &key_b)
    if result == 0:
        result = memcmp(ranked.text + a.id, ranked.text + b.id, min(a.id_length, b.id_length))
    if result == 0:
        result = -differ(a.id_length, b.id_length)
    if result == 0:
        result = -differ(a.frontend, b.frontend)
    return result if result else -differ(first, second)


cdef class Builder:
    """The trie while it is built. Lives for one call of build_routes."""
    cdef Clauses source
    cdef uint32_t* ranks          # rank -> clause
    cdef uint32_t* entry_next     # rank -> next rank in its list
    cdef uint32_t* entry_node     # rank -> node
    cdef BuildNode* nodes
    cdef uint64_t node_count
    cdef uint64_t node_capacity
    cdef uint32_t* table          # hash of (parent, piece) -> node, 0 = free (the roots are never looked up)
    cdef uint64_t table_size
    cdef uint32_t* equals         # hash of (node, tail, priority, predicates) -> rank + 1
    cdef uint64_t equals_size
    cdef uint64_t entry_count     # clauses that are not dead
    cdef uint32_t* conflicts      # pairs of frontends
    cdef uint64_t conflict_count
    cdef uint64_t conflict_capacity

    def __cinit__(self, Clauses source):
        cdef uint64_t count = source.clause_count
        self.source = source
        self.equals_size = 64
        while self.equals_size < count * 2:
            self.equals_size *= 2
        self.ranks = <uint32_t*>malloc((count + 1) * 4)
        self.entry_next = <uint32_t*>malloc((count + 1) * 4)
        self.entry_node = <uint32_t*>malloc((count + 1) * 4)
        self.equals = <uint32_t*>calloc(self.equals_size, 4)
        if self.ranks == NULL or self.entry_next == NULL or self.entry_node == NULL or self.equals == NULL:
            raise MemoryError
        for _ in range(ROOTS):
            self.new_node()

    def __dealloc__(self):
        free(self.ranks)
        free(self.entry_next)
        free(self.entry_node)
        free(self.nodes)
        free(self.table)
        free(self.equals)
        free(self.conflicts)

    cdef void rank(self) noexcept nogil:
        cdef uint32_t i
        cdef uint64_t count = 0
        cdef bint sorted_ = True
        cdef _Ranked ranked
        ranked.clauses = self.source.clauses
        ranked.text = self.source.text
        for i in range(self.source.clause_count):
            if ranked.clauses[i].dead:
                continue
            self.ranks[count] = i
            if sorted_ and count and order_of(&ranked, self.ranks[count - 1], i) > 0:
                sorted_ = False
            count += 1
        self.entry_count = count
        if not sorted_:           # routes of one shape that come in the order of their ids need no sort
            qsort_r(self.ranks, count, 4, compare_clauses, &ranked)

    cdef uint32_t new_node(self) except? 0xFFFFFFFF nogil:
        cdef BuildNode* node
        grow(<void**>&self.nodes, &self.node_capacity, self.node_count + 1, sizeof(BuildNode))
        node = &self.nodes[self.node_count]
        memset(node, 0, sizeof(BuildNode))
        node.min_rank = node.first_edge = node.last_edge = node.next_edge = NO_INDEX
        node.first[0] = node.first[1] = node.first[2] = NO_INDEX
        self.node_count += 1
        return <uint32_t>self.node_count - 1

    cdef uint64_t hash_piece(self, uint32_t parent, const Piece* piece) noexcept nogil:
        cdef uint64_t h = route_hash(parent, self.source.text + piece.prefix, piece.prefix_length) + piece.kind
        if piece.suffix_length:
            h ^= route_hash(parent, self.source.text + piece.suffix, piece.suffix_length) * 3
        return h

    cdef bint same_piece(self, const Piece* a, const Piece* b) noexcept nogil:
        cdef const char* text = self.source.text
        return (a.kind == b.kind and a.prefix_length == b.prefix_length and a.suffix_length == b.suffix_length
                and memcmp(text + a.prefix, text + b.prefix, a.prefix_length) == 0
                and memcmp(text + a.suffix, text + b.suffix, a.suffix_length) == 0)

    cdef int grow_table(self) except -1 nogil:
        cdef uint64_t size = 256 if self.table_size == 0 else self.table_size * 4
        cdef uint32_t* table = <uint32_t*>calloc(size, 4)
        cdef uint64_t at
        cdef uint32_t i
        if table == NULL:
            with gil:
                raise MemoryError
        for i in range(ROOTS, self.node_count):
            at = self.hash_piece(self.nodes[i].parent, &self.nodes[i].piece) & (size - 1)
            while table[at]:
                at = (at + 1) & (size - 1)
            table[at] = i
        free(self.table)
        self.table = table
        self.table_size = size
        return 0

    cdef uint32_t descend(self, uint32_t parent, const Piece* piece, uint32_t rank) except? 0xFFFFFFFF nogil:
        """The child of `parent` by `piece`, made if there is none."""
        cdef uint64_t at
        cdef uint32_t index
        cdef BuildNode* above
        if self.nodes[parent].min_rank == NO_INDEX:
            self.nodes[parent].min_rank = rank
        if self.node_count * 2 >= self.table_size:
            self.grow_table()
        at = self.hash_piece(parent, piece) & (self.table_size - 1)
        while self.table[at]:
            index = self.table[at]
            if self.nodes[index].parent == parent and self.same_piece(&self.nodes[index].piece, piece):
                return index
            at = (at + 1) & (self.table_size - 1)
        index = self.new_node()
        self.table[at] = index
        self.nodes[index].parent = parent
        self.nodes[index].piece = piece[0]
        self.nodes[index].min_rank = rank
        above = &self.nodes[parent]
        if piece.kind == SEGMENT_LITERAL:
            above.child_count += 1
        else:
            if above.first_edge == NO_INDEX:
                above.first_edge = index
            else:
                self.nodes[above.last_edge].next_edge = index
            above.last_edge = index
        return index

    cdef int insert(self, uint32_t rank) except -1 nogil:
        cdef const Clause* clause = &self.source.clauses[self.ranks[rank]]
        cdef const Piece* piece = &self.source.pieces[clause.pieces]
        cdef Piece end
        cdef uint32_t node = NODE_PATTERN_HOSTS
        cdef uint32_t i
        cdef BuildNode* place
        if clause.host_form == HOST_ANY:
            node = NODE_ANY_HOST
        elif clause.host_form == HOST_EXACT:
            node = NODE_EXACT_HOSTS
        for i in range(clause.host_count):
            node = self.descend(node, piece + i, rank)
        if clause.host_form != HOST_ANY and clause.host_form != HOST_EXACT:
            memset(&end, 0, sizeof(Piece))
            end.kind = EDGE_END if clause.host_tail == TAIL_END else EDGE_MORE
            node = self.descend(node, &end, rank)
        for i in range(clause.path_count):
            node = self.descend(node, piece + clause.host_count + i, rank)
        place = &self.nodes[node]
        if place.min_rank == NO_INDEX:
            place.min_rank = rank
        self.entry_next[rank] = NO_INDEX
        self.entry_node[rank] = node
        if place.first[clause.path_tail] == NO_INDEX:
            place.first[clause.path_tail] = rank
        else:
            self.entry_next[place.last[clause.path_tail]] = rank
        place.last[clause.path_tail] = rank
        place.counts[clause.path_tail] += 1
        return self.note_equals(rank, clause)

    cdef int note_equals(self, uint32_t rank, const Clause* clause) except -1 nogil:
        """Finds the entry, if any, that asks exactly the same of a request with the same priority."""
        cdef const uint32_t* refs = <const uint32_t*>self.source.refs.data + clause.refs
        cdef uint32_t node = self.entry_node[rank]
        cdef const Clause* other
        cdef uint64_t at = route_hash(node * 4 + clause.path_tail, <const char*>refs, clause.predicate_count * 4)
        at = (at + <uint32_t>clause.priority * 0x9E3779B9ULL) & (self.equals_size - 1)
        while self.equals[at]:
            other = &self.source.clauses[self.ranks[self.equals[at] - 1]]
            if (self.entry_node[self.equals[at] - 1] == node and other.path_tail == clause.path_tail
                    and other.priority == clause.priority and other.predicate_count == clause.predicate_count
                    and (clause.predicate_count == 0  # there may be no refs at all: memcmp takes no NULL
                         or memcmp(refs, <const uint32_t*>self.source.refs.data + other.refs, clause.predicate_count * 4) == 0)):
                if other.frontend != clause.frontend:
                    grow(<void**>&self.conflicts, &self.conflict_capacity, self.conflict_count + 2, sizeof(uint32_t))
                    self.conflicts[self.conflict_count] = other.frontend
                    self.conflicts[self.conflict_count + 1] = clause.frontend
                    self.conflict_count += 2
                return 0
            at = (at + 1) & (self.equals_size - 1)
        self.equals[at] = rank + 1
        return 0

    cdef uint64_t place_nodes(self) except 0:
        """Gives each node its unit; returns the bytes of the section."""
        cdef uint64_t units = 1
        cdef BuildNode* node
        cdef uint64_t i, entries
        for i in range(self.node_count):
            node = &self.nodes[i]
            entries = <uint64_t>node.counts[0] + node.counts[1] + node.counts[2]
            node.unit = <uint32_t>units
            units += (sizeof(NodeRecord) + padded(label_length(node)) + entries * sizeof(EntryRecord)) // NODE_UNIT
            if units >= 0xFFFFFFF0ULL:
                raise OverflowError("the routing image would pass 32 GiB; split the configuration over several balancers")
        return units * NODE_UNIT

    cdef bytes write_nodes(self):
        cdef bytes out = zeros(self.place_nodes())
        cdef char* base = PyBytes_AS_STRING(out)
        cdef NodeRecord* record
        cdef BuildNode* node
        cdef char* at
        cdef uint32_t edges = 0, edge, i
        cdef int tail
        for i in range(self.node_count):
            node = &self.nodes[i]
            record = <NodeRecord*>(base + <uint64_t>node.unit * NODE_UNIT)
            record.min_rank = node.min_rank
            record.parent = self.nodes[node.parent].unit if i >= ROOTS else 0
            record.first_edge = NO_INDEX
            record.child_count = node.child_count
            record.label_length = label_length(node)
            record.end_count = node.counts[0]
            record.more_count = node.counts[1]
            record.any_count = node.counts[2]
            edge = node.first_edge
            if edge != NO_INDEX:
                record.first_edge = edges
            while edge != NO_INDEX:
                edges += 1
                edge = self.nodes[edge].next_edge
            at = <char*>record + sizeof(NodeRecord)
            memcpy(at, self.source.text + node.piece.prefix, record.label_length)
            at += padded(record.label_length)
            for tail in range(3):
                at = self.write_entries(node.first[tail], <EntryRecord*>at)
        return out

    cdef char* write_entries(self, uint32_t rank, EntryRecord* at) noexcept:
        cdef const Clause* clause
        while rank != NO_INDEX:
            clause = &self.source.clauses[self.ranks[rank]]
            at.rank = rank
            at.frontend = clause.frontend
            at.refs = clause.refs
            at.predicate_count = clause.predicate_count
            at.param_count = clause.param_count
            at.flags = ENTRY_REST if clause.path_rest else 0
            at += 1
            rank = self.entry_next[rank]
        return <char*>at

    cdef bytes write_edges(self):
        """The edge runs, in the order in which write_nodes counted them; their texts go to the strings."""
        cdef uint64_t count = 0
        cdef uint32_t i, edge
        cdef EdgeRecord* record
        cdef BuildNode* child
        for i in range(ROOTS, self.node_count):
            count += self.nodes[i].piece.kind != SEGMENT_LITERAL
        cdef bytes out = zeros(count * sizeof(EdgeRecord))
        record = <EdgeRecord*>PyBytes_AS_STRING(out)
        for i in range(self.node_count):
            edge = self.nodes[i].first_edge
            while edge != NO_INDEX:
                child = &self.nodes[edge]
                record.node = child.unit
                record.min_rank = child.min_rank
                record.prefix = self.add_string(child.piece.prefix, child.piece.prefix_length)
                record.prefix_length = child.piece.prefix_length
                record.suffix = self.add_string(child.piece.suffix, child.piece.suffix_length)
                record.suffix_length = child.piece.suffix_length
                record.kind = child.piece.kind
                record.last = child.next_edge == NO_INDEX
                edge = child.next_edge
                record += 1
        return out

    cdef uint32_t add_string(self, uint32_t text, uint32_t length) except? 0xFFFFFFFF:
        from_text = self.source.text + text
        return self.source.intern_image(from_text, length)

    cdef bytes write_slots(self, uint32_t* bits):
        cdef uint64_t count = 0, mask, at, h
        cdef uint32_t i
        cdef BuildNode* node
        cdef SlotRecord* slots
        for i in range(ROOTS, self.node_count):
            count += self.nodes[i].piece.kind == SEGMENT_LITERAL
        bits[0] = 3
        while (<uint64_t>1 << bits[0]) < count + count // 2 + 1:
            bits[0] += 1
        mask = (<uint64_t>1 << bits[0]) - 1
        cdef bytes out = zeros((mask + 1) * sizeof(SlotRecord))
        slots = <SlotRecord*>PyBytes_AS_STRING(out)
        for i in range(ROOTS, self.node_count):
            node = &self.nodes[i]
            if node.piece.kind != SEGMENT_LITERAL:
                continue
            h = route_hash(self.nodes[node.parent].unit, self.source.text + node.piece.prefix, node.piece.prefix_length)
            at = h & mask
            while slots[at].node:
                at = (at + 1) & mask
            slots[at].tag = <uint32_t>(h >> 32)
            slots[at].node = node.unit
        return out

    cdef bytes write_predicates(self, uint32_t* regexp_count):
        """The predicate records, with the regexps numbered."""
        cdef bytes out = PyBytes_FromStringAndSize(self.source.predicates.data, self.source.predicates.used)
        cdef PredicateRecord* records = <PredicateRecord*>PyBytes_AS_STRING(out)
        cdef uint32_t i
        regexp_count[0] = 0
        for i in range(self.source.predicates.used // sizeof(PredicateRecord)):
            if records[i].kind >= PREDICATE_HOST_REGEXP:
                records[i].regexp = regexp_count[0]
                regexp_count[0] += 1
        return out

    cdef dict write(self):
        cdef RouteHeader header
        memset(&header, 0, sizeof(RouteHeader))
        header.layout_version = ROUTES_LAYOUT_VERSION
        header.entry_count = <uint32_t>self.entry_count
        header.frontend_bound = self.source.frontend_bound
        nodes = self.write_nodes()
        slots = self.write_slots(&header.slot_bits)
        edges = self.write_edges()
        predicates = self.write_predicates(&header.regexp_count)
        header.exact_hosts = self.nodes[NODE_EXACT_HOSTS].unit
        header.pattern_hosts = self.nodes[NODE_PATTERN_HOSTS].unit
        header.any_host = self.nodes[NODE_ANY_HOST].unit
        return {
            ROUTES_HEADER: PyBytes_FromStringAndSize(<char*>&header, sizeof(RouteHeader)),
            ROUTES_NODES: nodes,
            ROUTES_SLOTS: slots,
            ROUTES_EDGES: edges,
            ROUTES_PREDICATES: predicates,
            ROUTES_SEGMENTS: interned(&self.source.segments),
            ROUTES_REFS: interned(&self.source.refs),
            ROUTES_STRINGS: interned(&self.source.strings),
        }


cdef bytes zeros(uint64_t size):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    memset(PyBytes_AS_STRING(out), 0, size)
    return out


cdef bytes interned(Interner* interner):
    return PyBytes_FromStringAndSize(interner.data, interner.used)


cdef inline uint16_t label_length(const BuildNode* node) noexcept:
    return node.piece.prefix_length if node.piece.kind == SEGMENT_LITERAL else 0


cdef inline uint64_t padded(uint64_t length) noexcept:
    return (length + 7) & ~<uint64_t>7


cdef int put_all(Builder builder) except -1 nogil:
    cdef uint32_t rank
    builder.rank()
    for rank in range(builder.entry_count):
        builder.insert(rank)
    return 0


cdef RouteTableSections build_routes(Clauses clauses, bint with_ranking):
    cdef Builder builder = Builder(clauses)
    cdef RouteTableSections result = RouteTableSections()
    cdef Ranking ranking = Ranking() if with_ranking else None
    cdef uint64_t i
    with nogil:
        put_all(builder)
        if with_ranking:
            ranking.fill(clauses.clauses, builder.ranks, builder.entry_count)
    result.sections = builder.write()
    result.conflicts = [(builder.conflicts[i], builder.conflicts[i + 1]) for i in range(0, builder.conflict_count, 2)]
    result.ranking = ranking
    result.order = None if with_ranking else [builder.ranks[i] for i in range(builder.entry_count)]
    return result


cdef class RouteTableSections:
    """See trie.pxd."""
