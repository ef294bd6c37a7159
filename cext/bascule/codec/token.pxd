"""Tokens of heads, compared."""

from libc.stdint cimport uint32_t


cdef inline bint same_token(const char* a, uint32_t a_length, const char* lower, uint32_t lower_length) noexcept nogil:
    """Case-insensitive equality with a lower-case token of letters and hyphens."""
    cdef uint32_t i
    if a_length != lower_length:
        return False
    for i in range(a_length):
        if (a[i] | 0x20) != lower[i]:
            return False
    return True
