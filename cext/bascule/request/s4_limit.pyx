"""See s4_limit.pxd. RateLimit fields: draft-ietf-httpapi-ratelimit-headers; Retry-After: RFC 9110 section 10.2.3."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf

from bascule.engine.system cimport debug_assert, likely, memcpy
from bascule.engine.types cimport Header, is_mapped_v4
from bascule.request.exchange cimport exchange_reply
from bascule.shared.concurrency cimport limits_acquire
from bascule.shared.limits cimport RateDecision, limits_hash, limits_prefetch, limits_take
from bascule.shared.snapshot cimport (
    HOLDINGS_MAX,
    KEY_CLIENT_IP,
    KEY_REQUEST_HEADER,
    KEY_REQUEST_HOST,
    MIDDLEWARE_CONCURRENCY_LIMIT,
    MIDDLEWARE_RATE_LIMIT,
    MiddlewareRecord,
)
from bascule.shared.statistics cimport ERROR_CONCURRENCY_LIMITED, ERROR_RATE_LIMITED

cdef enum:
    KEY_HEADER_MAX = 256          # bytes of a header value that make part of a key


cdef uint32_t key_header(Exchange* x, const MiddlewareRecord* middleware, uint8_t* key, uint32_t at) noexcept nogil:
    cdef const char* name = x.snapshot.strings + middleware.key_header.offset
    cdef uint32_t i, k, length
    cdef Header* header
    cdef const char* received
    for i in range(x.head.count):
        header = &x.head.headers[i]
        if header.name_length != middleware.key_header.length:
            continue
        received = x.head.base + header.name
        for k in range(header.name_length):
            if received[k] != name[k] and (received[k] | 0x20) != name[k]:
                break
        else:
            length = header.value_length if header.value_length < KEY_HEADER_MAX else KEY_HEADER_MAX
            memcpy(key + at, x.head.base + header.value, length)
            return at + length
    return at


cdef uint64_t key_of(Engine* engine, Exchange* x, RequestView* view, const MiddlewareRecord* middleware) noexcept nogil:
    """The parts of the key, each behind its length, hashed with the middleware's identity."""
    cdef uint8_t key[640]
    cdef uint32_t at = 0
    cdef uint32_t start
    if middleware.key_parts & KEY_CLIENT_IP:
        # One customer holds a /64 of IPv6, so that is what is counted.
        if is_mapped_v4(x.client_ip):
            memcpy(key, x.client_ip, 16)
            at = 16
        else:
            memcpy(key, x.client_ip, 8)
            at = 8
    if middleware.key_parts & KEY_REQUEST_HOST:
        key[at] = <uint8_t>view.host.length
        memcpy(key + at + 1, view.host.data, view.host.length)
        at += 1 + view.host.length
    if middleware.key_parts & KEY_REQUEST_HEADER:
        start = at
        at = key_header(x, middleware, key, at + 1)
        key[start] = <uint8_t>(at - start - 1)
    return limits_hash(&engine.limits, middleware.identity, key, at)


cdef void refuse_rate(Engine* engine, Exchange* x, RateDecision* decision) noexcept nogil:
    cdef char headers[256]
    cdef uint64_t retry_s = (decision.retry_after_ns + 999999999) // 1000000000
    cdef uint64_t reset_s = (decision.reset_ns + 999999999) // 1000000000
    cdef int n = snprintf(
        headers, 256,
        b"Retry-After: %llu\r\nRateLimit-Limit: %u\r\nRateLimit-Remaining: %u\r\nRateLimit-Reset: %llu\r\nRateLimit-Policy: %u;w=%u\r\n",
        <unsigned long long>(retry_s if retry_s else 1), <unsigned>decision.limit, <unsigned>decision.remaining,
        <unsigned long long>reset_s, <unsigned>decision.limit, <unsigned>decision.period_s)
    exchange_reply(engine, x, 429, ERROR_RATE_LIMITED, b"the rate limit of this route is reached", headers, <uint32_t>n)


cdef void limit_begin(Engine* engine, Exchange* x, RequestView* view, LimitKeys* keys) noexcept nogil:
    cdef const MiddlewareRecord* middleware
    cdef uint32_t i
    if likely(x.frontend.middleware_count == 0) or not engine.limits_on:
        return
    for i in range(x.frontend.middleware_count):
        middleware = &x.snapshot.middlewares[x.frontend.first_middleware + i]
        keys.keys[i] = key_of(engine, x, view, middleware)
        if middleware.type == MIDDLEWARE_RATE_LIMIT:
            limits_prefetch(&engine.limits, keys.keys[i], middleware.rate_count)


cdef bint limit(Engine* engine, Exchange* x, const LimitKeys* keys) noexcept nogil:
    cdef const MiddlewareRecord* middleware
    cdef RateDecision decision
    cdef int64_t handle
    cdef uint32_t i
    if likely(x.frontend.middleware_count == 0) or not engine.limits_on:
        return True
    for i in range(x.frontend.middleware_count):
        middleware = &x.snapshot.middlewares[x.frontend.first_middleware + i]
        if middleware.type == MIDDLEWARE_RATE_LIMIT:
            limits_take(&engine.limits, keys.keys[i], middleware.rates, middleware.rate_count, engine.now_us * 1000, &decision)
            if not decision.admitted:
                refuse_rate(engine, x, &decision)
                return False
        elif middleware.type == MIDDLEWARE_CONCURRENCY_LIMIT:
            debug_assert(x.limit_count < HOLDINGS_MAX)  # snapshot_open refuses an image with more
            handle = limits_acquire(&engine.limits, keys.keys[i], middleware.concurrency_max)
            if handle < 0:
                exchange_reply(engine, x, 429, ERROR_CONCURRENCY_LIMITED,
                               b"too many requests of this client are in progress", b"Retry-After: 1\r\n", 16)
                return False
            x.limit_handles[x.limit_count] = handle
            x.limit_count += 1
    return True
