"""Addresses of servers and networks as the kernel takes them. Compile-time only: nothing here is on the way of a request."""

from libc.stdint cimport uint8_t, uint32_t

from bascule.shared.snapshot cimport Network


cdef enum:
    SOCKADDR_BYTES_MAX = 110      # sizeof(struct sockaddr_un)

cdef enum AuthorityKind:
    AUTHORITY_BAD = 0             # neither of the below
    AUTHORITY_LITERAL = 1         # "10.0.0.5:8080", "[::1]:8080", "unix:///path": the sockaddr is in `out`
    AUTHORITY_NAME = 2            # "app.internal:8080": to be resolved

cdef AuthorityKind authority_parse(const char* text, uint32_t length, uint8_t* out, uint32_t* out_length) noexcept nogil
cdef int network_parse(const char* text, uint32_t length, Network* out) noexcept nogil  # 0; 1 malformed; 2 host bits set
