"""Stage 4, limit: the frontend's rate and concurrency limits, in their order.

May do: take from the shared limits region. May fail with: rate_limited 429, concurrency_limited 429. Hands over to: s5_balance.

Two halves: limit_begin has the table's lines on their way from memory (100 to 200 ns when there are many clients) while the head for the
server is composed, limit decides. What it costs: a request that is refused was composed for nothing (0.2 us).
"""

from libc.stdint cimport uint64_t

from bascule.engine.types cimport Engine, Exchange
from bascule.request.s2_parse cimport RequestView
from bascule.shared.snapshot cimport FRONTEND_MIDDLEWARES_MAX


cdef struct LimitKeys:
    # Of the frontend's middlewares, in their order. Owner: the caller's stack. Writer: limit_begin. Dies: when limit has decided.
    uint64_t keys[FRONTEND_MIDDLEWARES_MAX]

cdef void limit_begin(Engine* engine, Exchange* x, RequestView* view, LimitKeys* keys) noexcept nogil
cdef bint limit(Engine* engine, Exchange* x, const LimitKeys* keys) noexcept nogil    # False: answered, the exchange may be gone
