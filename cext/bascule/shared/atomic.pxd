"""Atomic operations on shared memory: GCC's __atomic built-ins, with the memory order in the name.

Regions are written by several processes; a plain load or store could be split, repeated or reordered by the compiler.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t bascule_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline uint64_t bascule_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline uint32_t bascule_load32_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t bascule_load64_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t bascule_load64_seq(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void bascule_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline void bascule_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline void bascule_store32_release(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void bascule_store64_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void bascule_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline void bascule_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline int bascule_cas64(uint64_t *p, uint64_t *expected, uint64_t v) {
        return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline void bascule_subtract64(uint64_t *p, uint64_t v) { __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }
    static inline void bascule_prefetch(const void *p) { __builtin_prefetch(p, 1, 3); }
    static inline unsigned bascule_top_bit(uint64_t v) { return 63u - (unsigned)__builtin_clzll(v); }
    """
    uint32_t load32 "bascule_load32"(const uint32_t*) noexcept nogil
    uint64_t load64 "bascule_load64"(const uint64_t*) noexcept nogil
    uint32_t load32_acquire "bascule_load32_acquire"(const uint32_t*) noexcept nogil
    uint64_t load64_acquire "bascule_load64_acquire"(const uint64_t*) noexcept nogil
    uint64_t load64_seq "bascule_load64_seq"(const uint64_t*) noexcept nogil
    void store32 "bascule_store32"(uint32_t*, uint32_t) noexcept nogil
    void store64 "bascule_store64"(uint64_t*, uint64_t) noexcept nogil
    void store32_release "bascule_store32_release"(uint32_t*, uint32_t) noexcept nogil
    void store64_release "bascule_store64_release"(uint64_t*, uint64_t) noexcept nogil
    void fence_acquire "bascule_fence_acquire"() noexcept nogil
    void fence_release "bascule_fence_release"() noexcept nogil
    # Sequentially consistent; on failure `expected` receives the value found.
    bint cas64 "bascule_cas64"(uint64_t*, uint64_t* expected, uint64_t) noexcept nogil
    void subtract64 "bascule_subtract64"(uint64_t*, uint64_t) noexcept nogil
    void prefetch "bascule_prefetch"(const void*) noexcept nogil
    uint32_t top_bit "bascule_top_bit"(uint64_t) noexcept nogil  # index of the highest set bit; the argument is not 0
