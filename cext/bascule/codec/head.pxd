"""Message heads: from llhttp's callbacks to an index of slices, and the semantics both directions share.

Everything that decides where a message ends is decided here, from the index alone and stricter than llhttp (DESIGN section 8).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from bascule.engine.types cimport Direction, Head, Header


cdef enum HeadResult:
    HEAD_MORE = 0                 # feed more bytes
    HEAD_COMPLETE = 1             # Head.length is set
    HEAD_BAD = -1                 # malformed
    HEAD_TOO_MANY = -2            # more than HEADERS_MAX headers

cdef enum FramingFault:           # why a head was refused
    FAULT_NONE = 0
    FAULT_LENGTH_REPEATED = 1
    FAULT_LENGTH_INVALID = 2
    FAULT_LENGTH_AND_CODING = 3
    FAULT_CODING_UNKNOWN = 4
    FAULT_CODING_IN_10 = 5
    FAULT_CONNECTION = 6          # names more headers than a head can have

cdef struct Semantics:            # what the whole head says; filled by head_semantics
    uint8_t fault                 # FramingFault
    uint8_t host_count
    bint chunked
    bint has_length
    uint64_t content_length
    bint close                    # Connection: close
    bint keep_alive               # Connection: keep-alive
    bint connection_upgrade       # Connection: upgrade
    bint te_trailers              # TE: trailers
    int host                      # index of the Host header, or -1
    int upgrade                   # of Upgrade
    int expect                    # of Expect
    int connection                # of the first Connection

cdef void head_begin(Direction* direction, Head* head, bint response) noexcept nogil
cdef int head_feed(Direction* direction, Head* head, const char* base, uint32_t start, uint32_t end) noexcept nogil
cdef void head_semantics(Head* head, bint http_10, bint response, Semantics* semantics) noexcept nogil
cdef void heads_bind() noexcept nogil

cdef bint list_has_token(const char* list, uint32_t length, const char* lower, uint32_t lower_length) noexcept nogil
