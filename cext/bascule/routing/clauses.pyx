"""From an expression to clauses: validation of arguments, disjunctive normal form, choice of what leads the trie."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from bascule.routing.arguments cimport prepare_call
from bascule.routing.expression cimport (
    CALLS_MAX, TREE_AND, TREE_CALL, TREE_NOT, TREE_OR, Call, Expression, TreeNode,
    expression_fail, expression_parse,
)
from bascule.routing.intern cimport grow, intern_blob, interner_free
from bascule.routing.layout cimport (
    CAPTURES_MAX, PREDICATE_CLIENT_IP, PREDICATE_HEADER, PREDICATE_HEADER_IS, PREDICATE_HEADER_PATTERN, PREDICATE_HEADER_REGEXP,
    PREDICATE_HOST, PREDICATE_HOST_REGEXP, PREDICATE_METHOD, PREDICATE_PATH, PREDICATE_PATH_REGEXP, PREDICATE_QUERY,
    PREDICATE_QUERY_IS, PREDICATE_QUERY_REGEXP, SEGMENT_LITERAL, TAIL_ANY, PredicateRecord, SegmentRecord,
)
from bascule.routing.pattern cimport Pattern, PatternSegment, Prepared
from bascule.shared.snapshot cimport NO_INDEX


cdef int flatten(Expression* e, uint32_t index, Literals* out) noexcept:
    """Collects a plain conjunction of calls and negated calls; 0 if the tree is something else."""
    cdef TreeNode* node = &e.tree[index]
    if node.kind == TREE_AND:
        return flatten(e, node.left, out) and flatten(e, node.right, out)
    cdef bint negated = False
    while node.kind == TREE_NOT:
        negated = not negated
        node = &e.tree[node.left]
    if node.kind != TREE_CALL:
        return 0
    out.refs[out.count] = <uint16_t>(node.left * 2 + negated)
    out.count += 1
    return 1


cdef list alternatives(Expression* e, uint32_t index, bint negated):
    """The clauses of a subtree, as tuples of references without repeats; those that contradict themselves are left out."""
    cdef TreeNode* node = &e.tree[index]
    if node.kind == TREE_CALL:
        return [(node.left * 2 + negated,)]
    if node.kind == TREE_NOT:
        return alternatives(e, node.left, not negated)
    left = alternatives(e, node.left, negated)
    right = alternatives(e, node.right, negated)
    if (node.kind == TREE_OR) != negated:
        result = left + right
    else:
        result = []
        for a in left:
            for b in right:
                joined = a + tuple([ref for ref in b if ref not in a])
                if not any([ref ^ 1 in joined for ref in joined]):
                    result.append(joined)
            if len(result) > ALTERNATIVES_MAX:
                break
    if len(result) > ALTERNATIVES_MAX:
        expression_fail(e, f"the expression unfolds into more than {ALTERNATIVES_MAX} alternatives", 0,
                        "split it over several frontends with the same backend, or join alternatives with a Regexp matcher")
    return result


cdef class Clauses:
    """All routes added so far, as clauses."""

    def __cinit__(self):
        self.regexps = {}
        grow(<void**>&self.text, &self.text_capacity, 1, 1)  # never NULL: empty pieces are copied and compared too
        self.expression = <Expression*>calloc(1, sizeof(Expression))
        self.patterns = <Pattern*>calloc(CALLS_MAX, sizeof(Pattern))
        self.prepared = <Prepared*>calloc(CALLS_MAX, sizeof(Prepared))
        if self.expression == NULL or self.patterns == NULL or self.prepared == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.clauses)
        free(self.pieces)
        free(self.text)
        free(self.expression)
        free(self.patterns)
        free(self.prepared)
        interner_free(&self.strings)
        interner_free(&self.predicates)
        interner_free(&self.segments)
        interner_free(&self.refs)

    cdef uint64_t kill(self, uint32_t frontend, uint64_t before) noexcept:
        cdef uint64_t killed = 0, i
        for i in range(before):
            if self.clauses[i].frontend == frontend and not self.clauses[i].dead:
                self.clauses[i].dead = 1
                killed += 1
        self.dead_count += killed
        return killed

    cdef int add(self, uint32_t frontend, str frontend_id, str expression, int32_t priority) except -1:
        """Adds the clauses of one route, all or (with RouteError) none."""
        cdef Py_ssize_t length = 0, id_length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(expression, &length)
        cdef const char* id_text = PyUnicode_AsUTF8AndSize(frontend_id, &id_length)
        return self.add_utf8(frontend, id_text, <uint32_t>min(id_length, 0x7FFFFFFF), text, <uint32_t>min(length, 0x7FFFFFFF),
                             priority)

    cdef int add_utf8(self, uint32_t frontend, const char* id_text, uint32_t id_length, const char* text, uint32_t length,
                      int32_t priority) except -1:
        cdef Expression* e = self.expression
        cdef uint64_t clause_count = self.clause_count, piece_count = self.piece_count, text_used = self.text_used
        cdef uint32_t i
        expression_parse(e, text, length)
        for i in range(e.call_count):
            prepare_call(e, &e.calls[i], &self.patterns[i], &self.prepared[i], self.regexps)
        try:
            self.add_clauses(frontend, id_text, min(id_length, 65535), priority)
        except BaseException:
            self.clause_count, self.piece_count, self.text_used = clause_count, piece_count, text_used
            raise
        if frontend >= self.frontend_bound:
            self.frontend_bound = frontend + 1
        return 0

    cdef int add_clauses(self, uint32_t frontend, const char* id_text, uint32_t id_length, int32_t priority) except -1:
        cdef Literals literals
        cdef uint32_t id_offset = self.copy_text(id_text, id_length, False)
        cdef uint32_t added = 0
        literals.count = 0
        if flatten(self.expression, self.expression.root, &literals):
            added += self.add_clause(&literals, frontend, id_offset, <uint16_t>id_length, priority)
        else:
            for clause in alternatives(self.expression, self.expression.root, False):
                literals.count = 0
                for ref in clause:
                    literals.refs[literals.count] = ref
                    literals.count += 1
                added += self.add_clause(&literals, frontend, id_offset, <uint16_t>id_length, priority)
        if not added:
            expression_fail(self.expression, "the expression can never be true", 0,
                            "a request has one host, one path and one method: join alternatives with || instead of &&")
        return 0

    cdef int add_clause(self, Literals* literals, uint32_t frontend, uint32_t id_offset, uint16_t id_length,
                        int32_t priority) except -1:
        """Adds one clause; returns 0 without adding when it contradicts itself."""
        self.drop_repeats(literals)
        cdef int host = self.leader(literals, PREDICATE_HOST)
        cdef int path = self.leader(literals, PREDICATE_PATH)
        cdef Clause clause
        if self.contradicts(literals, host):
            return 0
        memset(&clause, 0, sizeof(Clause))
        clause.frontend = frontend
        clause.position = NO_INDEX
        clause.priority = priority
        clause.id = id_offset
        clause.id_length = id_length
        self.set_specificity(literals, host, path, &clause)
        self.add_refs(literals, host, path, &clause)
        clause.pieces = <uint32_t>self.piece_count
        if host >= 0:
            self.add_host(&self.expression.calls[host], &self.patterns[host], &clause)
        clause.path_tail = TAIL_ANY
        if path >= 0:
            self.add_pieces(&self.patterns[path], False)
            clause.path_count = <uint8_t>self.patterns[path].count
            clause.path_tail = self.patterns[path].tail
            clause.path_rest = self.patterns[path].rest
        grow(<void**>&self.clauses, &self.clause_capacity, self.clause_count + 1, sizeof(Clause))
        self.clauses[self.clause_count] = clause
        self.clause_count += 1
        return 1

    cdef void drop_repeats(self, Literals* literals) noexcept:
        cdef uint32_t i, j, kept = 0
        for i in range(literals.count):
            j = 0
            while j < kept and not ((literals.refs[i] ^ literals.refs[j]) & 1 == 0
                                    and self.same_call(literals.refs[i] >> 1, literals.refs[j] >> 1)):
                j += 1
            if j == kept:
                literals.refs[kept] = literals.refs[i]
                kept += 1
        literals.count = kept

    cdef int leader(self, Literals* literals, uint8_t kind) noexcept:
        """The most specific positive pattern of a kind, which the trie is keyed by; -1 if there is none."""
        cdef int best = -1
        cdef int call
        cdef uint32_t i
        for i in range(literals.count):
            call = literals.refs[i] >> 1
            if literals.refs[i] & 1 or self.prepared[call].kind != kind:
                continue
            if best < 0 or more_specific(&self.patterns[call], &self.patterns[best]):
                best = call
        return best

    cdef int contradicts(self, Literals* literals, int host) noexcept:
        """Whether two different exact hosts or two different methods are demanded, or a matcher and its negation."""
        cdef int method = -1
        cdef int call
        cdef uint32_t i, j
        for i in range(literals.count):
            call = literals.refs[i] >> 1
            for j in range(i):
                if (literals.refs[i] ^ literals.refs[j]) & 1 and self.same_call(call, literals.refs[j] >> 1):
                    return 1
            if literals.refs[i] & 1:
                continue
            if self.prepared[call].kind == PREDICATE_METHOD:
                if method >= 0 and not self.same_call(method, call):
                    return 1
                method = call
            if (self.prepared[call].kind == PREDICATE_HOST and self.patterns[call].literal and self.patterns[host].literal
                    and not same_host(&self.expression.calls[host], &self.expression.calls[call])):
                return 1
        return 0

    cdef bint same_call(self, int a, int b) noexcept:
        cdef Call* x = &self.expression.calls[a]
        cdef Call* y = &self.expression.calls[b]
        cdef uint32_t i
        if a == b:
            return True
        if x.name != y.name or x.argument_count != y.argument_count:
            return False
        for i in range(x.argument_count):
            if x.arguments[i].length != y.arguments[i].length:
                return False
            if memcmp(x.arguments[i].text, y.arguments[i].text, x.arguments[i].length) != 0:
                return False
        return True

    cdef void set_specificity(self, Literals* literals, int host, int path, Clause* clause) noexcept:
        cdef uint32_t i
        cdef uint8_t kind
        for i in range(literals.count):
            kind = self.prepared[literals.refs[i] >> 1].kind
            if literals.refs[i] & 1 == 0:
                if kind == PREDICATE_HOST_REGEXP:
                    clause.host_key = 1
                elif kind == PREDICATE_PATH_REGEXP:
                    clause.path_keys[0] = 2
        if host >= 0:
            clause.host_key = self.patterns[host].keys[0]
            clause.host_literal_bytes = <uint16_t>self.patterns[host].literal_bytes
            if self.patterns[host].literal:
                clause.host_key = 0xFFFFFFFFFFFFFFFFULL
                clause.host_literal_bytes = 0
        if path < 0:
            return
        if self.patterns[path].count or self.patterns[path].rest:
            clause.path_keys[0] = self.patterns[path].keys[0]
            clause.path_keys[1] = self.patterns[path].keys[1]
            clause.path_literal_bytes = <uint16_t>self.patterns[path].literal_bytes
        else:
            clause.path_root = 1      # PathPrefix("/") demands nothing, so routes with a PathRegexp or a Header must win over it

    cdef uint32_t copy_text(self, const char* text, uint32_t length, bint lower) except? 0xFFFFFFFF:
        cdef uint32_t i
        cdef char c
        grow(<void**>&self.text, &self.text_capacity, self.text_used + length + 1, 1)
        for i in range(length):
            c = text[i]
            self.text[self.text_used + i] = c + 32 if lower and c'A' <= c <= c'Z' else c
        self.text_used += length
        return <uint32_t>(self.text_used - length)

    cdef int add_host(self, Call* call, Pattern* pattern, Clause* clause) except -1:
        cdef Piece* piece
        if not pattern.literal:
            clause.host_form = HOST_PATTERN
            clause.host_count = <uint8_t>pattern.count
            clause.host_tail = pattern.tail
            return self.add_pieces(pattern, True)
        clause.host_form = HOST_EXACT
        clause.host_count = 1
        grow(<void**>&self.pieces, &self.piece_capacity, self.piece_count + 1, sizeof(Piece))
        piece = &self.pieces[self.piece_count]
        memset(piece, 0, sizeof(Piece))
        piece.prefix = self.copy_text(call.arguments[0].text, call.arguments[0].length, True)
        piece.prefix_length = <uint16_t>call.arguments[0].length
        self.piece_count += 1
        return 0

    cdef int add_pieces(self, Pattern* pattern, bint lower) except -1:
        cdef PatternSegment* segment
        cdef Piece* piece
        cdef uint32_t i
        grow(<void**>&self.pieces, &self.piece_capacity, self.piece_count + pattern.count, sizeof(Piece))
        for i in range(pattern.count):
            segment = &pattern.segments[i]
            piece = &self.pieces[self.piece_count]
            piece.kind = segment.kind
            piece.prefix = self.copy_text(segment.prefix, segment.prefix_length, lower)
            piece.prefix_length = segment.prefix_length
            piece.suffix = self.copy_text(segment.suffix, segment.suffix_length, lower)
            piece.suffix_length = segment.suffix_length
            self.piece_count += 1
        return 0

    cdef int add_refs(self, Literals* literals, int host, int path, Clause* clause) except -1:
        """Interns the residual predicates and the parameter names, in the order the matcher captures them."""
        cdef uint32_t[96] refs
        cdef int[64] calls
        cdef uint32_t count = 0, captures = 0, i, j, ref
        cdef int call
        for i in range(literals.count):
            call = literals.refs[i] >> 1
            if (call == host or call == path) and literals.refs[i] & 1 == 0:
                captures += self.patterns[call].captures
            elif literals.refs[i] & 1 == 0:
                captures += self.captures(call)
        if captures > CAPTURES_MAX:
            expression_fail(self.expression, f"more than {CAPTURES_MAX} parameters and wildcards in one alternative", 0,
                            "use fewer, or a <path:...> for the rest")
        self.check_names(literals)
        for i in range(literals.count):
            call = literals.refs[i] >> 1
            if (call == host or call == path) and literals.refs[i] & 1 == 0:
                continue
            ref = self.add_predicate(call) * 2 + (literals.refs[i] & 1)
            j = count                 # insertion sort: equal clauses must look equal; regexps come last because they are dear
            while j > 0 and order(self.prepared[calls[j - 1]].kind, refs[j - 1]) > order(self.prepared[call].kind, ref):
                refs[j] = refs[j - 1]
                calls[j] = calls[j - 1]
                j -= 1
            if j > 0 and refs[j - 1] == ref and (ref & 1 or not self.captures(call)):
                memmove_refs(refs, calls, j, count)
                continue
            refs[j] = ref
            calls[j] = call
            count += 1
        clause.predicate_count = <uint16_t>count
        j = count
        if host >= 0:
            j = self.add_names(&self.patterns[host], refs, j)
        if path >= 0:
            j = self.add_names(&self.patterns[path], refs, j)
        for i in range(count):
            if has_pattern(self.prepared[calls[i]].kind) and refs[i] & 1 == 0:
                j = self.add_names(&self.patterns[calls[i]], refs, j)
        clause.param_count = <uint8_t>((j - count) // 2)
        clause.refs = intern_blob(&self.refs, refs, j * 4) // 4
        return 0

    cdef uint32_t add_names(self, Pattern* pattern, uint32_t* refs, uint32_t at) except? 0xFFFFFFFF:
        cdef uint32_t i
        for i in range(pattern.count):
            if pattern.segments[i].kind != SEGMENT_LITERAL:
                refs[at] = intern_blob(&self.strings, pattern.segments[i].name, pattern.segments[i].name_length)
                refs[at + 1] = pattern.segments[i].name_length
                at += 2
        if pattern.rest:
            refs[at] = intern_blob(&self.strings, pattern.rest_name, pattern.rest_name_length)
            refs[at + 1] = pattern.rest_name_length
            at += 2
        return at

    cdef uint32_t captures(self, int call) noexcept:
        return self.patterns[call].captures if has_pattern(self.prepared[call].kind) else 0

    cdef int check_names(self, Literals* literals) except -1:
        """Refuses one parameter name given twice in an alternative: which value it has would be anyone's guess."""
        cdef (const char*)[128] names
        cdef uint32_t[128] lengths
        cdef uint32_t count = 0, i, j
        cdef Pattern* pattern
        cdef int call
        for i in range(literals.count):
            call = literals.refs[i] >> 1
            if literals.refs[i] & 1 or not self.captures(call):
                continue
            pattern = &self.patterns[call]
            for j in range(pattern.count + 1):
                if j == pattern.count:
                    names[count] = pattern.rest_name
                    lengths[count] = pattern.rest_name_length if pattern.rest else 0
                else:
                    names[count] = pattern.segments[j].name
                    lengths[count] = pattern.segments[j].name_length
                if lengths[count]:
                    self.check_name(names, lengths, count, call)
                    count += 1
        return 0

    cdef int check_name(self, const char** names, uint32_t* lengths, uint32_t count, int call) except -1:
        cdef uint32_t i
        for i in range(count):
            if lengths[i] == lengths[count] and memcmp(names[i], names[count], lengths[i]) == 0:
                expression_fail(self.expression, f"parameter <{names[i][:lengths[i]].decode()}> twice",
                                self.expression.calls[call].position, "give each parameter its own name")
        return 0

    cdef uint32_t add_predicate(self, int index) except? 0xFFFFFFFF:
        """The number of the predicate record of a call."""
        cdef Call* call = &self.expression.calls[index]
        cdef Prepared* prepared = &self.prepared[index]
        cdef Pattern* pattern = &self.patterns[index]
        cdef PredicateRecord record
        cdef uint8_t value = call.argument_count - 1
        memset(&record, 0, sizeof(PredicateRecord))
        record.kind = prepared.kind
        if has_name(record.kind):
            record.name = self.intern_text(call.arguments[0].text, call.arguments[0].length, is_header(record.kind))
            record.name_length = call.arguments[0].length
        if has_pattern(record.kind):
            record.tail = pattern.tail
            record.segment_count = <uint16_t>pattern.count
            record.prefix = pattern.rest
            record.first_segment = self.add_segments(pattern, record.kind == PREDICATE_HOST)
        elif record.kind == PREDICATE_CLIENT_IP:
            record.value = intern_blob(&self.strings, prepared.network, 16)
            record.value_length = 16
            record.prefix = prepared.prefix
        elif record.kind != PREDICATE_HEADER and record.kind != PREDICATE_QUERY:
            record.value = intern_blob(&self.strings, call.arguments[value].text, call.arguments[value].length)
            record.value_length = call.arguments[value].length
        return intern_blob(&self.predicates, &record, sizeof(PredicateRecord)) // <uint32_t>sizeof(PredicateRecord)

    cdef uint32_t intern_text(self, const char* text, uint32_t length, bint lower) except? 0xFFFFFFFF:
        cdef uint64_t used = self.text_used
        cdef uint32_t offset = self.copy_text(text, length, lower)
        self.text_used = used
        return intern_blob(&self.strings, self.text + offset, length)

    cdef uint32_t intern_image(self, const char* text, uint32_t length) except? 0xFFFFFFFF:
        return intern_blob(&self.strings, text, length)

    cdef uint32_t add_segments(self, Pattern* pattern, bint lower) except? 0xFFFFFFFF:
        cdef SegmentRecord[40] records
        cdef PatternSegment* segment
        cdef uint32_t i
        memset(records, 0, sizeof(records))
        for i in range(pattern.count):
            segment = &pattern.segments[i]
            records[i].kind = segment.kind
            records[i].prefix = self.intern_text(segment.prefix, segment.prefix_length, lower)
            records[i].prefix_length = segment.prefix_length
            records[i].suffix = self.intern_text(segment.suffix, segment.suffix_length, lower)
            records[i].suffix_length = segment.suffix_length
        return intern_blob(&self.segments, records, pattern.count * sizeof(SegmentRecord)) // <uint32_t>sizeof(SegmentRecord)


