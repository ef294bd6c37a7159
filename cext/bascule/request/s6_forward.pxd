"""Stage 6, forward: the request head to a server.

    compose -> take a pooled connection or connect -> head (and the body bytes that came with it) in one call -> relay_request

May do: write to a server, open connections, retry. May fail with: no_server 503, connect_failed 502, connect_timeout 504,
server_closed 502. Hands over to: s8_relay for the rest of the request body, s7_respond for the answer.

Retries, transparent to the client: a connection attempt that failed goes to another server (nothing was sent); a reused connection that
dies before the first response byte is replaced once, for idempotent methods, or when not one byte was accepted (RFC 9110 section 9.2.2).
"""

from libc.stdint cimport uint8_t, uint32_t

from bascule.engine.types cimport Conn, Engine, Exchange


cdef void forward_start(Engine* engine, Exchange* x) noexcept nogil
cdef void forward_continue(Engine* engine, Exchange* x) noexcept nogil   # the server connection became writable
cdef void forward_lost(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why) noexcept nogil
cdef void pooled_event(Engine* engine, Conn* server) noexcept nogil
