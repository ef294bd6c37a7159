"""The snapshot compiler. Records are written straight into the bytes object that becomes the section: no copy, no struct.pack.

Order is the order of ids, so equal trees give equal bytes, whatever order their text was in. The compiler keeps nothing:
its dictionaries die with the call, and the caller may drop the tree (docs/life-of-a-change.md, "What the master keeps").
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from bascule.change.address cimport (
    AUTHORITY_BAD, AUTHORITY_NAME, SOCKADDR_BYTES_MAX, AuthorityKind, authority_parse, network_parse,
)
from bascule.shared.snapshot cimport (
    FRONTEND_MIDDLEWARES_MAX, FRONTEND_WAITING, HEAD_BYTES_BOUND,
    HOLDINGS_MAX, KEY_CLIENT_IP, KEY_GLOBAL, KEY_REQUEST_HEADER, KEY_REQUEST_HOST, LISTENER_UNIX,
    MIDDLEWARE_CONCURRENCY_LIMIT, MIDDLEWARE_RATE_LIMIT, NO_INDEX, SECTION_BACKENDS, SECTION_FRONTENDS,
    SECTION_LISTENERS, SECTION_MIDDLEWARES, SECTION_NETWORKS, SECTION_SERVERS, SECTION_STRINGS, SERVER_DOWN,
    SERVER_DRAINING, SERVER_STARTING, SERVER_UP, BackendRecord, FrontendRecord, ListenerRecord, MiddlewareRecord, Network, RateSpec,
    ServerRecord, Str,
)

from bascule.change.compiled import CompiledSnapshot, RejectedRoute
from bascule.model import limits
from bascule.model.quantities import duration_ms, duration_ns, size_bytes
from bascule.routing.compile import RouteCompiler
from bascule.routing.errors import RouteError
from bascule.shared.snapshot import assemble

# What validation lets through is what the engine enforces: neither may be changed alone.
assert limits.HEADER_BYTES_MAX == HEAD_BYTES_BOUND
assert limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX == HOLDINGS_MAX
assert limits.MIDDLEWARES_PER_FRONTEND_MAX == FRONTEND_MIDDLEWARES_MAX

cdef enum:
    STRINGS_MAX = 0xFFFFFFF0      # Str.offset is uint32
    HTTP_SCHEME_LENGTH = 7        # "http://"


@cython.internal
@cython.final
cdef class Strings:
    """The STRINGS section while it grows: each text once, in order of first use; sockaddrs 8-byte aligned."""

    cdef dict offsets             # text -> offset
    cdef char* data
    cdef uint64_t size
    cdef uint64_t capacity

    def __cinit__(self):
        self.offsets = {}
        self.data = NULL
        self.size = 0
        self.capacity = 0

    def __dealloc__(self):
        free(self.data)

    cdef uint32_t append(self, const char* text, uint64_t length, uint64_t alignment) except? 0:
        cdef uint64_t offset = (self.size + alignment - 1) // alignment * alignment
        cdef uint64_t capacity = self.capacity
        cdef char* grown
        if offset + length > STRINGS_MAX:
            raise ValueError("the strings of the configuration exceed 4 GiB")
        if offset + length > capacity:
            capacity = 2 * (offset + length) + 4096
            grown = <char*>realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError()
            self.data = grown
            self.capacity = capacity
        memset(self.data + self.size, 0, offset - self.size)
        memcpy(self.data + offset, text, length)
        self.size = offset + length
        return <uint32_t>offset

    cdef Str intern(self, str text) except *:
        cdef Str result
        cdef Py_ssize_t length
        cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length)
        cdef object known
        result.offset = 0
        result.length = <uint32_t>length
        if length:
            known = self.offsets.get(text)
            if known is None:
                result.offset = self.append(utf8, length, 1)
                self.offsets[text] = result.offset
            else:
                result.offset = <uint32_t>known
        return result

    cdef Str place(self, const char* data, uint64_t length, uint64_t alignment) except *:
        """Add bytes that are known to be new."""
        cdef Str result
        result.offset = self.append(data, length, alignment)
        result.length = <uint32_t>length
        return result

    cdef bytes section(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


cdef bytes zeroed(uint64_t count, uint64_t record_size):
    """A section of `count` empty records, to be written in place before anyone else sees it."""
    cdef bytes section = PyBytes_FromStringAndSize(NULL, count * record_size)
    memset(PyBytes_AS_STRING(section), 0, count * record_size)
    return section


@cython.internal
@cython.final
cdef class Compilation:
    """One run of the compiler."""

    cdef Strings strings
    cdef object slot
    cdef object addresses
    cdef dict durations_ms        # text -> milliseconds: a tree repeats a handful of durations many thousand times
    cdef dict sizes               # text or number -> bytes
    cdef dict backend_index
    cdef dict url_index           # url -> the first server record that has it
    cdef list unresolved
    cdef list waiting
    cdef list rejected

    def __cinit__(self, slot, addresses):
        self.strings = Strings()
        self.slot = slot
        self.addresses = addresses
        self.durations_ms = {}
        self.sizes = {}
        self.backend_index = {}
        self.url_index = {}
        self.unresolved = []
        self.waiting = []
        self.rejected = []

    cdef uint32_t ms(self, str text) except? 0:
        cdef object value = self.durations_ms.get(text)
        if value is None:
            value = self.durations_ms[text] = duration_ms(text)
        return <uint32_t>value

    cdef uint64_t bytes_of(self, object size) except? 0:
        cdef object value = self.sizes.get(size)
        if value is None:
            value = self.sizes[size] = size_bytes(size)
        return <uint64_t>value

    # ---- listeners

    cdef int networks(self, tuple texts, list into) except -1:
        cdef Network network
        cdef Py_ssize_t length
        cdef const char* utf8
        for text in texts:
            utf8 = PyUnicode_AsUTF8AndSize(text, &length)
            if network_parse(utf8, <uint32_t>length, &network) != 0:
                raise ValueError(f"{text!r} is not a network")
            into.append(PyBytes_FromStringAndSize(<char*>&network, sizeof(Network)))
        return 0

    cdef tuple listeners(self, dict listeners):
        """Return the LISTENERS and the NETWORKS section."""
        cdef list ids = sorted(listeners)
        cdef list networks = []
        cdef bytes section = zeroed(len(ids), sizeof(ListenerRecord))
        cdef ListenerRecord* record = <ListenerRecord*>PyBytes_AS_STRING(section)
        for listener_id in ids:
            listener = listeners[listener_id]
            record.id = self.strings.intern(listener_id)
            record.stat_slot = self.slot("listener", listener_id)
            record.first_network = <uint32_t>len(networks)
            self.networks(listener.trusted_proxies, networks)
            record.network_count = <uint32_t>len(networks) - record.first_network
            record.header_timeout_ms = self.ms(listener.header_timeout)
            record.keepalive_timeout_ms = self.ms(listener.keepalive_timeout)
            record.body_timeout_ms = self.ms(listener.body_timeout)
            record.body_rate_min = listener.body_rate_min
            record.head_bytes_max = <uint32_t>self.bytes_of(listener.max_header_bytes)
            record.uri_bytes_max = <uint32_t>self.bytes_of(listener.max_uri_bytes)
            record.connections_max = listener.max_connections
            record.connections_per_address_max = listener.max_connections_per_address
            record.flags = LISTENER_UNIX if listener.address.startswith("unix:") else 0
            record.body_bytes_max = self.bytes_of(listener.max_body_bytes)
            record += 1
        return section, b"".join(networks)

    # ---- backends and their servers

    cdef int address(self, ServerRecord* records, uint32_t index, str url) except -1:
        """Write the authority of a server, and its address when it is a literal or has been resolved.

        Servers of several backends often share a url, so each distinct one is read once and copied from its first record.
        """
        cdef ServerRecord* record = records + index
        cdef ServerRecord* first
        cdef uint8_t sockaddr[SOCKADDR_BYTES_MAX]
        cdef uint32_t sockaddr_length
        cdef Py_ssize_t length
        cdef const char* utf8
        cdef AuthorityKind kind
        cdef object known = self.url_index.get(url)
        if known is not None:
            first = records + <uint32_t>known
            record.authority = first.authority
            record.address = first.address
            return 0
        self.url_index[url] = index
        utf8 = PyUnicode_AsUTF8AndSize(url, &length)
        if length > HTTP_SCHEME_LENGTH and memcmp(utf8, b"http://", HTTP_SCHEME_LENGTH) == 0:
            utf8 += HTTP_SCHEME_LENGTH
            length -= HTTP_SCHEME_LENGTH
        kind = authority_parse(utf8, <uint32_t>length, sockaddr, &sockaddr_length)
        if kind == AUTHORITY_BAD:
            raise ValueError(f"{url!r} is not the url of a server")
        record.authority = self.strings.place(utf8, length, 1)
        if kind != AUTHORITY_NAME:
            record.address = self.strings.place(<const char*>sockaddr, sockaddr_length, 8)
            return 0
        return self.resolved(record, url[HTTP_SCHEME_LENGTH:])

    cdef int resolved(self, ServerRecord* record, str authority) except -1:
        cdef bytes sockaddr = self.addresses.get(authority)
        if sockaddr is None:
            self.unresolved.append(authority)
        else:
            record.address = self.strings.place(PyBytes_AS_STRING(sockaddr), PyBytes_GET_SIZE(sockaddr), 8)
        return 0

    cdef int servers(self, str backend_id, dict servers, uint32_t backend_index, ServerRecord* records,
                     uint32_t index) except -1:
        cdef ServerRecord* record
        for server_id in sorted(servers) if len(servers) > 1 else servers:
            server = servers[server_id]
            record = records + index
            record.id = self.strings.intern(server_id)
            self.address(records, index, server.url)
            record.version = self.strings.intern(server.version)
            record.stat_slot = self.slot("server", f"{backend_id}/{server_id}")
            record.backend = backend_index
            record.weight = server.weight
            state = server.state
            record.state = (
                SERVER_UP if state == "up" else SERVER_DRAINING if state == "draining"
                else SERVER_STARTING if state == "starting" else SERVER_DOWN
            )
            index += 1
        return 0

    cdef int backend_timeouts(self, BackendRecord* record, backend) except -1:
        record.connect_timeout_ms = self.ms(backend.connect_timeout)
        record.response_timeout_ms = self.ms(backend.response_timeout)
        record.idle_timeout_ms = self.ms(backend.idle_timeout)
        record.exchange_timeout_ms = self.ms(backend.exchange_timeout)
        record.tunnel_timeout_ms = self.ms(backend.tunnel_timeout)
        record.keepalive_timeout_ms = self.ms(backend.keepalive_timeout)
        record.idle_connections_max = backend.max_idle_connections
        return 0

    cdef tuple backends(self, dict backends):
        """Return the BACKENDS and the SERVERS section."""
        cdef list ids = sorted(backends)
        cdef bytes section = zeroed(len(ids), sizeof(BackendRecord))
        cdef BackendRecord* record = <BackendRecord*>PyBytes_AS_STRING(section)
        cdef uint32_t index = 0, server_index = 0, server_total = 0
        cdef bytes server_section
        cdef ServerRecord* server_records
        cdef dict servers
        cdef object previous = None
        for backend in backends.values():
            server_total += <uint32_t>len(backend.servers)
        server_section = zeroed(server_total, sizeof(ServerRecord))
        server_records = <ServerRecord*>PyBytes_AS_STRING(server_section)
        for backend_id in ids:
            backend = backends[backend_id]
            servers = backend.servers
            self.backend_index[backend_id] = index
            if backend is previous:       # routes files repeat a pool many times over
                record[0] = (record - 1)[0]
            else:
                self.backend_timeouts(record, backend)
                previous = backend
            record.id = self.strings.intern(backend_id)
            record.stat_slot = self.slot("backend", backend_id)
            record.first_server = server_index
            record.server_count = <uint32_t>len(servers)
            self.servers(backend_id, servers, index, server_records, server_index)
            server_index += record.server_count
            record += 1
            index += 1
        return section, server_section

    # ---- frontends and their middlewares

    cdef int rate(self, RateSpec* spec, rate) except -1:
        """GCRA: one request every T = period / requests, and burst requests at once."""
        cdef uint64_t period_ns = duration_ns(rate.period)
        cdef uint64_t requests = rate.requests
        cdef uint64_t burst = requests if rate.burst is None else rate.burst
        spec.interval_ns = period_ns // requests or 1
        spec.tolerance_ns = spec.interval_ns * (burst - 1)
        spec.requests = <uint32_t>requests
        spec.period_s = <uint32_t>((period_ns + 999999999) // 1000000000)
        return 0

    cdef int key(self, MiddlewareRecord* record, key) except -1:
        for part in (key,) if isinstance(key, str) else key:
            if part == "client.ip":
                record.key_parts |= KEY_CLIENT_IP
            elif part == "request.host":
                record.key_parts |= KEY_REQUEST_HOST
            elif part == "global":
                record.key_parts |= KEY_GLOBAL
            elif part.startswith("request.header."):
                record.key_parts |= KEY_REQUEST_HEADER
                record.key_header = self.strings.intern(part[len("request.header."):].lower())
            else:
                raise ValueError(f"{part!r} is not a key")
        return 0

    cdef bytes middleware(self, str frontend_id, str middleware_id, middleware):
        from hashlib import blake2b  # these two cost 30 ms of CPU, and a start may have no middleware

        from bascule.model.tree import RateLimit

        cdef bytes section = zeroed(1, sizeof(MiddlewareRecord))
        cdef MiddlewareRecord* record = <MiddlewareRecord*>PyBytes_AS_STRING(section)
        cdef bytes identity = blake2b(f"{frontend_id}/{middleware_id}".encode(), digest_size=8).digest()
        cdef uint32_t index
        record.id = self.strings.intern(middleware_id)
        memcpy(&record.identity, PyBytes_AS_STRING(identity), sizeof(record.identity))
        self.key(record, middleware.key)
        if isinstance(middleware, RateLimit):
            record.type = MIDDLEWARE_RATE_LIMIT
            rates = middleware.rates()
            if len(rates) > 4:
                raise ValueError(f"{frontend_id}/{middleware_id} has more than four periods")
            for index, rate in enumerate(rates):
                self.rate(&record.rates[index], rate)
            record.rate_count = <uint32_t>len(rates)
        else:
            record.type = MIDDLEWARE_CONCURRENCY_LIMIT
            record.concurrency_max = middleware.max
        return section

    cdef int route(self, FrontendRecord* record, uint32_t index, str frontend_id, frontend, routes) except -1:
        """Give the route to the route compiler, unless it cannot lead anywhere (yet)."""
        cdef object backend = self.backend_index.get(frontend.backend)
        record.backend = NO_INDEX
        record.flags = FRONTEND_WAITING
        if backend is None:
            self.waiting.append(frontend_id)
            return 0
        try:
            routes.add(index, frontend_id, frontend.route, frontend.priority)
        except RouteError as error:
            self.rejected.append(
                RejectedRoute(frontend_id, frontend.route, error.message, error.position, error.remedy))
            return 0
        record.backend = backend
        record.flags = 0
        return 0

    cdef tuple frontends(self, dict frontends, routes):
        """Return the FRONTENDS and the MIDDLEWARES section."""
        cdef list ids = sorted(frontends)
        cdef list middlewares = []
        cdef bytes section = zeroed(len(ids), sizeof(FrontendRecord))
        cdef FrontendRecord* record = <FrontendRecord*>PyBytes_AS_STRING(section)
        cdef uint32_t index = 0
        cdef dict own
        for frontend_id in ids:
            frontend = frontends[frontend_id]
            record.id = self.strings.intern(frontend_id)
            record.stat_slot = self.slot("frontend", frontend_id)
            self.route(record, index, frontend_id, frontend, routes)
            record.priority = frontend.priority
            record.body_bytes_max = self.bytes_of(frontend.max_body_bytes)
            record.first_middleware = <uint32_t>len(middlewares)
            own = frontend.middlewares
            if own:
                for _, middleware_id in sorted([(own[name].order, name) for name in own]):
                    middlewares.append(self.middleware(frontend_id, middleware_id, own[middleware_id]))
            record.middleware_count = <uint32_t>len(middlewares) - record.first_middleware
            record += 1
            index += 1
        return section, b"".join(middlewares)


def compile_snapshot(tree, *, revision, slot, addresses):
    """Compile a tree that change.validate found no error in; see compile.pyi."""
    cdef Compilation run = Compilation(slot, addresses)
    routes = RouteCompiler()
    sections = {}
    sections[SECTION_LISTENERS], sections[SECTION_NETWORKS] = run.listeners(tree.listeners)
    sections[SECTION_BACKENDS], sections[SECTION_SERVERS] = run.backends(tree.backends)
    sections[SECTION_FRONTENDS], sections[SECTION_MIDDLEWARES] = run.frontends(tree.frontends, routes)
    sections[SECTION_STRINGS] = run.strings.section()
    sections.update(routes.sections())
    return CompiledSnapshot(
        image=assemble(revision, sections),
        revision=revision,
        conflicts=tuple(routes.conflicts()),
        waiting=tuple(run.waiting),
        rejected=tuple(run.rejected),
        unresolved=tuple(sorted(set(run.unresolved))),
        listeners=len(tree.listeners),
        backends=len(tree.backends),
        servers=PyBytes_GET_SIZE(sections[SECTION_SERVERS]) // sizeof(ServerRecord),
        frontends=len(tree.frontends),
    )
