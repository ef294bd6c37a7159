"""SipHash-1-3 (J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF", 2012; one and three rounds as in Rust and Python).

For tables whose keys clients choose: their collisions cannot be computed without the seed. Of those hashes this is the cheapest that
stood up to analysis.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


# Of the 8 bytes of `first` (little-endian) and the bytes of `rest`, as of one text.
cdef uint64_t siphash13(uint64_t seed, uint64_t seed_high, uint64_t first, const uint8_t* rest, uint32_t length) noexcept nogil
