"""CRC-32 of large blocks: see checksum.pxd.

Folding by carry-less multiplication: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
Instruction", Intel 2009. Tables: M. Kounavis and F. Berry, "A Systematic Approach to Building High Performance,
Software-based, CRC Generators", ISCC 2005 (slicing-by-8).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>
    #define BASCULE_HAS_FOLDING() (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"))

    /* Folds `blocks` * 64 bytes (at least one block) and a running CRC into 16 bytes of equal remainder. */
    __attribute__((target("pclmul,sse4.1")))
    static void bascule_crc_fold(uint32_t crc, const uint8_t *data, size_t blocks, uint8_t out[16]) {
        /* x^(512+64), x^512, x^(128+64), x^128 modulo the polynomial, bit-reflected (the paper, table of section 4) */
        const __m128i by_four = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
        const __m128i by_one = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
        const __m128i *in = (const __m128i *)data;
        __m128i lane[4];
        for (int i = 0; i < 4; i++) lane[i] = _mm_loadu_si128(in + i);
        lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)crc));
        for (in += 4; --blocks; in += 4)
            for (int i = 0; i < 4; i++) {
                __m128i low = _mm_clmulepi64_si128(lane[i], by_four, 0x00);
                __m128i high = _mm_clmulepi64_si128(lane[i], by_four, 0x11);
                lane[i] = _mm_xor_si128(_mm_xor_si128(low, high), _mm_loadu_si128(in + i));
            }
        for (int i = 1; i < 4; i++) {
            __m128i low = _mm_clmulepi64_si128(lane[0], by_one, 0x00);
            __m128i high = _mm_clmulepi64_si128(lane[0], by_one, 0x11);
            lane[0] = _mm_xor_si128(_mm_xor_si128(low, high), lane[i]);
        }
        _mm_storeu_si128((__m128i *)out, lane[0]);
    }
    #else
    #define BASCULE_HAS_FOLDING() 0
    static void bascule_crc_fold(uint32_t crc, const uint8_t *data, size_t blocks, uint8_t out[16]) {
        (void)crc; (void)data; (void)blocks; (void)out;
    }
    #endif
    """
    bint BASCULE_HAS_FOLDING() noexcept nogil
    void bascule_crc_fold(uint32_t crc, const uint8_t* data, size_t blocks, uint8_t* out) noexcept nogil


cdef uint32_t POLYNOMIAL = 0xEDB88320  # bit-reflected
cdef uint32_t TABLES[8][256]
cdef bint FOLDING = False


cdef void fill_tables() noexcept nogil:
    cdef uint32_t byte, crc, table
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        TABLES[0][byte] = crc
    for byte in range(256):
        crc = TABLES[0][byte]
        for table in range(1, 8):
            crc = (crc >> 8) ^ TABLES[0][crc & 0xFF]
            TABLES[table][byte] = crc


cdef uint32_t by_tables(uint32_t crc, const uint8_t* data, uint64_t length) noexcept nogil:
    """Slicing-by-8 on the inverted register; little-endian, as the image itself."""
    cdef uint32_t low, high
    while length >= 8:
        memcpy(&low, data, 4)
        memcpy(&high, data + 4, 4)
        low ^= crc
        crc = (
            TABLES[7][low & 0xFF] ^ TABLES[6][(low >> 8) & 0xFF] ^ TABLES[5][(low >> 16) & 0xFF] ^ TABLES[4][low >> 24]
            ^ TABLES[3][high & 0xFF] ^ TABLES[2][(high >> 8) & 0xFF] ^ TABLES[1][(high >> 16) & 0xFF]
            ^ TABLES[0][high >> 24]
        )
        data += 8
        length -= 8
    while length:
        crc = (crc >> 8) ^ TABLES[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return crc


cdef uint32_t checksum_crc32(uint32_t crc, const uint8_t* data, uint64_t length) noexcept nogil:
    cdef uint8_t folded[16]
    cdef uint64_t blocks = length // 64
    crc = ~crc
    if FOLDING and blocks:
        bascule_crc_fold(crc, data, blocks, folded)
        # What is left has the remainder of a 16-byte message that starts from an empty register.
        crc = by_tables(0, folded, 16)
        data += blocks * 64
        length -= blocks * 64
    return ~by_tables(crc, data, length)


def crc32(data, uint32_t crc=0, *, bint tables_only=False) -> int:
    """CRC-32 of `data`, continuing from `crc`; equal to zlib.crc32. `tables_only` leaves vectors out."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef const uint8_t* start = <const uint8_t*>view.buf
    with nogil:
        if tables_only:
            crc = ~by_tables(~crc, start, view.len)
        else:
            crc = checksum_crc32(crc, start, view.len)
    PyBuffer_Release(&view)
    return crc


fill_tables()
FOLDING = BASCULE_HAS_FOLDING()
