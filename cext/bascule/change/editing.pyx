"""See editing.pxd."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from bascule.change.encode cimport Encoder
from bascule.change.pools cimport (
    close_gap, compare_text, listener_drop, listener_put, server_drop, server_put, servers_readdress,
)
from bascule.change.state cimport (
    SOURCE_IN_BASE, SOURCE_IN_DELTA, SOURCE_REJECTED, FrontendSource, State, run_extend, tombstone,
)
from bascule.change.tables cimport index_add, index_drop, index_find, table_add, table_at
from bascule.routing.delta cimport BaseFrontends, Delta
from bascule.shared.snapshot cimport (
    FRONTEND_MIDDLEWARES_MAX, FRONTEND_REMOVED, FRONTEND_WAITING, HOLDINGS_MAX, MIDDLEWARE_CONCURRENCY_LIMIT, NO_INDEX,
    BackendRecord, FrontendRecord, MiddlewareRecord,
)

from bascule.change.compiled import RejectedEdit, RejectedRoute
from bascule.routing.errors import RouteError


cdef enum:
    DELTA_MIN = 256               # frontends with routes aside, before they are folded in
    DELTA_SHARE = 16              # ... or a sixteenth of all
    DEAD_FACTOR = 4               # clauses that died in the delta, as a multiple of that bound
    HTTP_SCHEME_LENGTH = 7


cdef class Editing:
    """See editing.pxd."""

    def __cinit__(self, State state, Encoder encoder, addresses, uint32_t bound, dict orphans):
        cdef FrontendRecord* frontend
        cdef uint32_t i
        self.state = state
        self.encoder = encoder
        self.addresses = addresses
        self.orphans = orphans
        self.delta = Delta()
        self.bound = bound
        self.retired = <uint8_t*>calloc(bound // 8 + 1, 1)
        if self.retired == NULL:
            raise MemoryError
        self.waiting = {}
        self.waited = []
        for i in range(state.frontends.count):
            frontend = <FrontendRecord*>table_at(&state.frontends, i)
            if frontend.flags & FRONTEND_WAITING and not self.source(i).flags & SOURCE_REJECTED:
                self.wait(i, state.source_text(self.source(i).backend))
        self.begin()

    def __dealloc__(self):
        free(self.retired)

    cdef BackendRecord* backend(self, uint32_t index) noexcept:
        return <BackendRecord*>table_at(&self.state.backends, index)

    cdef FrontendRecord* frontend(self, uint32_t index) noexcept:
        return <FrontendRecord*>table_at(&self.state.frontends, index)

    cdef FrontendSource* source(self, uint32_t index) noexcept:
        return <FrontendSource*>table_at(&self.state.sources, index)

    cdef int begin(self) except -1:
        self.rejected = []
        self.rejected_edits = []
        self.unresolved = []
        self.waited = []
        self.touched = set()
        return 0

    cdef BaseFrontends base_frontends(self) noexcept:
        cdef BaseFrontends base
        base.records = <const FrontendRecord*>self.state.frontends.data
        base.strings = self.state.strings.texts.data
        base.retired = self.retired
        base.bound = self.bound
        return base

    cdef bint routes_due(self) noexcept:
        cdef uint64_t most = max(<uint64_t>DELTA_MIN, self.state.live_frontends // DELTA_SHARE)
        cdef uint64_t clauses = self.delta.clauses.clause_count
        return (clauses - self.delta.clauses.dead_count > most or self.retired_count > most
                or clauses > DEAD_FACTOR * most)

    cdef int edit(self, str kind, str id, record, str owner) except -1:
        cdef uint32_t index
        if kind == "server" or kind == "middleware":
            index = self.find("backend" if kind == "server" else "frontend", owner)
            if index == NO_INDEX:
                if record is not None:
                    self.orphans.setdefault((kind, owner), {})[id] = record
                elif (kind, owner) in self.orphans:
                    self.orphans[kind, owner].pop(id, None)
                return 0
            if kind == "server":
                return self.put_server(index, owner, id, record) if record is not None else server_drop(self.state, index, id)
            return self.put_middleware(index, owner, id, record) if record is not None else self.drop_middleware(index, id)
        if kind == "frontend":
            return self.put_frontend(id, record) if record is not None else self.drop_frontend(id)
        if kind == "backend":
            return self.put_backend(id, record) if record is not None else self.drop_backend(id)
        if kind == "listener":
            return self.put_listener(id, record) if record is not None else listener_drop(self.state, id)
        if kind != "host":
            raise ValueError(f"{kind!r} is no kind of object")
        return 0

    cdef int refuse(self, str kind, str owner, str id, error, str remedy) except -1:
        self.rejected_edits.append(RejectedEdit(kind, owner, id, str(error), remedy))
        return 0

    cdef uint32_t find(self, str kind, str id) except? 0xFFFFFFFE:
        cdef State state = self.state
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        if kind == "backend":
            return index_find(&state.backend_index, &state.backends, state.strings.texts.data, text, <uint32_t>length)
        return index_find(&state.frontend_index, &state.frontends, state.strings.texts.data, text, <uint32_t>length)

    # ---- listeners, backends and servers

    cdef int put_listener(self, str id, listener) except -1:
        try:
            return listener_put(self.state, self.encoder, id, listener)
        except ValueError as error:
            return self.refuse("listener", "", id, error, "correct the listener")

    cdef int put_server(self, uint32_t backend, str owner, str id, server) except -1:
        try:
            if not server_put(self.state, self.encoder, self.addresses, backend, owner, id, server):
                self.unresolved.append(server.url[HTTP_SCHEME_LENGTH:])
        except ValueError as error:
            return self.refuse("server", owner, id, error, "write http://HOST:PORT or unix:///PATH")
        return 0

    cdef int readdress(self, dict changed) except -1:
        return servers_readdress(self.state, changed)

    cdef int put_backend(self, str id, backend) except -1:
        cdef State state = self.state
        cdef BackendRecord record
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        cdef uint32_t index = self.find("backend", id)
        memset(&record, 0, sizeof(record))
        if index != NO_INDEX:
            record = self.backend(index)[0]
        try:
            self.encoder.backend(&record, backend)
        except ValueError as error:
            return self.refuse("backend", "", id, error, "correct the backend")
        if index != NO_INDEX:
            self.backend(index)[0] = record
            return 0
        record.stat_slot = self.encoder.number("backend", id)
        record.id = state.strings.place(text, <uint32_t>length, 1)
        record.first_server = <uint32_t>state.servers.count
        index = <uint32_t>state.backends.count
        (<BackendRecord*>table_add(&state.backends, 1))[0] = record
        table_add(&state.users, 1)
        index_add(&state.backend_index, &state.backends, state.strings.texts.data, index)
        state.live_backends += 1
        orphans = self.orphans.pop(("server", id), {})
        for server_id in sorted(orphans):
            self.put_server(index, id, server_id, orphans[server_id])
        for frontend in sorted(self.waiting.pop(id, ())):
            self.link(frontend, index)
        return 0

    cdef int drop_backend(self, str id) except -1:
        cdef State state = self.state
        cdef uint32_t index = self.find("backend", id)
        cdef BackendRecord* record
        cdef uint32_t i
        self.orphans.pop(("server", id), None)
        if index == NO_INDEX:
            return 0
        record = self.backend(index)
        for i in range(record.first_server, record.first_server + record.server_count):
            tombstone(&state.servers, i)
        state.dead_records += record.server_count + 1
        state.live_servers -= record.server_count
        state.live_backends -= 1
        if (<uint32_t*>table_at(&state.users, index))[0]:
            for i in range(state.frontends.count):
                if self.frontend(i).backend == index:
                    self.unlink(i)
                    self.wait(i, id)
        index_drop(&state.backend_index, &state.backends, state.strings.texts.data, index)
        tombstone(&state.backends, index)
        return 0

    # ---- frontends

    cdef bint try_route(self, uint32_t index, str id, str route, int32_t priority, bint linked) except -1:
        """Puts a route into the delta if it can be compiled; one that does not lead anywhere yet is only tried."""
        cdef Py_ssize_t id_length = 0, length = 0
        cdef const char* id_text = PyUnicode_AsUTF8AndSize(id, &id_length)
        cdef const char* text = PyUnicode_AsUTF8AndSize(route, &length)
        cdef bint replaces = index < self.state.sources.count and self.source(index).flags & SOURCE_IN_DELTA
        try:
            self.delta.put(index, id_text, <uint32_t>id_length, text, <uint32_t>length, priority, replaces)
        except RouteError as error:
            self.rejected.append(RejectedRoute(id, route, error.message, error.position, error.remedy))
            return False
        if linked:
            self.retire(index)
            self.touched.add(index)
            if index < self.state.sources.count:
                self.source(index).flags |= SOURCE_IN_DELTA
        else:
            self.delta.drop(index)
        return True

    cdef void retire(self, uint32_t index) noexcept:
        if index < self.bound and not self.retired[index >> 3] >> (index & 7) & 1:
            self.retired[index >> 3] |= <uint8_t>(1 << (index & 7))
            self.retired_count += 1

    cdef int link(self, uint32_t index, uint32_t backend) except -1:
        """The backend of a waiting frontend is there now."""
        cdef FrontendRecord* record = self.frontend(index)
        cdef FrontendSource* source = self.source(index)
        if source.flags & SOURCE_IN_BASE:
            self.retired[index >> 3] &= <uint8_t>~(1 << (index & 7))
            self.retired_count -= 1
        elif not self.try_route(index, self.state.text(record.id), self.state.source_text(source.route), record.priority, True):
            source.flags |= SOURCE_REJECTED
            return 0
        record.backend = backend
        record.flags = 0
        (<uint32_t*>table_at(&self.state.users, backend))[0] += 1
        return 0

    cdef void unlink(self, uint32_t index) noexcept:
        """No route leads to the frontend any more."""
        cdef FrontendRecord* record = self.frontend(index)
        if record.backend != NO_INDEX:
            (<uint32_t*>table_at(&self.state.users, record.backend))[0] -= 1
            if self.source(index).flags & SOURCE_IN_DELTA:
                self.delta.drop(index)
                self.source(index).flags &= ~<uint32_t>SOURCE_IN_DELTA
            self.retire(index)
        record.backend = NO_INDEX
        record.flags |= FRONTEND_WAITING

    cdef int wait(self, uint32_t index, str backend) except -1:
        self.waiting.setdefault(backend, set()).add(index)
        self.waited.append(index)
        return 0

    cdef int stop_waiting(self, uint32_t index) except -1:
        cdef str backend
        if self.frontend(index).flags & FRONTEND_WAITING:
            backend = self.state.source_text(self.source(index).backend)
            others = self.waiting.get(backend)
            if others is not None:
                others.discard(index)
                if not others:
                    del self.waiting[backend]
        return 0

    cdef int put_frontend(self, str id, frontend) except -1:
        cdef uint32_t index = self.find("frontend", id)
        cdef uint32_t backend = self.find("backend", frontend.backend)
        cdef uint64_t body_bytes_max
        try:
            body_bytes_max = self.encoder.bytes_of(frontend.max_body_bytes)
        except ValueError as error:
            return self.refuse("frontend", "", id, error, "correct the frontend")
        if index == NO_INDEX:
            return self.new_frontend(id, frontend, backend, body_bytes_max)
        return self.change_frontend(index, id, frontend, backend, body_bytes_max)

    cdef int new_frontend(self, str id, frontend, uint32_t backend, uint64_t body_bytes_max) except -1:
        cdef State state = self.state
        cdef uint32_t index = <uint32_t>state.frontends.count
        cdef uint32_t slot
        cdef FrontendRecord* record
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        if not self.try_route(index, id, frontend.route, frontend.priority, backend != NO_INDEX):
            return 0
        slot = self.encoder.number("frontend", id)
        record = <FrontendRecord*>table_add(&state.frontends, 1)
        table_add(&state.sources, 1)
        record.id = state.strings.place(text, <uint32_t>length, 1)
        record.stat_slot = slot
        record.backend = NO_INDEX
        record.flags = FRONTEND_WAITING
        record.first_middleware = <uint32_t>state.middlewares.count
        index_add(&state.frontend_index, &state.frontends, state.strings.texts.data, index)
        state.live_frontends += 1
        self.settle(index, frontend, backend, body_bytes_max, True)
        orphans = self.orphans.pop(("middleware", id), {})
        for middleware_id in sorted(orphans):
            self.put_middleware(index, id, middleware_id, orphans[middleware_id])
        return 0

    cdef int change_frontend(self, uint32_t index, str id, frontend, uint32_t backend, uint64_t body_bytes_max) except -1:
        cdef State state = self.state
        cdef FrontendSource* source = self.source(index)
        cdef bint rejected = source.flags & SOURCE_REJECTED
        cdef bint changed = (rejected or self.frontend(index).priority != frontend.priority
                             or state.source_text(source.route) != frontend.route)
        if changed and not self.try_route(index, id, frontend.route, frontend.priority, backend != NO_INDEX):
            return 0
        if not rejected:
            self.stop_waiting(index)
        if backend == NO_INDEX:
            self.unlink(index)
        elif not changed and self.frontend(index).flags & FRONTEND_WAITING:
            self.link(index, backend)
            if self.frontend(index).flags & FRONTEND_WAITING:  # only now could its route be compiled, and it cannot
                return 0
        return self.settle(index, frontend, backend, body_bytes_max, changed)

    cdef int settle(self, uint32_t index, frontend, uint32_t backend, uint64_t body_bytes_max, bint changed) except -1:
        """Writes what a frontend says into its record, when its routes are where they belong."""
        cdef State state = self.state
        cdef FrontendRecord* record = self.frontend(index)
        cdef FrontendSource* source = self.source(index)
        cdef Py_ssize_t length = 0
        cdef const char* text
        if changed:
            text = PyUnicode_AsUTF8AndSize(frontend.route, &length)
            source.route = state.texts.place(text, <uint32_t>length, 1)
            source.flags = SOURCE_IN_DELTA if backend != NO_INDEX else 0
        text = PyUnicode_AsUTF8AndSize(frontend.backend, &length)
        if compare_text(text, <uint32_t>length, state.texts.texts.data + source.backend.offset, source.backend.length) != 0:
            source.backend = state.texts.place(text, <uint32_t>length, 1)
        if record.backend != backend:
            if record.backend != NO_INDEX:
                (<uint32_t*>table_at(&state.users, record.backend))[0] -= 1
            if backend != NO_INDEX:
                (<uint32_t*>table_at(&state.users, backend))[0] += 1
        record.backend = backend
        record.flags = FRONTEND_WAITING if backend == NO_INDEX else 0
        record.priority = frontend.priority
        record.body_bytes_max = body_bytes_max
        if backend == NO_INDEX:
            self.wait(index, frontend.backend)
        return 0

    cdef int drop_frontend(self, str id) except -1:
        cdef State state = self.state
        cdef uint32_t index = self.find("frontend", id)
        cdef FrontendRecord* record
        cdef uint32_t i
        self.orphans.pop(("middleware", id), None)
        if index == NO_INDEX:
            return 0
        self.stop_waiting(index)
        self.unlink(index)
        record = self.frontend(index)
        for i in range(record.first_middleware, record.first_middleware + record.middleware_count):
            tombstone(&state.middlewares, i)
        state.dead_records += record.middleware_count + 1
        state.live_frontends -= 1
        index_drop(&state.frontend_index, &state.frontends, state.strings.texts.data, index)
        record.first_middleware = record.middleware_count = 0
        record.stat_slot = 0
        record.flags = FRONTEND_WAITING | FRONTEND_REMOVED
        memset(self.source(index), 0, sizeof(FrontendSource))
        self.touched.discard(index)
        return 0

    # ---- middlewares

    cdef int put_middleware(self, uint32_t frontend, str owner, str id, middleware) except -1:
        cdef State state = self.state
        cdef FrontendRecord* record = self.frontend(frontend)
        cdef MiddlewareRecord fresh
        cdef MiddlewareRecord* other
        cdef uint32_t known = NO_INDEX, holdings = 0, place = 0, i
        try:
            self.encoder.middleware(&fresh, owner, id, middleware, state.strings)
        except ValueError as error:
            return self.refuse("middleware", owner, id, error, "correct the middleware")
        for i in range(record.first_middleware, record.first_middleware + record.middleware_count):
            other = <MiddlewareRecord*>table_at(&state.middlewares, i)
            if other.identity == fresh.identity:
                known = i
            else:
                holdings += other.type == MIDDLEWARE_CONCURRENCY_LIMIT
        if holdings + (fresh.type == MIDDLEWARE_CONCURRENCY_LIMIT) > HOLDINGS_MAX:
            return self.refuse("middleware", owner, id, f"a frontend has at most {HOLDINGS_MAX} concurrency limits",
                               "remove one of the others")
        if known == NO_INDEX and record.middleware_count == FRONTEND_MIDDLEWARES_MAX:
            return self.refuse("middleware", owner, id, f"a frontend has at most {FRONTEND_MIDDLEWARES_MAX} middlewares",
                               "remove one of the others")
        if known != NO_INDEX:
            close_gap(&state.middlewares, known, record.first_middleware + record.middleware_count)
            record.middleware_count -= 1
            state.dead_records += 1
        while place < record.middleware_count and self.comes_before(record.first_middleware + place, &fresh):
            place += 1
        record.first_middleware = run_extend(&state.middlewares, record.first_middleware, record.middleware_count,
                                             &state.dead_records)
        other = <MiddlewareRecord*>table_at(&state.middlewares, record.first_middleware + place)
        memmove(other + 1, other, (record.middleware_count - place) * sizeof(MiddlewareRecord))
        other[0] = fresh
        record.middleware_count += 1
        return 0

    cdef bint comes_before(self, uint32_t index, const MiddlewareRecord* fresh) noexcept:
        """By `order`, then id."""
        cdef const char* strings = self.state.strings.texts.data
        cdef const MiddlewareRecord* other = <const MiddlewareRecord*>table_at(&self.state.middlewares, index)
        if other.order != fresh.order:
            return other.order < fresh.order
        return compare_text(strings + other.id.offset, other.id.length, strings + fresh.id.offset, fresh.id.length) < 0

    cdef int drop_middleware(self, uint32_t frontend, str id) except -1:
        cdef State state = self.state
        cdef FrontendRecord* record = self.frontend(frontend)
        cdef Py_ssize_t length = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
        cdef MiddlewareRecord* other
        cdef uint32_t i
        for i in range(record.first_middleware, record.first_middleware + record.middleware_count):
            other = <MiddlewareRecord*>table_at(&state.middlewares, i)
            if compare_text(text, <uint32_t>length, state.strings.texts.data + other.id.offset, other.id.length) == 0:
                close_gap(&state.middlewares, i, record.first_middleware + record.middleware_count)
                record.middleware_count -= 1
                state.dead_records += 1
                return 0
        return 0
