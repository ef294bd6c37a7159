"""See encode.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from bascule.change.address cimport (
    AUTHORITY_BAD, AUTHORITY_NAME, SOCKADDR_BYTES_MAX, AuthorityKind, authority_parse, network_parse,
)
from bascule.shared.snapshot cimport (
    FRONTEND_MIDDLEWARES_MAX, HEAD_BYTES_BOUND, HOLDINGS_MAX, KEY_CLIENT_IP, KEY_GLOBAL, KEY_REQUEST_HEADER, KEY_REQUEST_HOST,
    LISTENER_UNIX, MIDDLEWARE_CONCURRENCY_LIMIT, MIDDLEWARE_RATE_LIMIT, SERVER_DOWN, SERVER_DRAINING, SERVER_STARTING, SERVER_UP,
)

from bascule.model import limits
from bascule.model.quantities import duration_ms, duration_ns, size_bytes

# What validation lets through is what the engine enforces: neither may be changed alone.
assert limits.HEADER_BYTES_MAX == HEAD_BYTES_BOUND
assert limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX == HOLDINGS_MAX
assert limits.MIDDLEWARES_PER_FRONTEND_MAX == FRONTEND_MIDDLEWARES_MAX
assert SOCKADDR_PLACE_MAX == SOCKADDR_BYTES_MAX

cdef enum:
    HTTP_SCHEME_LENGTH = 7        # "http://"
    RATES_MAX = 4


cdef class Encoder:
    """See encode.pxd."""

    def __cinit__(self, slot):
        self.slot = slot
        self.durations_ms = {}
        self.sizes = {}

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

    cdef uint32_t number(self, str kind, str name) except? 0:
        return <uint32_t>self.slot(kind, name)

    # ---- listeners

    cdef int listener(self, ListenerRecord* record, listener) except -1:
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
        return 0

    cdef int network(self, Network* network, str text) except -1:
        cdef Py_ssize_t length = 0
        cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length)
        if network_parse(utf8, <uint32_t>length, network) != 0:
            raise ValueError(f"{text!r} is not a network")
        return 0

    # ---- backends and their servers

    cdef int backend(self, BackendRecord* record, backend) except -1:
        record.connect_timeout_ms = self.ms(backend.connect_timeout)
        record.response_timeout_ms = self.ms(backend.response_timeout)
        record.idle_timeout_ms = self.ms(backend.idle_timeout)
        record.exchange_timeout_ms = self.ms(backend.exchange_timeout)
        record.tunnel_timeout_ms = self.ms(backend.tunnel_timeout)
        record.keepalive_timeout_ms = self.ms(backend.keepalive_timeout)
        record.idle_connections_max = backend.max_idle_connections
        return 0

    cdef int authority(self, Authority* authority, str url) except -1:
        cdef Py_ssize_t length = 0
        cdef const char* utf8 = PyUnicode_AsUTF8AndSize(url, &length)
        cdef AuthorityKind kind
        if length > HTTP_SCHEME_LENGTH and memcmp(utf8, b"http://", HTTP_SCHEME_LENGTH) == 0:
            utf8 += HTTP_SCHEME_LENGTH
            length -= HTTP_SCHEME_LENGTH
        authority.text = utf8
        authority.length = <uint32_t>length
        kind = authority_parse(utf8, <uint32_t>length, authority.sockaddr, &authority.sockaddr_length)
        if kind == AUTHORITY_BAD:
            raise ValueError(f"{url!r} is not the url of a server")
        authority.named = kind == AUTHORITY_NAME
        return 0

    cdef int server(self, ServerRecord* record, server, Strings strings) except -1:
        state = server.state
        record.weight = server.weight
        record.state = (
            SERVER_UP if state == "up" else SERVER_DRAINING if state == "draining"
            else SERVER_STARTING if state == "starting" else SERVER_DOWN
        )
        record.version = strings.intern(server.version)
        return 0

    # ---- middlewares

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

    cdef int key(self, MiddlewareRecord* record, key, Strings strings) except -1:
        for part in (key,) if isinstance(key, str) else key:
            if part == "client.ip":
                record.key_parts |= KEY_CLIENT_IP
            elif part == "request.host":
                record.key_parts |= KEY_REQUEST_HOST
            elif part == "global":
                record.key_parts |= KEY_GLOBAL
            elif part.startswith("request.header."):
                record.key_parts |= KEY_REQUEST_HEADER
                record.key_header = strings.intern(part[len("request.header."):].lower())
            else:
                raise ValueError(f"{part!r} is not a key")
        return 0

    cdef int middleware(self, MiddlewareRecord* record, str frontend_id, str middleware_id, middleware,
                        Strings strings) except -1:
        from hashlib import blake2b  # these two cost 30 ms of CPU, and a start may have no middleware

        from bascule.model.tree import RateLimit

        cdef bytes identity = blake2b(f"{frontend_id}/{middleware_id}".encode(), digest_size=8).digest()
        cdef uint32_t index
        memset(record, 0, sizeof(MiddlewareRecord))
        record.id = strings.intern(middleware_id)
        memcpy(&record.identity, PyBytes_AS_STRING(identity), sizeof(record.identity))
        record.order = middleware.order
        self.key(record, middleware.key, strings)
        if isinstance(middleware, RateLimit):
            record.type = MIDDLEWARE_RATE_LIMIT
            rates = middleware.rates()
            if not 1 <= len(rates) <= RATES_MAX:
                raise ValueError(f"{frontend_id}/{middleware_id} has {len(rates)} periods: one to four are possible")
            for index, rate in enumerate(rates):
                self.rate(&record.rates[index], rate)
            record.rate_count = <uint32_t>len(rates)
        else:
            record.type = MIDDLEWARE_CONCURRENCY_LIMIT
            record.concurrency_max = middleware.max
        return 0
