"""Stage 7, respond: the server's response head, checked, rewritten, and on its way to the client with the body bytes behind it.

May do: read from the server, write to the client. May fail with: bad_response 502, server_closed 502 (after forward's retry).
Hands over to: s8_relay for the rest of the body; s9_account through exchange_end.
"""

from bascule.engine.types cimport Engine, Exchange


cdef void respond_read(Engine* engine, Exchange* x) noexcept nogil
