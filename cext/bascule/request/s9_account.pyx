"""See s9_account.pxd. Up to four objects are charged for an exchange: listener, frontend, backend, server."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf

from bascule.engine.system cimport AF_INET, AF_INET6, inet_ntop, unlikely, write
from bascule.engine.types cimport AccessLog, X_ROUTED, is_mapped_v4
from bascule.shared.snapshot cimport Str
from bascule.shared.statistics cimport (
    ERROR_NONE,
    ERROR_RETRIED,
    StatBlock,
    statistics_block,
    statistics_latency,
    statistics_status_index,
)

cdef enum:
    LINE_MAX = 1600               # the longest access log line


cdef void account_begin(Engine* engine, Exchange* x) noexcept nogil:
    engine.exchange_count += 1
    x.stat_listener = x.client.listener.stats
    x.stat_listener.in_flight += 1


cdef void account_route(Engine* engine, Exchange* x) noexcept nogil:
    x.stat_frontend = statistics_block(&engine.statistics, x.frontend.stat_slot)
    x.stat_backend = statistics_block(&engine.statistics, x.backend.stat_slot)
    x.stat_frontend.in_flight += 1
    x.stat_backend.in_flight += 1
    x.flags |= X_ROUTED


cdef void account_server(Engine* engine, Exchange* x, const ServerRecord* server) noexcept nogil:
    if x.stat_server != NULL:
        x.stat_server.in_flight -= 1
    x.server_record = server
    x.stat_server = statistics_block(&engine.statistics, server.stat_slot)
    x.stat_server.in_flight += 1


cdef void account_retry(Engine* engine, Exchange* x) noexcept nogil:
    x.stat_backend.errors[<uint32_t>ERROR_RETRIED] += 1
    if x.stat_server != NULL:
        x.stat_server.errors[<uint32_t>ERROR_RETRIED] += 1


cdef inline void charge(Engine* engine, StatBlock* block, Exchange* x, uint32_t status, uint64_t latency_us) noexcept nogil:
    block.requests += 1
    block.statuses[status] += 1
    block.bytes_in += x.bytes_in
    block.bytes_out += x.bytes_out
    block.latency_sum_us += latency_us
    block.in_flight -= 1
    if unlikely(x.error != ERROR_NONE):
        block.errors[x.error] += 1
    statistics_latency(&engine.statistics, block, latency_us)


cdef void account_end(Engine* engine, Exchange* x) noexcept nogil:
    """Latency counts from the first byte of the request to the last byte handed to the kernel for the client."""
    cdef uint64_t latency_us = engine.now_us - x.started_us
    cdef uint32_t status = statistics_status_index(x.status)
    engine.exchange_count -= 1
    charge(engine, x.stat_listener, x, status, latency_us)
    if x.flags & X_ROUTED:
        charge(engine, x.stat_frontend, x, status, latency_us)
        charge(engine, x.stat_backend, x, status, latency_us)
    if x.stat_server != NULL:
        charge(engine, x.stat_server, x, status, latency_us)
    if unlikely(engine.access_log != NULL):
        log_line(engine, x, latency_us)


# ---- access log --------------------------------------------------------------------------------------------------------
cdef const char* error_name(uint8_t error) noexcept nogil:
    if error == 1: return b"bad_request"
    if error == 2: return b"request_timeout"
    if error == 3: return b"too_large"
    if error == 4: return b"no_route"
    if error == 5: return b"no_server"
    if error == 6: return b"rate_limited"
    if error == 7: return b"concurrency_limited"
    if error == 8: return b"connect_failed"
    if error == 9: return b"connect_timeout"
    if error == 10: return b"response_timeout"
    if error == 11: return b"bad_response"
    if error == 12: return b"server_closed"
    if error == 13: return b"response_cut"
    if error == 14: return b"client_gone"
    if error == 15: return b"client_slow"
    if error == 16: return b"overload"
    if error == 17: return b"exchange_timeout"
    if error == 19: return b"method_refused"
    return b"-"


cdef int escape(char* to, const char* source, uint32_t length) noexcept nogil:
    # Log injection: everything outside printable ASCII, and the quote and backslash, leaves as \xHH.
    cdef const char* digits = b"0123456789abcdef"
    cdef uint32_t i
    cdef int n = 0
    cdef uint8_t c
    for i in range(length):
        c = <uint8_t>source[i]
        if c < 0x20 or c > 0x7E or c == c'"' or c == c"\\":
            to[n] = c"\\"
            to[n + 1] = c"x"
            to[n + 2] = digits[c >> 4]
            to[n + 3] = digits[c & 15]
            n += 4
        else:
            to[n] = <char>c
            n += 1
    to[n] = 0
    return n


cdef const char* text(Exchange* x, Str string, int* length) noexcept nogil:
    length[0] = <int>string.length
    return x.snapshot.strings + string.offset


cdef void log_line(Engine* engine, Exchange* x, uint64_t latency_us) noexcept nogil:
    """One logfmt line: identity, request, outcome. Time is CLOCK_MONOTONIC microseconds, as in the statistics."""
    cdef AccessLog* log = engine.access_log
    cdef char client[48]
    cdef char target[2100]
    cdef const char* frontend = b"-"
    cdef const char* backend = b"-"
    cdef const char* server = b"-"
    cdef int frontend_length = 1
    cdef int backend_length = 1
    cdef int server_length = 1
    cdef int n
    if log.used + LINE_MAX + 2100 > sizeof(log.data):
        access_log_flush(engine)
    if is_mapped_v4(x.client_ip):
        inet_ntop(AF_INET, x.client_ip + 12, client, 48)
    else:
        inet_ntop(AF_INET6, x.client_ip, client, 48)
    escape(target, x.log_target, x.log_length)
    if x.flags & X_ROUTED:
        frontend = text(x, x.frontend.id, &frontend_length)
        backend = text(x, x.backend.id, &backend_length)
    if x.server_record != NULL:
        server = text(x, x.server_record.id, &server_length)
    n = snprintf(
        log.data + log.used, sizeof(log.data) - log.used,
        b"time_us=%llu client=%s request=\"%s\" status=%u in=%llu out=%llu latency_us=%llu retries=%u listener=%.*s "
        b"frontend=%.*s backend=%.*s server=%.*s error=%s revision=%llu\n",
        <unsigned long long>engine.now_us, client, target, <unsigned>x.status, <unsigned long long>x.bytes_in,
        <unsigned long long>x.bytes_out, <unsigned long long>latency_us, <unsigned>x.retries,
        <int>x.client.listener.id_length, x.client.listener.id, frontend_length, frontend, backend_length, backend,
        server_length, server, error_name(x.error),
        <unsigned long long>(x.snapshot.revision if x.snapshot != NULL else 0))
    if n > 0 and log.used + <uint32_t>n < sizeof(log.data):
        log.used += <uint32_t>n


cdef void access_log_flush(Engine* engine) noexcept nogil:
    cdef AccessLog* log = engine.access_log
    cdef ssize_t put
    if log == NULL or log.used == 0:
        return
    put = write(log.fd, log.data, log.used)
    if put != <ssize_t>log.used:
        log.lost += 1
    log.used = 0
