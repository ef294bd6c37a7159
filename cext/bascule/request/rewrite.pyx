"""See rewrite.pxd. Forwarded: RFC 7239; X-Forwarded-*: de facto; Via: RFC 9110 section 7.6.3."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from bascule.engine.connection cimport buf_get
from bascule.engine.memory cimport BUF_BYTES, Buf
from bascule.engine.system cimport AF_INET6, debug_assert, inet_ntop, memcpy
from bascule.engine.types cimport (
    CONN_UNIX,
    FRAMING_CHUNKED,
    FRAMING_LENGTH,
    HEADER_FORWARDED,
    HEADER_X_FORWARDED_FOR,
    HEADER_X_FORWARDED_HOST,
    HEADER_X_FORWARDED_PROTO,
    HEADER_X_REQUEST_ID,
    X_TRUSTED,
    X_UPGRADE,
    Conn,
    Header,
    is_mapped_v4,
)
from bascule.routing.match cimport Slice


cdef uint32_t put_text(char* out, uint32_t at, const char* text, uint32_t length) noexcept nogil:
    memcpy(out + at, text, length)
    return at + length


cdef uint32_t put_kept(char* out, uint32_t at, Head* head) noexcept nogil:
    """Copies the header lines that are not dropped, run by run."""
    cdef uint32_t i = 0
    cdef uint32_t start, end
    while i < head.count:
        if head.headers[i].dropped:
            i += 1
            continue
        start = head.headers[i].name
        while i < head.count and not head.headers[i].dropped:
            i += 1
        end = head.headers[i].name if i < head.count else head.length - 2
        memcpy(out + at, head.base + start, end - start)
        at += end - start
    return at


cdef uint32_t put_slice(char* out, uint32_t at, Slice slice) noexcept nogil:
    memcpy(out + at, slice.data, slice.length)
    return at + slice.length


cdef uint32_t put_decimal(char* out, uint32_t at, uint32_t value) noexcept nogil:
    if value >= 100:
        out[at] = <char>(c"0" + value // 100)
        at += 1
    if value >= 10:
        out[at] = <char>(c"0" + value // 10 % 10)
        at += 1
    out[at] = <char>(c"0" + value % 10)
    return at + 1


cdef uint32_t put_peer(char* out, uint32_t at, Conn* client) noexcept nogil:
    """The peer's address as text; "unknown" for Unix clients (RFC 7239 section 6)."""
    cdef uint32_t i
    if client.flags & CONN_UNIX:
        return put_text(out, at, b"unknown", 7)
    if is_mapped_v4(client.address):
        for i in range(12, 16):
            at = put_decimal(out, at, client.address[i])
            if i < 15:
                out[at] = c"."
                at += 1
        return at
    inet_ntop(AF_INET6, client.address, out + at, 46)
    return at + <uint32_t>strlen(out + at)


cdef uint32_t put_received(char* out, uint32_t at, Head* head, uint8_t id) noexcept nogil:
    """All values of a header, joined by commas (RFC 9110 section 5.3), and one more comma."""
    cdef uint32_t i
    for i in range(head.count):
        if head.headers[i].id == id and head.headers[i].value_length:
            at = put_text(out, at, head.base + head.headers[i].value, head.headers[i].value_length)
            at = put_text(out, at, b", ", 2)
    return at


cdef bint keep_if_trusted(Exchange* x, uint8_t id) noexcept nogil:
    """Whether a trusted proxy said it already; otherwise every such line is dropped."""
    cdef Head* head = &x.head
    cdef bint found = False
    cdef uint32_t i
    for i in range(head.count):
        if head.headers[i].id == id:
            if x.flags & X_TRUSTED and not found and head.headers[i].value_length:
                found = True
            else:
                head.headers[i].dropped = 1
    return found


