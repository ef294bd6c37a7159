"""Edits applied to a State, and to the routes beside a base.

Owner: one SnapshotCompiler, from one full compilation to the next. An edit is applied whole or, rejected, not at all.

A frontend's routes are in one of these places; every other clause of it is retired (base) or dead (delta):

    IN BASE --route or priority changed--> IN DELTA          WAITING: its backend is not there, or its route cannot be compiled
    IN BASE, IN DELTA --backend gone--> WAITING --backend back, route still that of the base--> IN BASE
                                        WAITING --backend back, any other route--> IN DELTA
    any --removed--> gone: its index is not used again
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from bascule.change.encode cimport Encoder
from bascule.change.state cimport FrontendSource, State
from bascule.routing.delta cimport BaseFrontends, Delta
from bascule.shared.snapshot cimport BackendRecord, FrontendRecord, MiddlewareRecord


cdef class Editing:
    cdef State state
    cdef Encoder encoder
    cdef object addresses         # "name:port" -> sockaddr
    cdef Delta delta
    cdef uint8_t* retired         # bits, for frontends below `bound`
    cdef uint32_t bound
    cdef uint64_t retired_count
    cdef dict waiting             # backend id -> set of frontend indices
    cdef dict orphans             # (kind, owner) -> {id: record}: their owner is not there
    cdef list rejected            # from here on: of the edits since `begin`
    cdef list rejected_edits
    cdef list unresolved
    cdef list waited              # indices of frontends that began to wait
    cdef set touched              # indices of frontends with a new route

    cdef int begin(self) except -1
    cdef int edit(self, str kind, str id, record, str owner) except -1
    cdef bint routes_due(self) noexcept
    cdef int readdress(self, dict changed) except -1
    cdef BaseFrontends base_frontends(self) noexcept

    cdef BackendRecord* backend(self, uint32_t index) noexcept
    cdef FrontendRecord* frontend(self, uint32_t index) noexcept
    cdef FrontendSource* source(self, uint32_t index) noexcept
    cdef int refuse(self, str kind, str owner, str id, error, str remedy) except -1
    cdef uint32_t find(self, str kind, str id) except? 0xFFFFFFFE
    cdef int put_listener(self, str id, listener) except -1
    cdef int put_backend(self, str id, backend) except -1
    cdef int drop_backend(self, str id) except -1
    cdef int put_server(self, uint32_t backend, str owner, str id, server) except -1
    cdef int put_frontend(self, str id, frontend) except -1
    cdef int change_frontend(self, uint32_t index, str id, frontend, uint32_t backend, uint64_t body_bytes_max) except -1
    cdef int new_frontend(self, str id, frontend, uint32_t backend, uint64_t body_bytes_max) except -1
    cdef int settle(self, uint32_t index, frontend, uint32_t backend, uint64_t body_bytes_max, bint changed) except -1
    cdef int drop_frontend(self, str id) except -1
    cdef int put_middleware(self, uint32_t frontend, str owner, str id, middleware) except -1
    cdef bint comes_before(self, uint32_t index, const MiddlewareRecord* fresh) noexcept
    cdef int drop_middleware(self, uint32_t frontend, str id) except -1
    cdef bint try_route(self, uint32_t index, str id, str route, int32_t priority, bint linked) except -1
    cdef int link(self, uint32_t index, uint32_t backend) except -1
    cdef void unlink(self, uint32_t index) noexcept
    cdef void retire(self, uint32_t index) noexcept
    cdef int wait(self, uint32_t index, str backend) except -1
    cdef int stop_waiting(self, uint32_t index) except -1
