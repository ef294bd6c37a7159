"""See s9_account.pxd. Up to four objects are charged for an exchange: listener, frontend, backend, server."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport strlen

from bascule.engine.memory cimport Buf
from bascule.engine.system cimport (
    AF_INET,
    AF_INET6,
    CLOCK_REALTIME,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    clock_gettime,
    gmtime_r,
    inet_ntop,
    memchr,
    memcpy,
    send,
    strftime,
    timespec,
    tm,
    unlikely,
    write,
)
from bascule.engine.types cimport (
    LOG_FILE,
    LOG_SOCKET,
    LOG_TARGET_MAX,
    X_INHERITED,
    X_ROUTED,
    AccessLog,
    TunnelNames,
    is_mapped_v4,
)
from bascule.request.rewrite cimport put_number
from bascule.shared.snapshot cimport Str
from bascule.shared.statistics cimport (
    ERROR_NONE,
    ERROR_RETRIED,
    EVENT_LOG_LINE_LOST,
    StatBlock,
    statistics_block,
    statistics_event,
    statistics_latency,
    statistics_status_index,
)

cdef enum:
    # The longest access log line: a target of LOG_TARGET_MAX bytes escaped to four times that, four names of at most 100
    # bytes, numbers and keys. A pipe takes a write of 4096 bytes (PIPE_BUF) whole, so no line is ever cut by another's.
    LINE_MAX = 3072
    PIPE_BYTES_MAX = 4096


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
    block.in_flight -= 1
    if unlikely(x.error != ERROR_NONE):
        block.errors[x.error] += 1
    statistics_latency(&engine.statistics, block, latency_us)


cdef void account_withdraw(Engine* engine, Exchange* x) noexcept nogil:
    engine.exchange_count -= 1
    x.stat_listener.in_flight -= 1
    if x.flags & X_ROUTED:
        x.stat_frontend.in_flight -= 1
        x.stat_backend.in_flight -= 1
    if x.stat_server != NULL:
        x.stat_server.in_flight -= 1


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


cdef char* escape(char* to, const char* source, uint32_t length) noexcept nogil:
    # Log injection: everything outside printable ASCII, and the quote and backslash, leaves as \xHH.
    cdef const char* digits = b"0123456789abcdef"
    cdef uint32_t i
    cdef uint8_t c
    for i in range(length):
        c = <uint8_t>source[i]
        if c < 0x20 or c > 0x7E or c == c'"' or c == c"\\":
            to[0] = c"\\"
            to[1] = c"x"
            to[2] = digits[c >> 4]
            to[3] = digits[c & 15]
            to += 4
        else:
            to[0] = <char>c
            to += 1
    return to


cdef void log_request_line(Exchange* x, const char* data, uint32_t length) noexcept nogil:
    """Keeps the first line of what arrived, for a request that is none."""
    cdef uint32_t start = 0
    cdef uint32_t end
    while start < length and (data[start] == c"\r" or data[start] == c"\n"):
        start += 1
    end = start
    while end < length and end - start < LOG_TARGET_MAX and data[end] != c"\r" and data[end] != c"\n":
        end += 1
    memcpy(x.log_target, data + start, end - start)
    x.log_length = <uint16_t>(end - start)


cdef inline char* put(char* to, const char* text, size_t length) noexcept nogil:
    memcpy(to, text, length)
    return to + length


cdef inline char* put_literal(char* to, const char* text) noexcept nogil:
    return put(to, text, strlen(text))


cdef inline char* put_count(char* to, const char* key, uint64_t value) noexcept nogil:
    to = put_literal(to, key)
    return to + put_number(to, 0, value)


cdef inline char* put_string(char* to, Exchange* x, Str string) noexcept nogil:
    return put(to, x.snapshot.strings + string.offset, string.length)


cdef char* put_time(char* to, AccessLog* log) noexcept nogil:
    """RFC 3339 in UTC with microseconds. The calendar is asked once a second, the clock once a line (in the vDSO)."""
    cdef timespec now
    cdef tm fields
    cdef uint32_t us, i
    clock_gettime(CLOCK_REALTIME, &now)
    if now.tv_sec != log.second:
        gmtime_r(&now.tv_sec, &fields)
        strftime(log.stamp, sizeof(log.stamp), b"%Y-%m-%dT%H:%M:%S", &fields)
        log.second = now.tv_sec
    to = put_literal(to, log.stamp)
    us = <uint32_t>(now.tv_nsec // 1000)
    to[0] = c"."
    for i in range(6):
        to[6 - i] = <char>(c"0" + us % 10)
        us //= 10
    to[7] = c"Z"
    return to + 8


cdef char* put_client(char* to, Exchange* x) noexcept nogil:
    """The client as policy sees it; its own address when its head never came whole; "unix" when it has none."""
    cdef const uint8_t* address = x.client_ip
    cdef const uint64_t* words = <const uint64_t*>x.client_ip
    if words[0] == 0 and words[1] == 0:
        address = x.client.address
        words = <const uint64_t*>x.client.address
    if words[0] == 0 and words[1] == 0:
        return put_literal(to, b"unix")
    if is_mapped_v4(address):
        inet_ntop(AF_INET, address + 12, to, 48)
    else:
        inet_ntop(AF_INET6, address, to, 48)
    return to + strlen(to)


cdef char* put_outcome(char* to, Exchange* x, uint64_t latency_us) noexcept nogil:
    to = put_count(to, b" status=", x.status)
    to = put_count(to, b" in=", x.bytes_in)
    to = put_count(to, b" out=", x.bytes_out)
    to = put_count(to, b" latency_us=", latency_us)
    return put_count(to, b" retries=", x.retries)


cdef char* put_inherited(char* to, TunnelNames* names) noexcept nogil:
    cdef const char* text = names.text
    to = put(put_literal(to, b" frontend="), text, names.lengths[0])
    text += names.lengths[0]
    to = put(put_literal(to, b" backend="), text, names.lengths[1])
    text += names.lengths[1]
    return put(put_literal(to, b" server="), text, names.lengths[2])


cdef char* put_objects(char* to, Exchange* x) noexcept nogil:
    to = put(put_literal(to, b" listener="), x.client.listener.id, x.client.listener.id_length)
    if x.flags & X_INHERITED:
        return put_inherited(to, x.names)
    if x.flags & X_ROUTED:
        to = put_string(put_literal(to, b" frontend="), x, x.frontend.id)
        to = put_string(put_literal(to, b" backend="), x, x.backend.id)
    else:
        to = put_literal(to, b" frontend=- backend=-")
    if x.server_record != NULL:
        return put_string(put_literal(to, b" server="), x, x.server_record.id)
    return put_literal(to, b" server=-")


cdef uint64_t revision_of(const Exchange* x) noexcept nogil:
    if x.flags & X_INHERITED:
        return x.names.revision
    return x.snapshot.revision if x.snapshot != NULL else 0


cdef void log_line(Engine* engine, Exchange* x, uint64_t latency_us) noexcept nogil:
    """One logfmt line when an exchange ends: when, who, what, with what outcome. At most LINE_MAX bytes."""
    cdef AccessLog* log = engine.access_log
    cdef Buf* input = x.client.input
    cdef char* to
    if log.used + LINE_MAX > sizeof(log.data):
        access_log_flush(engine)
    if x.log_length == 0 and x.bytes_in == 0 and input != NULL:
        log_request_line(x, input.data + input.start, input.end - input.start)
    to = log.data + log.used
    to = put_time(put_literal(to, b"time="), log)
    to = put_client(put_literal(to, b" client="), x)
    to = put_literal(to, b" request=\"")
    to = escape(to, x.log_target, x.log_length)
    to = put_outcome(put_literal(to, b"\""), x, latency_us)
    to = put_objects(to, x)
    to = put_literal(put_literal(to, b" error="), error_name(x.error))
    to = put_count(to, b" revision=", revision_of(x))
    to[0] = c"\n"
    log.used = <uint32_t>(to + 1 - log.data)


cdef uint32_t whole_lines(const char* data, uint32_t length, uint32_t most) noexcept nogil:
    """The longest beginning of at most `most` bytes that ends with a line."""
    if length <= most:
        return length
    while most > 0 and data[most - 1] != c"\n":
        most -= 1
    return most


cdef void access_log_flush(Engine* engine) noexcept nogil:
    """One write for everything to a file, which O_APPEND keeps whole; to anything else, as many lines as go in whole.

    Never waits: what a full pipe or socket does not take is lost, and counted.
    """
    cdef AccessLog* log = engine.access_log
    cdef uint32_t done = 0
    cdef uint32_t length
    cdef ssize_t sent
    if log == NULL or log.used == 0:
        return
    while done < log.used:
        length = log.used - done
        if log.kind != LOG_FILE:
            length = whole_lines(log.data + done, length, PIPE_BYTES_MAX)
        if log.kind == LOG_SOCKET:
            sent = send(log.fd, log.data + done, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            sent = write(log.fd, log.data + done, length)
        if sent != <ssize_t>length:
            lines_lost(engine, done + (<uint32_t>sent if sent > 0 else 0), sent > 0)
            return
        done += length
    log.used = 0


cdef void lines_lost(Engine* engine, uint32_t written, bint torn) noexcept nogil:
    cdef AccessLog* log = engine.access_log
    cdef const char* at = log.data + written
    cdef const char* end = log.data + log.used
    while at < end:
        log.lost += 1
        statistics_event(&engine.statistics, EVENT_LOG_LINE_LOST, 1)
        at = <const char*>memchr(at, c"\n", end - at)
        if at == NULL:
            break
        at += 1
    log.used = 0
    if torn:  # half a line stands in the file: end it, so that the next is not read as its rest
        log.data[0] = c"\n"
        log.used = 1
