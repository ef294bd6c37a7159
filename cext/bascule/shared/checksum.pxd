"""CRC-32 (IEEE 802.3, the one of zlib and gzip) of large blocks, without holding the GIL.

A worker checks a whole snapshot image between two turns of its loop, so the checksum runs at memory speed: carry-less
multiplication where the processor has it, eight tables (slicing-by-8) elsewhere; both give zlib's value.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


# `crc` is the checksum of the bytes before `data`, 0 at the start: crc32(crc32(0, a), b) == crc32(0, a + b).
cdef uint32_t checksum_crc32(uint32_t crc, const uint8_t* data, uint64_t length) noexcept nogil
