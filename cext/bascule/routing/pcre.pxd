"""PCRE2, resolved from libpcre2-8.so.0 with dlopen when the first regexp is met: no header and no link-time dependency.

Owner of a PcreCode: the RouteTable that compiled it; dies by pcre_free. A PcreScratch holds what matching needs (match data,
limits, JIT stack), so that pcre_matches allocates nothing; it belongs to one RouteTable, is used by one thread, and dies by
pcre_scratch_free.
"""

from libc.stdint cimport uint32_t


cdef enum:
    PATTERN_BYTES_MAX = 512
    COMPILED_BYTES_MAX = 16384
    MATCH_LIMIT = 100000          # backtracking steps of one match: about a millisecond
    DEPTH_LIMIT = 10000
    HEAP_LIMIT_KIB = 256
    JIT_STACK_BYTES = 262144
    SUBJECT_BYTES_MAX = 65536     # longer texts are not searched: the predicate is undecided

cdef struct PcreCode
cdef struct PcreScratch

cdef int pcre_available() noexcept nogil                           # 1 after the library has been found and resolved
# NULL: not a regexp, too large, no library, or no memory
cdef PcreCode* pcre_compile(const char* pattern, uint32_t length, bint caseless, bint jit) noexcept nogil
cdef void pcre_free(PcreCode* code) noexcept nogil
cdef PcreScratch* pcre_scratch_new() noexcept nogil
cdef void pcre_scratch_free(PcreScratch* scratch) noexcept nogil
# 1 = found somewhere in the text, 0 = not found, -1 = undecided (a limit was hit)
cdef int pcre_matches(const PcreCode* code, PcreScratch* scratch, const char* text, uint32_t length) noexcept nogil
