"""Stage 1, accept: from a lent slot to a registered client connection.

May do: accept, count. May fail with: overload (the connection is closed, counted). Hands over to: s2_parse on its first byte.
"""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Conn, Engine, Slot


cdef void accept_ready(Engine* engine, Slot* slot) noexcept nogil
cdef void accept_resume(Engine* engine) noexcept nogil
cdef bint count_address(Engine* engine, Conn* client, uint32_t maximum) noexcept nogil