cdef void memmove_refs(uint32_t* refs, int* calls, uint32_t hole, uint32_t count) noexcept:
    """Undoes the shift of an insertion that turned out to be a repeat."""
    cdef uint32_t i
    for i in range(hole, count):
        refs[i] = refs[i + 1]
        calls[i] = calls[i + 1]


cdef inline uint64_t order(uint8_t kind, uint32_t ref) noexcept:
    return <uint64_t>(kind >= PREDICATE_HOST_REGEXP) << 32 | ref


cdef inline bint has_pattern(uint8_t kind) noexcept:
    return kind == PREDICATE_HOST or kind == PREDICATE_PATH or kind == PREDICATE_HEADER_PATTERN


cdef inline bint is_header(uint8_t kind) noexcept:
    return (kind == PREDICATE_HEADER or kind == PREDICATE_HEADER_IS or kind == PREDICATE_HEADER_PATTERN
            or kind == PREDICATE_HEADER_REGEXP)


cdef inline bint has_name(uint8_t kind) noexcept:
    return is_header(kind) or kind == PREDICATE_QUERY or kind == PREDICATE_QUERY_IS or kind == PREDICATE_QUERY_REGEXP


cdef inline bint more_specific(Pattern* a, Pattern* b) noexcept:
    if a.keys[0] != b.keys[0]:
        return a.keys[0] > b.keys[0]
    if a.keys[1] != b.keys[1]:
        return a.keys[1] > b.keys[1]
    return a.literal_bytes > b.literal_bytes


cdef bint same_host(Call* a, Call* b) noexcept:
    cdef uint32_t i
    cdef char x, y
    if a.arguments[0].length != b.arguments[0].length:
        return False
    for i in range(a.arguments[0].length):
        x, y = a.arguments[0].text[i], b.arguments[0].text[i]
        if (x + 32 if c'A' <= x <= c'Z' else x) != (y + 32 if c'A' <= y <= c'Z' else y):
            return False
    return True
