"""Stage 3, route: pins the snapshot and finds the frontend.

May do: read the snapshot. May fail with: no_route 404. Hands over to: s4_limit.
"""

from bascule.engine.types cimport Engine, Exchange
from bascule.request.s2_parse cimport RequestView


cdef bint route(Engine* engine, Exchange* x, RequestView* view) noexcept nogil    # False: answered, the exchange may be gone
