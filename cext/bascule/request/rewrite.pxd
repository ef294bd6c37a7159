"""Rewriting of heads: the kept runs of the received bytes, and our own lines.

A head is composed into one contiguous buffer and leaves with the body bytes behind it in one system call. Copying the kept runs (some
hundred bytes, in cache) was chosen over one iovec a run: the copy costs less than the kernel's walk over the vector, and a
composed head can be sent again on a retry without the input it came from.
"""

from libc.stdint cimport uint32_t, uint64_t

from bascule.engine.types cimport Engine, Exchange, Head
from bascule.request.s2_parse cimport RequestView


cdef uint32_t put_text(char* out, uint32_t at, const char* text, uint32_t length) noexcept nogil
cdef uint32_t put_number(char* out, uint32_t at, uint64_t value) noexcept nogil
cdef uint32_t put_kept(char* out, uint32_t at, Head* head) noexcept nogil
cdef int request_compose(Engine* engine, Exchange* x, RequestView* view) noexcept nogil  # 0, or -1: out of buffers
