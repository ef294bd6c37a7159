"""Edits of listeners, and of servers in the run of their backend.

A ValueError of an object that cannot be compiled leaves the State as it was.
"""

from libc.stdint cimport uint32_t

from bascule.change.encode cimport Encoder
from bascule.change.state cimport State
from bascule.change.tables cimport Table


cdef int compare_text(const char* a, uint32_t a_length, const char* b, uint32_t b_length) noexcept nogil
cdef void close_gap(Table* table, uint32_t record, uint32_t end) noexcept nogil

cdef int listener_put(State state, Encoder encoder, str id, listener) except -1
cdef int listener_drop(State state, str id) except -1
cdef bint server_put(State state, Encoder encoder, addresses, uint32_t backend, str owner, str id, server) except -1  # has an address
cdef int server_drop(State state, uint32_t backend, str id) except -1

# Gives every server with one of these names its new address (None: none any more); how many there were.
cdef int servers_readdress(State state, dict changed) except -1