cdef void drop_all(Head* head, uint8_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(head.count):
        if head.headers[i].id == id:
            head.headers[i].dropped = 1


cdef uint32_t put_number(char* out, uint32_t at, uint64_t value) noexcept nogil:
    """Decimal digits; snprintf costs ten times as much."""
    cdef char digits[20]
    cdef uint32_t n = 20
    while True:
        n -= 1
        digits[n] = <char>(c"0" + value % 10)
        value //= 10
        if value == 0:
            break
    memcpy(out + at, digits + n, 20 - n)
    return at + 20 - n


cdef uint64_t next_random(Engine* engine) noexcept nogil:
    """xorshift128+ (Vigna 2014), seeded from getrandom: unique enough to name requests, not a secret."""
    cdef uint64_t a = engine.random_state[0]
    cdef uint64_t b = engine.random_state[1]
    engine.random_state[0] = b
    a ^= a << 23
    engine.random_state[1] = a ^ b ^ (a >> 17) ^ (b >> 26)
    return engine.random_state[1] + b


cdef uint32_t put_request_id(Engine* engine, char* out, uint32_t at) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef uint64_t word
    cdef uint32_t _half, _i
    for _half in range(2):
        word = next_random(engine)
        for _i in range(16):
            out[at] = digits[word & 15]
            word >>= 4
            at += 1
    return at


cdef uint32_t put_forwarded(Engine* engine, Exchange* x, RequestView* view, char* out, uint32_t at) noexcept nogil:
    """X-Forwarded-For, -Proto, -Host, Forwarded and X-Request-Id: continued from trusted proxies, else begun anew."""
    cdef Head* head = &x.head
    cdef Conn* client = x.client
    cdef bint trusted = (x.flags & X_TRUSTED) != 0
    cdef bint v6 = not client.flags & CONN_UNIX and not is_mapped_v4(client.address)
    at = put_text(out, at, b"X-Forwarded-For: ", 17)
    if trusted:
        at = put_received(out, at, head, HEADER_X_FORWARDED_FOR)
    at = put_peer(out, at, client)
    if not view.said_proto:
        at = put_text(out, at, b"\r\nX-Forwarded-Proto: http", 25)
    if not view.said_host and view.authority.length:
        at = put_text(out, at, b"\r\nX-Forwarded-Host: ", 20)
        at = put_slice(out, at, view.authority)
    at = put_text(out, at, b"\r\nForwarded: ", 13)
    if trusted:
        at = put_received(out, at, head, HEADER_FORWARDED)
    at = put_text(out, at, b'for="[' if v6 else b"for=", 6 if v6 else 4)
    at = put_peer(out, at, client)
    if v6:
        at = put_text(out, at, b']"', 2)
    if view.authority.length:
        at = put_text(out, at, b';host="', 7)
        at = put_slice(out, at, view.authority)
        at = put_text(out, at, b'"', 1)
    at = put_text(out, at, b";proto=http\r\n", 13)
    if not view.said_id:
        at = put_text(out, at, b"X-Request-Id: ", 14)
        at = put_request_id(engine, out, at)
        at = put_text(out, at, b"\r\n", 2)
    return at


cdef int request_compose(Engine* engine, Exchange* x, RequestView* view) noexcept nogil:
    """The request head for the server into x.request_head."""
    cdef Buf* buf = buf_get(engine)
    cdef char* out
    cdef uint32_t at
    cdef Header* upgrade
    if buf == NULL:
        return -1
    out = buf.data
    at = put_slice(out, 0, view.method)
    at = put_text(out, at, b" ", 1)
    at = put_slice(out, at, view.path)
    if view.has_query:
        at = put_text(out, at, b"?", 1)
        at = put_slice(out, at, view.query)
    at = put_text(out, at, b" HTTP/1.1\r\n", 11)
    drop_all(&x.head, HEADER_X_FORWARDED_FOR)
    drop_all(&x.head, HEADER_FORWARDED)
    view.said_proto = keep_if_trusted(x, HEADER_X_FORWARDED_PROTO)
    view.said_host = keep_if_trusted(x, HEADER_X_FORWARDED_HOST)
    view.said_id = keep_if_trusted(x, HEADER_X_REQUEST_ID)
    if view.semantics.host >= 0:
        x.head.headers[view.semantics.host].dropped = 1
    if view.authority.length:
        at = put_text(out, at, b"Host: ", 6)
        at = put_slice(out, at, view.authority)
        at = put_text(out, at, b"\r\n", 2)
    else:
        at = put_text(out, at, b"Host: \r\n", 8)
    at = put_kept(out, at, &x.head)
    at = put_forwarded(engine, x, view, out, at)
    at = put_text(out, at, b"Via: 1.0 bascule\r\n" if view.http_10 else b"Via: 1.1 bascule\r\n", 18)
    if x.request.framing_out == FRAMING_LENGTH:
        at = put_text(out, at, b"Content-Length: ", 16)
        at = put_number(out, at, view.semantics.content_length)
        at = put_text(out, at, b"\r\n", 2)
    elif x.request.framing_out == FRAMING_CHUNKED:
        at = put_text(out, at, b"Transfer-Encoding: chunked\r\n", 28)
    if x.flags & X_UPGRADE:
        upgrade = &x.head.headers[view.semantics.upgrade]
        at = put_text(out, at, b"Connection: Upgrade\r\nUpgrade: ", 30)
        at = put_text(out, at, x.head.base + upgrade.value, upgrade.value_length)
        at = put_text(out, at, b"\r\n", 2)
    elif view.semantics.te_trailers:
        at = put_text(out, at, b"Connection: TE\r\nTE: trailers\r\n", 30)
    at = put_text(out, at, b"\r\n", 2)
    # Fits: a head has at most HEAD_BYTES_BOUND (29,696) bytes, each part of it is copied at most once but the authority (255 bytes, three
    # times), and our own lines come to less than 700 (three addresses of 46, a request id, a length, fixed text): 31,200 of 32,768.
    debug_assert(at <= BUF_BYTES)
    buf.end = at
    x.request_head = buf
    x.request_head_length = at
    return 0
