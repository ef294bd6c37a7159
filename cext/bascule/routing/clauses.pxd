"""Route expressions taken apart: one Clause for each alternative, ready to be ranked and put into the trie."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from bascule.routing.expression cimport Call, Expression
from bascule.routing.intern cimport Interner
from bascule.routing.pattern cimport Pattern, Prepared


cdef enum:
    ALTERNATIVES_MAX = 64         # clauses of one expression
    CLAUSE_LITERALS_MAX = 64      # calls in one clause

cdef enum HostForm:
    HOST_ANY = 0
    HOST_EXACT = 1
    HOST_PATTERN = 2

cdef struct Piece:                # a segment; texts are offsets into Clauses.text
    uint32_t prefix
    uint32_t suffix
    uint16_t prefix_length
    uint16_t suffix_length
    uint8_t kind                  # layout.SegmentKind

cdef struct Literals:             # one alternative under way: references are call * 2 + negated
    uint32_t count
    uint16_t[64] refs

cdef struct Clause:
    int32_t priority
    uint32_t frontend
    uint32_t id                   # of the frontend, offset into Clauses.text
    uint16_t id_length
    uint16_t predicate_count      # of refs; the number that decides "more predicates"
    uint64_t host_key             # see pattern.finish; 1 = HostRegexp only, 0 = none, all ones = exact
    uint64_t path_keys[2]         # {2, 0} = PathRegexp only, {0, 0} = none or PathPrefix("/")
    uint16_t host_literal_bytes
    uint16_t path_literal_bytes
    uint32_t pieces               # first of host_count + path_count in Clauses.pieces; an exact host is one piece
    uint8_t host_form
    uint8_t host_count
    uint8_t host_tail
    uint8_t path_count
    uint8_t path_tail
    uint8_t path_rest             # ENTRY_REST
    uint8_t path_root             # PathPrefix("/"): only the id is less than it
    uint8_t param_count
    uint8_t dead                  # its frontend has another route by now: no part of the table
    uint32_t refs                 # index into the uint32 array of Clauses.refs
    uint32_t position             # of a delta: how many clauses of the base come before it; NO_INDEX = not looked up yet

cdef class Clauses:
    cdef Clause* clauses
    cdef uint64_t clause_count
    cdef uint64_t clause_capacity
    cdef uint64_t dead_count
    cdef Piece* pieces
    cdef uint64_t piece_count
    cdef uint64_t piece_capacity
    cdef char* text
    cdef uint64_t text_used
    cdef uint64_t text_capacity
    cdef Interner strings         # of the image
    cdef Interner predicates      # PredicateRecord
    cdef Interner segments        # SegmentRecord
    cdef Interner refs            # uint32
    cdef Expression* expression   # the one being added
    cdef Pattern* patterns        # one for each of its calls, CALLS_MAX
    cdef Prepared* prepared
    cdef dict regexps             # (pattern, caseless) -> refusal or None
    cdef uint32_t frontend_bound  # 1 + the largest frontend index

    cdef uint32_t intern_image(self, const char* text, uint32_t length) except? 0xFFFFFFFF   # into the strings of the image
    cdef uint64_t kill(self, uint32_t frontend, uint64_t before) noexcept  # those of a frontend among the first `before`; how many
    cdef int add(self, uint32_t frontend, str frontend_id, str expression, int32_t priority) except -1
    cdef int add_utf8(self, uint32_t frontend, const char* id_text, uint32_t id_length, const char* text, uint32_t length,
                      int32_t priority) except -1
    cdef int add_clauses(self, uint32_t frontend, const char* id_text, uint32_t id_length, int32_t priority) except -1
    cdef int add_clause(self, Literals* literals, uint32_t frontend, uint32_t id_offset, uint16_t id_length,
                        int32_t priority) except -1
    cdef void drop_repeats(self, Literals* literals) noexcept
    cdef int leader(self, Literals* literals, uint8_t kind) noexcept
    cdef int contradicts(self, Literals* literals, int host) noexcept
    cdef bint same_call(self, int a, int b) noexcept
    cdef void set_specificity(self, Literals* literals, int host, int path, Clause* clause) noexcept
    cdef uint32_t copy_text(self, const char* text, uint32_t length, bint lower) except? 0xFFFFFFFF
    cdef int add_host(self, Call* call, Pattern* pattern, Clause* clause) except -1
    cdef int add_pieces(self, Pattern* pattern, bint lower) except -1
    cdef int add_refs(self, Literals* literals, int host, int path, Clause* clause) except -1
    cdef uint32_t add_names(self, Pattern* pattern, uint32_t* refs, uint32_t at) except? 0xFFFFFFFF
    cdef uint32_t captures(self, int call) noexcept
    cdef int check_names(self, Literals* literals) except -1
    cdef int check_name(self, const char** names, uint32_t* lengths, uint32_t count, int call) except -1
    cdef uint32_t add_predicate(self, int index) except? 0xFFFFFFFF
    cdef uint32_t intern_text(self, const char* text, uint32_t length, bint lower) except? 0xFFFFFFFF
    cdef uint32_t add_segments(self, Pattern* pattern, bint lower) except? 0xFFFFFFFF
