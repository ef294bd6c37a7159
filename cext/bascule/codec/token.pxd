"""Tokens and authorities of heads, compared."""

from libc.stdint cimport uint8_t, uint32_t


cdef inline bint same_token(const char* a, uint32_t a_length, const char* lower, uint32_t lower_length) noexcept nogil:
    """Case-insensitive equality with a lower-case token of letters and hyphens."""
    cdef uint32_t i
    if a_length != lower_length:
        return False
    for i in range(a_length):
        if (a[i] | 0x20) != lower[i]:
            return False
    return True


cdef inline bint equal_fold(const char* a, const char* b, uint32_t length) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t p, q
    for i in range(length):
        p = <uint8_t>a[i]
        q = <uint8_t>b[i]
        if p != q and ((p | 0x20) != (q | 0x20) or (p | 0x20) < c"a" or (p | 0x20) > c"z"):
            return False
    return True


cdef inline uint32_t without_default_port(const char* authority, uint32_t length) noexcept nogil:
    if length > 3 and authority[length - 3] == c":" and authority[length - 2] == c"8" and authority[length - 1] == c"0":
        return length - 3
    return length - 1 if length > 1 and authority[length - 1] == c":" else length


cdef inline bint same_authority(const char* a, uint32_t a_length, const char* b, uint32_t b_length) noexcept nogil:
    """Whether both name one host and port; "http://a" and "http://a:80" do (RFC 9110 section 4.2.3)."""
    a_length = without_default_port(a, a_length)
    return a_length == without_default_port(b, b_length) and equal_fold(a, b, a_length)
