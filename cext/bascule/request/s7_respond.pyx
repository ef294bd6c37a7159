"""See s7_respond.pxd. RFC 9110 sections 15 and 7.6, RFC 9112 sections 4 and 6.3."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from bascule.codec.chunked cimport body_begin_chunked
from bascule.codec.head cimport (
    FAULT_NONE,
    HEAD_BAD,
    HEAD_COMPLETE,
    HEAD_MORE,
    HEAD_TOO_MANY,
    Semantics,
    head_begin,
    head_feed,
    head_semantics,
)
from bascule.codec.llhttp cimport F_CHUNKED
from bascule.engine.connection cimport (
    IO_CLOSED,
    IO_NO_MEMORY,
    READ_AGAIN,
    buf_free,
    buf_get,
    conn_emit,
    conn_read,
    conn_set_state,
    conn_timeout,
)
from bascule.engine.memory cimport BUF_BYTES, BUF_RESERVE
from bascule.engine.system cimport iovec, memcmp, memcpy, memmove, unlikely
from bascule.engine.timers cimport timer_set
from bascule.engine.types cimport (
    CLIENT_TUNNEL,
    DIRECTION_BODY,
    DIRECTION_DONE,
    FRAMING_CHUNKED,
    FRAMING_CLOSE,
    FRAMING_LENGTH,
    FRAMING_NONE,
    FRAMING_TUNNEL,
    INFORMATIONAL_MAX,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    SCRATCH_BYTES,
    SERVER_TUNNEL,
    X_CLIENT_10,
    X_EXPECT,
    X_HEAD_METHOD,
    X_KEEP_CLIENT,
    X_KEEP_SERVER,
    X_REPLAY,
    X_STARTED,
    X_TUNNEL,
    X_UPGRADE,
    Conn,
    Direction,
    Head,
    Header,
    head_unsent,
    output_empty,
)
from bascule.request.exchange cimport client_leaves, exchange_fail, exchange_gone, forget_replay
from bascule.request.rewrite cimport put_kept, put_number, put_text
from bascule.request.s6_forward cimport forward_lost
from bascule.request.s8_relay cimport RELAY_ENDED, relay_response, relay_response_bytes, relay_tunnel
from bascule.shared.statistics cimport ERROR_BAD_RESPONSE, ERROR_OVERLOAD, ERROR_SERVER_CLOSED

cdef enum:
    RESPONSE_HEAD_MAX = 32000     # leaves room for our own lines in Engine.compose


cdef uint32_t put_status_line(Engine* engine, Exchange* x, char* out) noexcept nogil:
    # "HTTP/1.x 200" is 12 bytes (is_plain_status_line); the reason is the server's, the version and the space before it ours.
    cdef Head* head = &x.head
    cdef uint32_t end = 12
    memcpy(out, b"HTTP/1.1", 8)
    memcpy(out + 8, head.base + 8, 4)
    out[12] = c" "
    while head.base[end] != c"\r":
        end += 1
    if end == 12:
        memcpy(out + 13, b"\r\n", 2)
        return 15
    memcpy(out + 13, head.base + 13, end + 2 - 13)
    return end + 2


cdef bint is_plain_status_line(const Head* head) noexcept nogil:
    """RFC 9112 section 4 to the letter: llhttp skips empty lines before it and lets control characters into the reason."""
    cdef const char* line = head.base
    cdef uint32_t at = 12
    cdef uint8_t c
    if head.length < 16 or memcmp(line, b"HTTP/1.", 7) != 0 or line[8] != c" ":
        return False
    if line[12] != c" " and line[12] != c"\r":
        return False
    while at + 1 < head.length and line[at] != c"\r":
        c = <uint8_t>line[at]
        if (c < 0x20 and c != c"\t") or c == 0x7F:
            return False
        at += 1
    return at + 1 < head.length and line[at + 1] == c"\n"


cdef uint32_t put_upgrade(char* out, uint32_t at, Head* head, int index) noexcept nogil:
    cdef Header* upgrade = &head.headers[index]
    at = put_text(out, at, b"Connection: Upgrade\r\nUpgrade: ", 30)
    at = put_text(out, at, head.base + upgrade.value, upgrade.value_length)
    return put_text(out, at, b"\r\n", 2)


cdef uint32_t compose(Engine* engine, Exchange* x, Semantics* s) noexcept nogil:
    """The final response head into Engine.compose; returns its length."""
    cdef char* out = engine.compose
    cdef Direction* d = &x.response
    cdef uint32_t at = put_status_line(engine, x, out)
    at = put_kept(out, at, &x.head)
    if s.has_length and x.status != 204 and (d.framing_in == FRAMING_LENGTH or d.framing_in == FRAMING_NONE):
        at = put_text(out, at, b"Content-Length: ", 16)
        at = put_number(out, at, s.content_length)
        at = put_text(out, at, b"\r\n", 2)
    elif d.framing_out == FRAMING_CHUNKED:
        at = put_text(out, at, b"Transfer-Encoding: chunked\r\n", 28)
    if not x.flags & X_KEEP_CLIENT:
        at = put_text(out, at, b"Connection: close\r\n", 19)
    elif x.flags & X_CLIENT_10:
        at = put_text(out, at, b"Connection: keep-alive\r\n", 24)
    if unlikely(x.status == 426 and s.upgrade >= 0):
        # Upgrade Required says to what (RFC 9110 section 15.5.22); other answers that only advertise a protocol need not.
        at = put_upgrade(out, at, &x.head, s.upgrade)
    return put_text(out, at, b"\r\n", 2)


cdef bint decide_framing(Engine* engine, Exchange* x, Semantics* s, bint server_10) noexcept nogil:
    """RFC 9112 section 6.3. False: the head is refused."""
    cdef Direction* d = &x.response
    if s.fault != FAULT_NONE or s.chunked != ((d.parser.flags & F_CHUNKED) != 0):
        return False
    if not s.close and (not server_10 or s.keep_alive):
        x.flags |= X_KEEP_SERVER
    if x.flags & X_HEAD_METHOD or x.status == 204 or x.status == 304:
        d.framing_in = FRAMING_NONE
    elif s.chunked:
        d.framing_in = FRAMING_CHUNKED
    elif s.has_length:
        d.framing_in = FRAMING_LENGTH if s.content_length else FRAMING_NONE
        d.remaining = s.content_length
    else:
        d.framing_in = FRAMING_CLOSE
        x.flags &= ~X_KEEP_SERVER
    d.framing_out = d.framing_in
    if d.framing_in == FRAMING_CHUNKED or d.framing_in == FRAMING_CLOSE:
        if x.flags & X_CLIENT_10:
            d.framing_out = FRAMING_CLOSE
            x.flags &= ~X_KEEP_CLIENT
        else:
            d.framing_out = FRAMING_CHUNKED
    if x.request.state != DIRECTION_DONE or x.request.out.first != NULL or client_leaves(engine, x.client):
        # An early answer: what is left of the request body must never be read as the next request.
        x.flags &= ~X_KEEP_CLIENT
    return True


cdef void continued(Engine* engine, Exchange* x) noexcept nogil:
    """100 Continue: from here on it is the client that is waited for."""
    x.flags &= ~X_EXPECT
    if x.request.state == DIRECTION_BODY and output_empty(&x.request.out):
        x.body_since_us = engine.now_us
        conn_timeout(engine, x.server, 0)
        conn_timeout(engine, x.client, x.client.listener.record.body_timeout_ms)


cdef int informational(Engine* engine, Exchange* x) noexcept nogil:
    """1xx other than 101: passed on to clients that can take it. 0, or RELAY_ENDED."""
    cdef iovec part
    cdef uint32_t at
    cdef int result
    x.informational += 1
    if x.informational > INFORMATIONAL_MAX:
        exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server sent too many 1xx responses")
        return RELAY_ENDED
    if x.flags & X_CLIENT_10 or (x.response.parser.status_code == 100 and not x.flags & X_EXPECT):
        return 0
    if x.response.parser.status_code == 100:
        continued(engine, x)
    at = put_status_line(engine, x, engine.compose)
    at = put_kept(engine.compose, at, &x.head)
    at = put_text(engine.compose, at, b"\r\n", 2)
    part.iov_base = engine.compose
    part.iov_len = at
    x.bytes_out += at
    result = conn_emit(engine, x.client, &x.response.out, &part, 1, False)
    if result == IO_CLOSED or result == IO_NO_MEMORY:
        exchange_gone(engine, x)
        return RELAY_ENDED
    return 0


cdef int switch_protocols(Engine* engine, Exchange* x, Semantics* s, const char* rest, uint32_t rest_length) noexcept nogil:
    """101: from here on both connections are a tunnel (RFC 9110 section 7.8); only if the client asked for it."""
    cdef char* out = engine.compose
    cdef uint32_t at
    cdef iovec parts[2]
    cdef int result
    if not x.flags & X_UPGRADE or s.upgrade < 0 or x.request.state != DIRECTION_DONE \
            or x.request_head_sent < x.request_head_length:
        exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server switched protocols without being asked")
        return RELAY_ENDED
    forget_replay(engine, x)
    at = put_status_line(engine, x, out)
    at = put_kept(out, at, &x.head)
    at = put_upgrade(out, at, &x.head, s.upgrade)
    at = put_text(out, at, b"\r\n", 2)
    x.status = 101
    x.flags |= X_STARTED | X_TUNNEL
    x.flags &= ~(X_KEEP_CLIENT | X_KEEP_SERVER)
    x.request.framing_in = x.request.framing_out = x.response.framing_in = x.response.framing_out = FRAMING_TUNNEL
    x.request.state = x.response.state = DIRECTION_BODY
    x.bytes_out += at + rest_length
    parts[0].iov_base = out
    parts[0].iov_len = at
    parts[1].iov_base = <void*>rest
    parts[1].iov_len = rest_length
    result = conn_emit(engine, x.client, &x.response.out, parts, 2 if rest_length else 1, False)
    buf_free(engine, &x.server.input)
    if result == IO_CLOSED or result == IO_NO_MEMORY:
        exchange_gone(engine, x)
        return RELAY_ENDED
    conn_set_state(engine, x.client, CLIENT_TUNNEL)
    conn_set_state(engine, x.server, SERVER_TUNNEL)
    conn_timeout(engine, x.client, 0)
    x.tunnel_timeout_ms = x.backend.tunnel_timeout_ms
    conn_timeout(engine, x.server, x.tunnel_timeout_ms)
    if unlikely(engine.handover.busy):
        engine.handover.starved = True  # no end of an exchange will offer it: it is found by another walk
    timer_set(&engine.wheel, &x.timer, 0)  # a tunnel outlives the limit of an exchange; silence is what ends it
    relay_tunnel(engine, x)
    return RELAY_ENDED


cdef int head_complete(Engine* engine, Exchange* x, char* base, uint32_t length) noexcept nogil:
    """A whole head at base[0 : head.length], with `length` bytes in all. 0: it was informational, read on behind it."""
    cdef Direction* d = &x.response
    cdef Semantics s
    cdef uint32_t head_length
    cdef uint16_t status = d.parser.status_code
    cdef bint server_10 = d.parser.http_minor == 0
    if unlikely(d.parser.http_major != 1 or d.parser.http_minor > 1 or status < 100 or status > 999
                or not is_plain_status_line(&x.head)):
        exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server sent a malformed response")
        return RELAY_ENDED
    head_semantics(&x.head, server_10, True, &s)
    if unlikely(status < 200):
        if status == 101:
            return switch_protocols(engine, x, &s, base + x.head.length, length - x.head.length)
        return informational(engine, x)
    if head_unsent(x):
        x.request.sink_closed = True  # answered before it read the request: the rest is not sent
        x.request.state = DIRECTION_BODY
    forget_replay(engine, x)
    x.status = status
    if unlikely(not decide_framing(engine, x, &s, server_10)):
        x.flags &= ~X_KEEP_SERVER
        exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server's response has ambiguous framing")
        return RELAY_ENDED
    head_length = compose(engine, x, &s)
    x.flags |= X_STARTED
    d.state = DIRECTION_BODY
    if d.framing_in == FRAMING_CHUNKED:
        body_begin_chunked(d)
    if relay_response_bytes(engine, x, engine.compose, head_length, base + x.head.length,
                            length - x.head.length) == RELAY_ENDED:
        return RELAY_ENDED
    if x.server != NULL:  # given back already when only the client is slow
        buf_free(engine, &x.server.input)
        conn_timeout(engine, x.server, 0)  # the time of the response head is over; relay_response sets that of its body
    # Short answers end above; what comes here has more to read or to write.
    relay_response(engine, x)
    return RELAY_ENDED


cdef int keep_partial(Engine* engine, Exchange* x, char* base, uint32_t length) noexcept nogil:
    """An incomplete head moves from the scratch into a buffer of its own."""
    cdef Conn* server = x.server
    if server.input == NULL:
        server.input = buf_get(engine)
        if server.input == NULL:
            exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of buffers")
            return RELAY_ENDED
        memcpy(server.input.data, base, length)
    elif base != server.input.data:
        # Behind an informational head: the rest of the buffer becomes its beginning.
        memmove(server.input.data, base, length)
    server.input.end = length
    return 0


cdef void respond_read(Engine* engine, Exchange* x) noexcept nogil:
    """Reads until the final response head is complete. The server connection is BUSY, the response in DIRECTION_HEAD."""
    cdef Direction* d = &x.response
    cdef Conn* server = x.server
    cdef char* base
    cdef uint32_t fed, length, room
    cdef int got, result
    while server.ready & (READY_READ | READY_EOF | READY_ERROR):
        if server.input == NULL:
            base = engine.scratch + BUF_RESERVE
            fed = 0
            room = SCRATCH_BYTES
        else:
            base = server.input.data
            fed = server.input.end
            room = BUF_BYTES - fed
        got = conn_read(engine, server, base + fed, room)
        if got == READ_AGAIN:
            continue
        if unlikely(got <= 0):
            if fed or x.informational:
                exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server closed inside its response head")
            else:
                forward_lost(engine, x, 502, ERROR_SERVER_CLOSED, b"the server closed the connection without answering")
            return
        if fed == 0 and x.informational == 0:
            head_begin(d, &x.head, True)
            x.flags &= ~X_REPLAY  # the first byte rules out a retry; what is unsent may still be wanted after a 1xx
        length = fed + <uint32_t>got
        while True:
            result = head_feed(d, &x.head, base, fed, length)
            if result != HEAD_COMPLETE:
                break
            if x.head.length > RESPONSE_HEAD_MAX:
                break
            if head_complete(engine, x, base, length) == RELAY_ENDED:
                return
            base += x.head.length
            length -= x.head.length
            fed = 0
            head_begin(d, &x.head, True)
            if length == 0:
                result = HEAD_MORE
                break
        if result == HEAD_BAD or result == HEAD_TOO_MANY:
            exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server sent a malformed response head")
            return
        if result == HEAD_COMPLETE or length >= RESPONSE_HEAD_MAX:
            exchange_fail(engine, x, 502, ERROR_BAD_RESPONSE, b"the server's response head is too large")
            return
        if length == 0:
            buf_free(engine, &server.input)
        elif keep_partial(engine, x, base, length) == RELAY_ENDED:
            return
