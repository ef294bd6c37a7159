"""The one canonical form of a request path, used both to match and to forward (DESIGN section 5).

Percent-decoding of unreserved octets, upper-case hex in the octets that stay encoded, dot segments removed, duplicate
slashes merged. Refused: invalid percent-encoding, encoded NUL, encoded slash or backslash, raw backslash, a path that climbs
above the root, octets outside the path grammar. RFC 3986 section 6.2.2.
"""

from libc.stdint cimport uint32_t


cdef enum PathResult:
    PATH_CANONICAL = 0            # already canonical: use the input, nothing was written
    PATH_REWRITTEN = 1            # canonical form written to `out`; never longer than the input
    PATH_REFUSED = 2              # answer 400

cdef int path_canonical(const char* path, uint32_t length, char* out, uint32_t* out_length) noexcept nogil
