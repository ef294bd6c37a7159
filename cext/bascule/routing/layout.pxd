"""The ROUTES sections of a snapshot image: sections 8..17 (shared/snapshot.pxd).

Owner and writer: routing/compile.pyx, once, before the image is sealed. Readers: routing/match.pyx after routing/verify.pyx has
checked every offset. Dies with the image. Little-endian; no pointers; all records 4-byte aligned, nodes 8-byte aligned.

A table of routes is sections 8..15: the routes base, and in each records image the *delta*, the routes changed since. Section 17
has a bit for each frontend of the base whose entries there are *retired*: removed, or replaced by some in the delta. Section 16
says of each entry of the delta how many of the base come before it in the one order of all, so a search of the delta first gives
the search of the base its bound, and the two together find what one table of all routes would.

A route expression becomes one or more *entries* (one for each alternative of its disjunctive normal form). All entries of an
image are put in one total order, most specific first; the place in it is the entry's *rank*. A request is answered by the
matching entry of least rank, so every node carries the least rank below it and a search leaves out whatever cannot beat what it
has found.

    slots (hash of parent and label)             nodes (8-byte units; unit 0 is unused, so 0 means "none")
    +------+------+                              +--------+----------------+---------------+------------------+
    | tag  | node |----------------------------->| header | label, padded  | entries: end  | more | any       |
    +------+------+                              | 32 B   | to 8 B         | 16 B each, by rank in each group |
                                                 +--------+----------------+----------------------------------+
    edges (segments that are not plain text)         | first_edge
    +------+--------+---------+------+--------+ <----+
    | node | rank   | prefix  | suffix | kind |       a run, by rank; the last one has `last` set
    +------+--------+---------+------+--------+

Host dimension first: `exact_hosts` has one literal child for each host name, which is at the same time the root of that host's
path trie; `pattern_hosts` is a trie of labels from the right, whose EDGE_END and EDGE_MORE edges lead to path roots; `any_host`
is the path root of the routes without a host. A path is split at '/' after its first one: "/" is one empty segment, "/a/" is "a"
and "".

    route                      path of nodes below the path root       entry group
    Path("/a/b")               a -> b                                  end    (nothing may follow)
    PathPrefix("/a/")          a                                       more   (at least one segment, empty or not, must follow)
    PathPrefix("/a")           a                                       any    (anything may follow)
    no path condition          -                                       any
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    ROUTES_LAYOUT_VERSION = 1
    ROUTES_HEADER = 8             # RouteHeader
    ROUTES_NODES = 9              # NodeRecord and what follows each
    ROUTES_SLOTS = 10             # SlotRecord, a power of two of them
    ROUTES_EDGES = 11             # EdgeRecord
    ROUTES_PREDICATES = 12        # PredicateRecord
    ROUTES_SEGMENTS = 13          # SegmentRecord, of pattern predicates
    ROUTES_REFS = 14              # uint32: an entry's predicate references, then (offset, length) of its parameter names
    ROUTES_STRINGS = 15
    ROUTES_POSITIONS = 16         # uint32 for each rank of the delta, ascending: its rank in the base would be this
    ROUTES_RETIRED = 17           # bits, one for each frontend of the base, least significant first; absent = none
    NODE_UNIT = 8                 # bytes
    DEPTH_MAX = 64                # nodes below one root
    CAPTURES_MAX = 16             # = ROUTE_PARAMS_MAX

cdef enum SegmentKind:            # of a path segment, host label or header value part; also of an edge
    SEGMENT_LITERAL = 0
    SEGMENT_STRING = 1            # <name>, not empty
    SEGMENT_INT = 2               # <int:name>, ASCII digits, not empty
    EDGE_END = 3                  # host tries only: the host ends here
    EDGE_MORE = 4                 # host tries only: at least one more label

cdef enum Tail:                   # what may follow a pattern's last segment; also an entry's group in its node
    TAIL_END = 0
    TAIL_MORE = 1
    TAIL_ANY = 2

cdef struct RouteHeader:          # 40 bytes
    uint32_t layout_version
    uint32_t entry_count          # ranks are 0 .. entry_count - 1
    uint32_t exact_hosts          # nodes
    uint32_t pattern_hosts
    uint32_t any_host
    uint32_t slot_bits            # 1 << slot_bits slots
    uint32_t regexp_count
    uint32_t frontend_bound       # every entry's frontend is below it
    uint32_t reserved[2]

cdef struct NodeRecord:           # 32 bytes, then the label padded to 8, then the entries
    uint32_t min_rank             # of the entries of this node and all below
    uint32_t parent               # node unit; less than this node's own
    uint32_t first_edge           # NO_INDEX = none
    uint32_t child_count          # literal children: 0 saves a hash probe
    uint32_t end_count
    uint32_t more_count
    uint32_t any_count
    uint16_t label_length
    uint16_t reserved

cdef struct EntryRecord:          # 16 bytes
    uint32_t rank
    uint32_t frontend
    uint32_t refs                 # index into ROUTES_REFS
    uint16_t predicate_count
    uint8_t param_count
    uint8_t flags                 # ENTRY_*

cdef enum:
    ENTRY_REST = 1                # the rest of the path is a capture: <path:name>

cdef struct SlotRecord:           # 8 bytes
    uint32_t tag                  # high half of the hash
    uint32_t node                 # unit, 0 = free

cdef struct EdgeRecord:           # 24 bytes
    uint32_t node
    uint32_t min_rank
    uint32_t prefix               # ROUTES_STRINGS: literal text before and after the parameter, in the same segment
    uint32_t suffix
    uint16_t prefix_length
    uint16_t suffix_length
    uint8_t kind                  # SegmentKind, never SEGMENT_LITERAL
    uint8_t last
    uint8_t reserved[2]

cdef struct SegmentRecord:        # 16 bytes
    uint32_t prefix
    uint32_t suffix
    uint16_t prefix_length
    uint16_t suffix_length
    uint8_t kind
    uint8_t reserved[3]

cdef enum PredicateKind:
    PREDICATE_HOST = 0            # patterns, evaluated as such only when negated or when a stronger one leads the trie
    PREDICATE_PATH = 1
    PREDICATE_METHOD = 2
    PREDICATE_HEADER = 3          # present
    PREDICATE_HEADER_IS = 4
    PREDICATE_HEADER_PATTERN = 5
    PREDICATE_QUERY = 6           # present
    PREDICATE_QUERY_IS = 7
    PREDICATE_CLIENT_IP = 8       # value = 16 bytes of network, prefix = its length in bits
    PREDICATE_HOST_REGEXP = 9
    PREDICATE_PATH_REGEXP = 10
    PREDICATE_METHOD_REGEXP = 11
    PREDICATE_HEADER_REGEXP = 12
    PREDICATE_QUERY_REGEXP = 13
    PREDICATE_KINDS = 14

cdef struct PredicateRecord:      # 32 bytes; a reference to it is index * 2 + negated
    uint8_t kind
    uint8_t tail
    uint16_t segment_count
    uint32_t first_segment
    uint32_t name                 # ROUTES_STRINGS; header names in lower case
    uint32_t name_length
    uint32_t value
    uint32_t value_length
    uint32_t regexp               # number of the compiled regexp: 0 .. regexp_count - 1
    uint32_t prefix               # CLIENT_IP: see there; patterns: 1 = the open end is a capture


# The hash of a literal child: 8 bytes a step, a multiplicative mixer. Only configuration enters keys into the table and every hit
# is compared byte by byte, so a client can at most choose among existing probe runs.
cdef inline uint64_t route_hash(uint32_t parent, const char* label, uint32_t length) noexcept nogil:
    cdef uint64_t h = (<uint64_t>parent << 32 | length) * 0x9E3779B97F4A7C15ULL
    cdef uint64_t word
    h ^= h >> 29
    while length >= 8:
        memcpy(&word, label, 8)
        h = (h ^ word) * 0xD6E8FEB86659FD93ULL
        h ^= h >> 32
        label += 8
        length -= 8
    if length:
        word = 0
        if length >= 4:           # two overlapping reads instead of a variable memcpy
            memcpy(&word, label, 4)
            h ^= word << 32
            word = 0
            memcpy(&word, label + length - 4, 4)
        elif length == 3:
            word = <uint8_t>label[0] | <uint64_t><uint8_t>label[1] << 8 | <uint64_t><uint8_t>label[2] << 16
        elif length == 2:
            word = <uint8_t>label[0] | <uint64_t><uint8_t>label[1] << 8
        else:
            word = <uint8_t>label[0]
        h = (h ^ word) * 0xD6E8FEB86659FD93ULL
        h ^= h >> 32
    h *= 0xA0761D6478BD642FULL
    return h ^ h >> 32
