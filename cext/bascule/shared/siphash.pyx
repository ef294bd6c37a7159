"""See siphash.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    static inline uint64_t bascule_rotl(uint64_t x, int b) { return (x << b) | (x >> (64 - b)); }
    """
    uint64_t rotl "bascule_rotl"(uint64_t x, int b) noexcept nogil


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


cdef uint64_t siphash13(uint64_t seed, uint64_t seed_high, uint64_t first, const uint8_t* rest, uint32_t length) noexcept nogil:
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint32_t left = length
    v[0] = seed ^ 0x736F6D6570736575ULL
    v[1] = seed_high ^ 0x646F72616E646F6DULL
    v[2] = seed ^ 0x6C7967656E657261ULL
    v[3] = seed_high ^ 0x7465646279746573ULL
    v[3] ^= first
    sip_round(v)
    v[0] ^= first
    while left >= 8:
        memcpy(&word, rest, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        rest += 8
        left -= 8
    word = 0
    memcpy(&word, rest, left)
    word |= (<uint64_t>length + 8) << 56
    v[3] ^= word
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
