"""Stage 4, limit: the frontend's rate and concurrency limits, in their order.

May do: take from the shared limits region. May fail with: rate_limited 429, concurrency_limited 429. Hands over to: s5_balance.
"""

from bascule.engine.types cimport Engine, Exchange
from bascule.request.s2_parse cimport RequestView


cdef bint limit(Engine* engine, Exchange* x, RequestView* view) noexcept nogil    # False: answered, the exchange may be gone
