"""Objects of the model to records: one function a kind, for whole trees and for single edits alike.

Every function first finds out whatever can be wrong, so that a ValueError leaves record and strings as they were, but for
texts that nothing refers to.
"""

from libc.stdint cimport uint32_t, uint64_t

from bascule.change.tables cimport Strings
from bascule.shared.snapshot cimport BackendRecord, ListenerRecord, MiddlewareRecord, Network, RateSpec, ServerRecord


cdef enum:
    SOCKADDR_PLACE_MAX = 110      # = change.address.SOCKADDR_BYTES_MAX

cdef struct Authority:            # a server's url taken apart; `text` points into the caller's str
    const char* text
    uint32_t length
    bint named                    # a host name; else `sockaddr` is there
    uint32_t sockaddr_length
    unsigned char[110] sockaddr

cdef class Encoder:
    cdef object slot              # (kind, id) -> identity number
    cdef dict durations_ms        # text -> milliseconds: a tree repeats a handful of durations many thousand times
    cdef dict sizes               # text or number -> bytes

    cdef uint32_t ms(self, str text) except? 0
    cdef uint64_t bytes_of(self, object size) except? 0
    cdef uint32_t number(self, str kind, str name) except? 0
    cdef int listener(self, ListenerRecord* record, listener) except -1      # all but id, stat_slot and networks
    cdef int network(self, Network* network, str text) except -1
    cdef int backend(self, BackendRecord* record, backend) except -1         # all but id, stat_slot and servers
    cdef int authority(self, Authority* authority, str url) except -1
    cdef int server(self, ServerRecord* record, server, Strings strings) except -1  # all but id, slot, backend, address
    cdef int middleware(self, MiddlewareRecord* record, str frontend_id, str middleware_id, middleware,
                        Strings strings) except -1
    cdef int rate(self, RateSpec* spec, rate) except -1
    cdef int key(self, MiddlewareRecord* record, key, Strings strings) except -1
