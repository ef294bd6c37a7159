"""See state.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

from bascule.change.encode cimport Authority, Encoder
from bascule.change.tables cimport (
    Strings, Table, TextIndex, index_add, index_find, index_free, table_add, table_at, table_free, table_init, table_load,
    table_reserve,
)
from bascule.routing.clauses cimport Clauses
from bascule.shared.seal cimport Part, SealedImage
from bascule.shared.snapshot cimport (
    FRONTEND_REMOVED, FRONTEND_WAITING, NO_INDEX, SECTION_LISTENERS, SECTION_STRINGS, SERVER_NAMED, BackendRecord, FrontendRecord,
    ImageHeader, ListenerRecord, MiddlewareRecord, Network, ServerRecord, Str,
)

import os

from bascule.change.compiled import RejectedRoute
from bascule.routing.errors import RouteError

cdef extern from "<stdlib.h>" nogil:
    void qsort_r(void* base, size_t count, size_t size, int (*compare)(const void*, const void*, void*) noexcept nogil,
                 void* argument)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    AUTHORITY_PLACE = 16          # of ServerRecord.authority, asserted below
    HTTP_SCHEME_LENGTH = 7
    ROUTES_BETWEEN_YIELDS = 512   # about a third of a millisecond
    GARBAGE_RECORDS_MIN = 1024
    GARBAGE_BYTES_MIN = 65536
    GARBAGE_SHARE = 8             # of records and bytes: more than 1/8 is folded away

cdef ServerRecord _probe
assert <char*>&_probe.authority - <char*>&_probe == AUTHORITY_PLACE


cdef struct Sorting:              # argument of compare_records
    const Table* table
    const char* strings


cdef int compare_records(const void* a, const void* b, void* sorting) noexcept nogil:
    """By id, which every record begins with; bytes order UTF-8 as code points do."""
    cdef const Sorting* by = <const Sorting*>sorting
    cdef Str x, y
    memcpy(&x, table_at(by.table, (<const uint32_t*>a)[0]), sizeof(Str))
    memcpy(&y, table_at(by.table, (<const uint32_t*>b)[0]), sizeof(Str))
    cdef int result = memcmp(by.strings + x.offset, by.strings + y.offset, min(x.length, y.length))
    return result if result else (x.length > y.length) - (x.length < y.length)


cdef uint64_t sort_live(const Table* table, const char* strings, uint32_t* order, bint frontends) noexcept nogil:
    """Indices of the records that are no tombstones, by id; how many."""
    cdef Sorting by
    cdef uint64_t count = 0
    cdef uint32_t i
    cdef bint sorted_ = True
    by.table = table
    by.strings = strings
    for i in range(table.count):
        if (<Str*>table_at(table, i)).length == 0:
            continue
        if frontends and (<FrontendRecord*>table_at(table, i)).flags & FRONTEND_REMOVED:
            continue
        order[count] = i
        if sorted_ and count and compare_records(&order[count - 1], &order[count], &by) > 0:
            sorted_ = False
        count += 1
    if not sorted_:
        qsort_r(order, count, sizeof(uint32_t), compare_records, &by)
    return count


cdef uint32_t* new_order(const Table* table) except NULL:
    cdef uint32_t* order = <uint32_t*>malloc((table.count + 1) * sizeof(uint32_t))
    if order == NULL:
        raise MemoryError
    return order


# ---- runs

cdef void tombstone(Table* table, uint32_t record) noexcept nogil:
    memset(table_at(table, record), 0, table.record_size)
    if table.record_size == sizeof(ServerRecord):
        (<ServerRecord*>table_at(table, record)).backend = NO_INDEX


cdef uint32_t run_extend(Table* table, uint32_t first, uint32_t count, uint64_t* dead) except? 0xFFFFFFFF:
    cdef uint32_t end = first + count
    cdef uint32_t room = 1 + count // 2 if count else 1
    cdef uint32_t i, moved
    if count and end < table.count and (<Str*>table_at(table, end)).length == 0:
        dead[0] -= 1
        return first
    if count and end == table.count:
        table_add(table, 1)
        return first
    moved = <uint32_t>table.count
    table_add(table, count + room)
    memcpy(table_at(table, moved), table_at(table, first), count * table.record_size)
    for i in range(count, count + room):
        tombstone(table, moved + i)
    for i in range(count):
        tombstone(table, first + i)
    dead[0] += count + room - 1
    return moved


cdef class State:
    """See state.pxd."""

    def __cinit__(self):
        self.strings = Strings()
        self.texts = Strings()
        table_init(&self.listeners, sizeof(ListenerRecord))
        table_init(&self.backends, sizeof(BackendRecord))
        table_init(&self.servers, sizeof(ServerRecord))
        table_init(&self.frontends, sizeof(FrontendRecord))
        table_init(&self.middlewares, sizeof(MiddlewareRecord))
        table_init(&self.networks, sizeof(Network))
        table_init(&self.sources, sizeof(FrontendSource))
        table_init(&self.users, sizeof(uint32_t))

    def __dealloc__(self):
        self.unload()
        table_free(&self.sources)

    cdef str text(self, Str text):
        return PyUnicode_DecodeUTF8(self.strings.texts.data + text.offset, text.length, NULL) if text.length else ""

    cdef str source_text(self, Str text):
        return PyUnicode_DecodeUTF8(self.texts.texts.data + text.offset, text.length, NULL) if text.length else ""

    # ---- from a tree

    cdef int fill(self, Encoder encoder, tree, addresses, list unresolved, list waiting) except -1:
        """Compiles a tree; the order of everything is that of the ids, so equal trees give equal bytes."""
        for listener_id in sorted(tree.listeners):
            self.add_listener(encoder, listener_id, tree.listeners[listener_id])
        self.fill_backends(encoder, tree.backends, addresses, unresolved)
        self.fill_frontends(encoder, tree.frontends, waiting)
        self.clean_bytes = self.strings.texts.used + self.texts.texts.used
        return 0

    cdef int add_listener(self, Encoder encoder, str listener_id, listener) except -1:
        cdef ListenerRecord* record = <ListenerRecord*>table_add(&self.listeners, 1)
        record.id = self.strings.intern(listener_id)
        record.stat_slot = encoder.number("listener", listener_id)
        self.add_networks(encoder, record, listener.trusted_proxies)
        return encoder.listener(record, listener)

    cdef int add_networks(self, Encoder encoder, ListenerRecord* record, tuple texts) except -1:
        record.first_network = <uint32_t>self.networks.count
        for text in texts:
            encoder.network(<Network*>table_add(&self.networks, 1), text)
        record.network_count = <uint32_t>self.networks.count - record.first_network
        return 0

    cdef int set_address(self, ServerRecord* record, bytes sockaddr) except -1:
        if sockaddr is None:
            record.address.offset = record.address.length = 0
        else:
            record.address = self.strings.place(PyBytes_AS_STRING(sockaddr), <uint32_t>PyBytes_GET_SIZE(sockaddr), 8)
        return 0

    cdef int fill_servers(self, Encoder encoder, str backend_id, dict servers, uint32_t backend, TextIndex* authorities,
                          addresses, list unresolved) except -1:
        """Servers of several backends often share an authority, so each distinct one is stored once."""
        cdef ServerRecord* record
        cdef Authority authority
        cdef uint32_t known
        for server_id in sorted(servers) if len(servers) > 1 else servers:
            server = servers[server_id]
            record = <ServerRecord*>table_add(&self.servers, 1)
            record.id = self.strings.intern(server_id)
            record.backend = backend
            encoder.authority(&authority, server.url)
            record.flags = SERVER_NAMED if authority.named else 0
            known = index_find(authorities, &self.servers, self.strings.texts.data, authority.text, authority.length)
            if known != NO_INDEX:
                record.authority = (<ServerRecord*>table_at(&self.servers, known)).authority
                record.address = (<ServerRecord*>table_at(&self.servers, known)).address
            else:
                record.authority = self.strings.place(authority.text, authority.length, 1)
                if not authority.named:
                    record.address = self.strings.place(<const char*>authority.sockaddr, authority.sockaddr_length, 8)
                else:
                    self.set_address(record, addresses.get(server.url[HTTP_SCHEME_LENGTH:]))
                    if record.address.length == 0:
                        unresolved.append(server.url[HTTP_SCHEME_LENGTH:])
                index_add(authorities, &self.servers, self.strings.texts.data, <uint32_t>self.servers.count - 1)
            encoder.server(record, server, self.strings)
            record.stat_slot = encoder.number("server", f"{backend_id}/{server_id}")
        return 0

    cdef int fill_backends(self, Encoder encoder, dict backends, addresses, list unresolved) except -1:
        cdef BackendRecord* record
        cdef TextIndex authorities
        cdef uint32_t index = 0
        cdef uint64_t servers = 0
        cdef object previous = None
        cdef object backend
        memset(&authorities, 0, sizeof(authorities))
        authorities.place = AUTHORITY_PLACE
        table_reserve(&self.backends, len(backends))
        for backend in backends.values():
            servers += <uint64_t>len(backend.servers)
        table_reserve(&self.servers, servers)
        try:
            for backend_id in sorted(backends):
                backend = backends[backend_id]
                record = <BackendRecord*>table_add(&self.backends, 1)
                if backend is previous:       # routes files repeat a pool many times over
                    record[0] = (record - 1)[0]
                else:
                    encoder.backend(record, backend)
                    previous = backend
                record.id = self.strings.intern(backend_id)
                record.stat_slot = encoder.number("backend", backend_id)
                record.first_server = <uint32_t>self.servers.count
                record.server_count = <uint32_t>len(backend.servers)
                self.fill_servers(encoder, backend_id, backend.servers, index, &authorities, addresses, unresolved)
                index_add(&self.backend_index, &self.backends, self.strings.texts.data, index)
                index += 1
        finally:
            index_free(&authorities)
        self.live_backends = self.backends.count
        self.live_servers = self.servers.count
        return 0

    cdef int fill_frontends(self, Encoder encoder, dict frontends, list waiting) except -1:
        cdef FrontendRecord* record
        cdef FrontendSource* source
        cdef Py_ssize_t length = 0
        cdef const char* text
        cdef str previous = None
        cdef str route, backend
        cdef Str place
        table_reserve(&self.frontends, len(frontends))
        table_reserve(&self.sources, len(frontends))
        for frontend_id in sorted(frontends):
            frontend = frontends[frontend_id]
            record = <FrontendRecord*>table_add(&self.frontends, 1)
            source = <FrontendSource*>table_add(&self.sources, 1)
            record.id = self.strings.intern(frontend_id)
            record.stat_slot = encoder.number("frontend", frontend_id)
            record.priority = frontend.priority
            record.body_bytes_max = encoder.bytes_of(frontend.max_body_bytes)
            route = frontend.route
            backend = frontend.backend
            text = PyUnicode_AsUTF8AndSize(route, &length)
            source.route = self.texts.place(text, <uint32_t>length, 1)
            text = PyUnicode_AsUTF8AndSize(backend, &length)
            if backend is not previous:
                place = self.texts.place(text, <uint32_t>length, 1)
                previous = backend
            source.backend = place
            record.backend = index_find(&self.backend_index, &self.backends, self.strings.texts.data, text, <uint32_t>length)
            if record.backend == NO_INDEX:
                record.flags = FRONTEND_WAITING
                waiting.append(frontend_id)
            record.first_middleware = <uint32_t>self.middlewares.count
            own = frontend.middlewares
            if own:
                for _, middleware_id in sorted([(own[name].order, name) for name in own]):
                    encoder.middleware(<MiddlewareRecord*>table_add(&self.middlewares, 1), frontend_id, middleware_id,
                                       own[middleware_id], self.strings)
            record.middleware_count = <uint32_t>self.middlewares.count - record.first_middleware
        self.live_frontends = self.frontends.count
        return 0

    cdef list route(self, Clauses clauses):
        cdef FrontendRecord* record
        cdef FrontendSource* source
        cdef list rejected = []
        cdef uint32_t i
        for i in range(self.frontends.count):
            record = <FrontendRecord*>table_at(&self.frontends, i)
            source = <FrontendSource*>table_at(&self.sources, i)
            if record.flags & FRONTEND_WAITING:
                continue
            if i % ROUTES_BETWEEN_YIELDS == ROUTES_BETWEEN_YIELDS - 1:
                with nogil:
                    sched_yield()
            try:
                clauses.add_utf8(i, self.strings.texts.data + record.id.offset, record.id.length,
                                 self.texts.texts.data + source.route.offset, source.route.length, record.priority)
                source.flags |= SOURCE_IN_BASE
            except RouteError as error:
                record.backend = NO_INDEX
                record.flags = FRONTEND_WAITING
                source.flags |= SOURCE_REJECTED
                rejected.append(RejectedRoute(self.text(record.id), self.source_text(source.route), error.message,
                                              error.position, error.remedy))
        return rejected

    # ---- to and from an image

    cdef void record_parts(self, Part* parts) noexcept:
        cdef Table* tables[6]
        cdef int i
        tables[0], tables[1], tables[2] = &self.listeners, &self.backends, &self.servers
        tables[3], tables[4], tables[5] = &self.frontends, &self.middlewares, &self.networks
        parts[0].number = SECTION_STRINGS
        parts[0].data = self.strings.texts.data
        parts[0].size = self.strings.texts.used
        for i in range(6):
            parts[i + 1].number = SECTION_LISTENERS + i
            parts[i + 1].data = tables[i].data
            parts[i + 1].size = tables[i].count * tables[i].record_size

    cdef int load(self, SealedImage image) except -1:
        cdef const char* base
        cdef const ImageHeader* header
        cdef Table* tables[6]
        cdef int i
        tables[0], tables[1], tables[2] = &self.listeners, &self.backends, &self.servers
        tables[3], tables[4], tables[5] = &self.frontends, &self.middlewares, &self.networks
        base = <const char*>mmap(NULL, image.size, PROT_READ, MAP_SHARED, image.fd, 0)
        if base == <const char*>MAP_FAILED:
            raise OSError(errno, os.strerror(errno), "the memfd of a snapshot")
        header = <const ImageHeader*>base
        try:
            self.strings.load(base + header.sections[<int>SECTION_STRINGS].offset, header.sections[<int>SECTION_STRINGS].size)
            for i in range(6):
                table_load(tables[i], base + header.sections[SECTION_LISTENERS + i].offset,
                           header.sections[SECTION_LISTENERS + i].size)
        finally:
            munmap(<void*>base, image.size)
        return 0

    cdef void unload(self) noexcept:
        cdef Strings empty = Strings()
        self.strings = empty
        table_free(&self.listeners)
        table_free(&self.backends)
        table_free(&self.servers)
        table_free(&self.frontends)
        table_free(&self.middlewares)
        table_free(&self.networks)
        table_free(&self.users)
        index_free(&self.backend_index)
        index_free(&self.frontend_index)
        self.indexed = False

    cdef int index(self) except -1:
        """What edits need to find their way; a whole tree is compiled without."""
        cdef FrontendRecord* frontend
        cdef uint32_t i
        if self.indexed:
            return 0
        index_free(&self.backend_index)
        table_free(&self.users)
        for i in range(self.backends.count):
            index_add(&self.backend_index, &self.backends, self.strings.texts.data, i)
        if self.backends.count:
            table_add(&self.users, self.backends.count)
        for i in range(self.frontends.count):
            frontend = <FrontendRecord*>table_at(&self.frontends, i)
            if frontend.flags & FRONTEND_REMOVED:
                continue
            index_add(&self.frontend_index, &self.frontends, self.strings.texts.data, i)
            if frontend.backend != NO_INDEX:
                (<uint32_t*>table_at(&self.users, frontend.backend))[0] += 1
        self.indexed = True
        return 0

    # ---- without garbage

    cdef bint garbage_due(self) noexcept:
        cdef uint64_t records = self.backends.count + self.servers.count + self.frontends.count + self.middlewares.count
        cdef uint64_t used = self.strings.texts.used + self.texts.texts.used
        return (self.dead_records > max(<uint64_t>GARBAGE_RECORDS_MIN, records // GARBAGE_SHARE)
                or used > self.clean_bytes + max(<uint64_t>GARBAGE_BYTES_MIN, self.clean_bytes // GARBAGE_SHARE))

    cdef State folded(self):
        """The same content as a whole tree would be compiled to, byte for byte."""
        cdef State target = State()
        cdef ListenerRecord* listener
        cdef uint32_t* order = NULL
        cdef uint32_t* moved = NULL
        cdef uint64_t count
        cdef uint32_t i
        for i in range(self.listeners.count):  # they are kept in order, and their networks without garbage
            listener = <ListenerRecord*>table_add(&target.listeners, 1)
            listener[0] = (<ListenerRecord*>table_at(&self.listeners, i))[0]
            listener.id = target.strings.intern_bytes(self.strings.texts.data + listener.id.offset, listener.id.length)
        table_load(&target.networks, self.networks.data, self.networks.count * sizeof(Network))
        moved = new_order(&self.backends)
        try:
            fold_backends(self, target, moved)
            order = new_order(&self.frontends)
            table_reserve(&target.frontends, self.live_frontends)
            table_reserve(&target.sources, self.live_frontends)
            count = sort_live(&self.frontends, self.strings.texts.data, order, True)
            for i in range(count):
                self.fold_frontend(target, order[i], moved)
        finally:
            free(order)
            free(moved)
        target.live_backends, target.live_servers = self.live_backends, self.live_servers
        target.live_frontends = self.live_frontends
        target.clean_bytes = target.strings.texts.used + target.texts.texts.used
        return target

    cdef int fold_servers(self, State target, const BackendRecord* old, uint32_t backend, TextIndex* authorities) except -1:
        cdef const char* strings = self.strings.texts.data
        cdef const ServerRecord* server
        cdef ServerRecord* record
        cdef uint32_t known, i
        for i in range(old.first_server, old.first_server + old.server_count):
            server = <const ServerRecord*>table_at(&self.servers, i)
            record = <ServerRecord*>table_add(&target.servers, 1)
            record[0] = server[0]
            record.backend = backend
            record.id = target.strings.intern_bytes(strings + server.id.offset, server.id.length)
            known = index_find(authorities, &target.servers, target.strings.texts.data, strings + server.authority.offset,
                               server.authority.length)
            if known != NO_INDEX:
                record.authority = (<ServerRecord*>table_at(&target.servers, known)).authority
                record.address = (<ServerRecord*>table_at(&target.servers, known)).address
            else:
                record.authority = target.strings.place(strings + server.authority.offset, server.authority.length, 1)
                if server.address.length:
                    record.address = target.strings.place(strings + server.address.offset, server.address.length, 8)
                index_add(authorities, &target.servers, target.strings.texts.data, <uint32_t>target.servers.count - 1)
            record.version = target.strings.intern_bytes(strings + server.version.offset, server.version.length)
        return 0

    cdef int fold_frontend(self, State target, uint32_t old, const uint32_t* backends) except -1:
        cdef const char* strings = self.strings.texts.data
        cdef const char* texts = self.texts.texts.data
        cdef const FrontendSource* known = <const FrontendSource*>table_at(&self.sources, old)
        cdef FrontendRecord* record = <FrontendRecord*>table_add(&target.frontends, 1)
        cdef FrontendSource* source = <FrontendSource*>table_add(&target.sources, 1)
        cdef MiddlewareRecord* middleware
        cdef Str backend
        cdef uint32_t i
        record[0] = (<FrontendRecord*>table_at(&self.frontends, old))[0]
        record.id = target.strings.intern_bytes(strings + record.id.offset, record.id.length)
        if record.backend != NO_INDEX:
            record.backend = backends[record.backend]
        source.flags = known.flags & SOURCE_REJECTED
        source.route = target.texts.place(texts + known.route.offset, known.route.length, 1)
        if target.sources.count > 1:
            backend = (source - 1).backend
            if backend.length == known.backend.length and memcmp(
                    target.texts.texts.data + backend.offset, texts + known.backend.offset, backend.length) == 0:
                source.backend = backend
        if source.backend.length == 0:
            source.backend = target.texts.place(texts + known.backend.offset, known.backend.length, 1)
        for i in range(record.first_middleware, record.first_middleware + record.middleware_count):
            middleware = <MiddlewareRecord*>table_add(&target.middlewares, 1)
            middleware[0] = (<MiddlewareRecord*>table_at(&self.middlewares, i))[0]
            middleware.id = target.strings.intern_bytes(strings + middleware.id.offset, middleware.id.length)
            middleware.key_header = target.strings.intern_bytes(strings + middleware.key_header.offset,
                                                                middleware.key_header.length)
        record.first_middleware = <uint32_t>target.middlewares.count - record.middleware_count
        return 0


cdef int fold_backends(State source, State target, uint32_t* moved) except -1:
    """Backends and servers; `moved` gets the new index of each old one."""
    cdef uint32_t* order = new_order(&source.backends)
    cdef BackendRecord* record
    cdef const BackendRecord* old
    cdef TextIndex authorities
    cdef uint64_t count
    cdef uint32_t i
    memset(&authorities, 0, sizeof(authorities))
    authorities.place = AUTHORITY_PLACE
    try:
        table_reserve(&target.backends, source.live_backends)
        table_reserve(&target.servers, source.live_servers)
        count = sort_live(&source.backends, source.strings.texts.data, order, False)
        for i in range(count):
            old = <const BackendRecord*>table_at(&source.backends, order[i])
            moved[order[i]] = i
            record = <BackendRecord*>table_add(&target.backends, 1)
            record[0] = old[0]
            record.id = target.strings.intern_bytes(source.strings.texts.data + old.id.offset, old.id.length)
            record.first_server = <uint32_t>target.servers.count
            source.fold_servers(target, old, i, &authorities)
    finally:
        free(order)
        index_free(&authorities)
    return 0
