"""Stage 8, relay: bodies and tunnels, both ways, with bounded buffers.

Invariant: while Direction.out holds bytes the sink did not take, nothing is read from the source (backpressure); so one direction
holds at most one read (SCRATCH_BYTES) and usually nothing.
May do: read, decode and re-frame, write. May fail with: response_cut, bad chunks (400/502), client_gone, client_slow.
Hands over to: exchange_end.
"""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Conn, Direction, Engine, Exchange


cdef enum RelayResult:
    RELAY_GOING = 0
    RELAY_ENDED = 1               # the exchange is gone; touch nothing

cdef int relay_emit(Engine* engine, Exchange* x, Direction* direction, Conn* sink, const char* head, uint32_t head_length,
                    const char* data, uint32_t length, bint complete) noexcept nogil
cdef int relay_response_bytes(Engine* engine, Exchange* x, const char* head, uint32_t head_length, char* data,
                              uint32_t length) noexcept nogil
cdef void relay_response(Engine* engine, Exchange* x) noexcept nogil
cdef void relay_request(Engine* engine, Exchange* x) noexcept nogil
cdef void wait_for(Engine* engine, Conn* conn, uint32_t delay_ms, bint moved) noexcept nogil
cdef void relay_tunnel(Engine* engine, Exchange* x) noexcept nogil
