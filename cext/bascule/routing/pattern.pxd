"""Patterns: the arguments of Host, Path, PathPrefix and Header, cut into segments.

Owner of a Pattern: the caller. Writer: the pattern_* functions. Its texts point into the call's argument and die with it.
A path is cut at '/' from left to right, a host at '.' from right to left, a header value at '/' from left to right.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from bascule.routing.expression cimport Argument, Expression


cdef enum:
    PATH_SEGMENTS_MAX = 40        # 3 bits each in two 64-bit keys
    HOST_LABELS_MAX = 20          # 3 bits each in one

cdef struct PatternSegment:
    uint8_t kind                  # layout.SegmentKind
    uint16_t prefix_length
    uint16_t suffix_length
    uint16_t name_length
    const char* prefix            # a literal segment is all prefix
    const char* suffix
    const char* name

cdef struct Pattern:
    uint32_t count
    uint32_t captures             # parameters, and one for an open end that is named or of a host
    uint8_t tail                  # layout.Tail
    uint8_t literal               # no parameter, no wildcard
    uint8_t rest                  # the open end is a parameter, rest_name
    uint16_t rest_name_length
    const char* rest_name
    uint32_t literal_bytes
    uint64_t keys[2]              # specificity: kinds of the segments, most significant first; see specificity_keys
    PatternSegment segments[40]

cdef struct Prepared:             # what validation of one call leaves
    uint8_t kind                  # layout.PredicateKind
    uint8_t prefix                # CLIENT_IP
    uint8_t network[16]

cdef int pattern_path(Expression* e, Argument* argument, bint is_prefix, Pattern* pattern) except -1
cdef int pattern_host(Expression* e, Argument* argument, Pattern* pattern) except -1
cdef int pattern_header(Expression* e, Argument* argument, Pattern* pattern) except -1
