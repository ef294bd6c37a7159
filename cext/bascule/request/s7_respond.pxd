"""Stage 7, respond: the server's response head, checked, rewritten, and on its way to the client with the body bytes behind it.

May do: read from the server, write to the client. May fail with: bad_response 502, server_closed 502 (after forward's retry).
Hands over to: s8_relay for the rest of the body; s9_account through exchange_end.
"""

from libc.stdint cimport uint32_t

from bascule.codec.head cimport Semantics
from bascule.engine.types cimport Engine, Exchange


cdef void respond_read(Engine* engine, Exchange* x) noexcept nogil

# Steps of respond_read by themselves, for bench/.
cdef bint decide_framing(Engine* engine, Exchange* x, Semantics* s, bint server_10) noexcept nogil  # False: refused
cdef uint32_t compose(Engine* engine, Exchange* x, Semantics* s) noexcept nogil   # bytes in Engine.compose
