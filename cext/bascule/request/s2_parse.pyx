"""See s2_parse.pxd. RFC 9112 sections 3 (request line, target forms, Host) and 6.3 (framing); DESIGN section 8."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from bascule.codec.chunked cimport body_begin_chunked
from bascule.codec.head cimport (
    FAULT_NONE,
    HEAD_COMPLETE,
    HEAD_MORE,
    HEAD_TOO_MANY,
    head_feed,
    head_semantics,
    list_has_token,
)
from bascule.codec.llhttp cimport (
    F_CHUNKED,
    METHOD_CONNECT,
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_OPTIONS,
    METHOD_PUT,
    METHOD_TRACE,
)
from bascule.codec.token cimport same_authority, same_token
from bascule.engine.connection cimport (
    READ_AGAIN,
    buf_free,
    buf_get,
    conn_close,
    conn_read,
    conn_set_state,
    conn_timeout,
    run_later,
)
from bascule.engine.memory cimport BUF_BYTES, Buf
from bascule.engine.system cimport likely, memcmp, memcpy, memmove, memset, unlikely
from bascule.engine.types cimport (
    CLIENT_EXCHANGE,
    CLIENT_HEAD,
    DIRECTION_BODY,
    DIRECTION_DONE,
    FRAMING_CHUNKED,
    FRAMING_LENGTH,
    LOG_TARGET_MAX,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    SCRATCH_BYTES,
    X_CLIENT_10,
    X_EXPECT,
    X_HEAD_METHOD,
    X_IDEMPOTENT,
    X_KEEP_CLIENT,
    X_REPLAY,
    X_UPGRADE,
    Head,
    Header,
    ListenerRuntime,
)
from bascule.request.client cimport identify_client
from bascule.request.exchange cimport exchange_begin, exchange_gone, exchange_reply
from bascule.request.s9_account cimport log_request_line
from bascule.routing.path cimport PATH_REFUSED, PATH_REWRITTEN, path_canonical
from bascule.shared.statistics cimport ERROR_BAD_REQUEST, ERROR_METHOD_REFUSED, ERROR_TOO_LARGE

cdef enum:
    METHODS_MAX = 64


# ---- the target and the authority ------------------------------------------------------------------------------------------
cdef bint host_char(uint8_t c) noexcept nogil:
    # RFC 3986 section 3.2.2 reg-name and IP-literal, with the port's colon; no user information, no separators.
    return (c >= c"a" and c <= c"z") or (c >= c"A" and c <= c"Z") or (c >= c"0" and c <= c"9") or c == c"." or c == c"-" \
        or c == c":" or c == c"_" or c == c"[" or c == c"]" or c == c"~"


cdef bint take_authority(RequestView* view) noexcept nogil:
    """Checks view.authority and fills view.host: lower case, without port."""
    cdef uint32_t length = view.authority.length
    cdef const char* text = view.authority.data
    cdef uint32_t i, digits
    cdef uint32_t end = length
    if length > 255:
        return False
    for i in range(length):
        if not host_char(<uint8_t>text[i]):
            return False
        view.host_lower[i] = text[i] | 0x20 if c"A" <= text[i] <= c"Z" else text[i]
    if length and text[0] == c"[":
        for i in range(length):
            if text[i] == c"]":
                end = i + 1
                break
        else:
            return False
        if end < length and text[end] != c":":
            return False
    else:
        for i in range(length):
            if text[i] == c":":
                end = i
                break
    digits = length - end
    if digits > 6:
        return False
    for i in range(end + 1, length):
        if text[i] < c"0" or text[i] > c"9":
            return False
    view.host.data = view.host_lower
    view.host.length = end
    return True


cdef const char* split_target(Engine* engine, Exchange* x, RequestView* view, const char* target, uint32_t length) noexcept nogil:
    """Fills path, query and, for the absolute form, the authority. Returns what is wrong, or NULL."""
    cdef uint32_t i
    cdef uint32_t canonical_length = 0
    cdef int result
    if length == 1 and target[0] == c"*":
        if x.method != METHOD_OPTIONS:
            return b"the target * is for OPTIONS alone"
        view.path.data = target
        view.path.length = 1
        return NULL
    if target[0] != c"/":
        # absolute-form: http://authority[/path][?query]
        if length < 8 or not same_token(target, 4, b"http", 4) or memcmp(target + 4, b"://", 3) != 0:
            return b"the request target must be a path or an absolute http URL"
        i = 7
        while i < length and target[i] != c"/" and target[i] != c"?":
            i += 1
        if i == 7:
            return b"the request target has no host"
        if view.authority.length == 0 and view.http_10:
            view.authority.data = target + 7  # HTTP/1.0 knows no Host header
            view.authority.length = i - 7
            if not take_authority(view):
                return b"the request target has no valid host"
        elif not same_authority(view.authority.data, view.authority.length, target + 7, i - 7):
            return b"the Host header and the request target name different hosts"
        target += i
        length -= i
        if length == 0 and x.method == METHOD_OPTIONS:  # RFC 9112 section 3.2.4
            view.path.data = b"*"
            view.path.length = 1
            return NULL
    for i in range(length):
        if target[i] == c"?":
            view.has_query = True
            view.query.data = target + i + 1
            view.query.length = length - i - 1
            length = i
            break
    if length == 0:
        view.path.data = b"/"
        view.path.length = 1
        return NULL
    for i in range(view.query.length):
        if <uint8_t>view.query.data[i] <= 0x20 or <uint8_t>view.query.data[i] >= 0x7F or view.query.data[i] == c"#":
            return b"the query has characters that must be percent-encoded"
    result = path_canonical(target, length, engine.compose, &canonical_length)
    if unlikely(result == PATH_REFUSED):
        return b"the path has no safe canonical form"
    view.path.data = target
    if result == PATH_REWRITTEN:
        view.path.data = engine.compose
    view.path.length = canonical_length if result == PATH_REWRITTEN else length
    return NULL


# ---- the checks of a whole head ----------------------------------------------------------------------------------------------
cdef void log_target(Exchange* x, RequestView* view) noexcept nogil:
    cdef uint32_t method = view.method.length
    cdef uint32_t url = x.head.url_length
    if method + 1 + url > LOG_TARGET_MAX:
        url = LOG_TARGET_MAX - method - 1
    memcpy(x.log_target, view.method.data, method)
    x.log_target[method] = c" "
    memcpy(x.log_target + method + 1, x.head.base + x.head.url, url)
    x.log_length = <uint16_t>(method + 1 + url)


cdef bint refuse(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why) noexcept nogil:
    x.flags &= ~X_KEEP_CLIENT
    exchange_reply(engine, x, status, error, why, NULL, 0)
    return False


cdef bint check_framing(Engine* engine, Exchange* x, RequestView* view) noexcept nogil:
    cdef ListenerRuntime* listener = x.client.listener
    if unlikely(view.semantics.fault != FAULT_NONE
                or view.semantics.chunked != ((x.request.parser.flags & F_CHUNKED) != 0)):
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, b"ambiguous or invalid message framing")
    if view.semantics.chunked:
        x.request.framing_in = x.request.framing_out = FRAMING_CHUNKED
    elif view.semantics.has_length:
        x.request.framing_in = FRAMING_LENGTH
        x.request.framing_out = FRAMING_LENGTH
        x.request.remaining = view.semantics.content_length
    x.body_bytes_max = listener.record.body_bytes_max
    if x.body_bytes_max and view.semantics.content_length > x.body_bytes_max:
        return refuse(engine, x, 413, ERROR_TOO_LARGE, b"the request body is larger than this listener allows")
    return True


cdef bint is_plain_request_line(const Head* head) noexcept nogil:
    """Exactly one space on each side of the target, and a version behind it (RFC 9112 section 3: no leniency)."""
    cdef const char* after = head.base + head.url + head.url_length
    cdef uint32_t i = 0
    while i + 1 < head.url and head.base[i] == c"\r" and head.base[i + 1] == c"\n":
        i += 2  # empty lines before a request are skipped (section 2.2), half ones are not
    if head.base[i] == c"\r" or head.base[i] == c"\n":
        return False
    if head.url < 2 or head.base[head.url - 2] == c" ":
        return False
    return head.url + head.url_length + 11 <= head.length and memcmp(after, b" HTTP/", 6) == 0 and after[9] == c"\r"


cdef bint check_request(Engine* engine, Exchange* x, RequestView* view) noexcept nogil:
    """Everything that can be refused before routing. False: refused, the exchange may be gone."""
    cdef Header* host
    cdef const char* wrong
    cdef uint8_t major = x.request.parser.http_major
    cdef uint8_t minor = x.request.parser.http_minor
    if unlikely(not is_plain_request_line(&x.head)):
        log_request_line(x, x.head.base, x.head.length)
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, b"the request line is not: method, one space, target, one space, version")
    x.method = x.request.parser.method
    view.method.data = x.head.base
    view.method.length = x.head.url - 1
    while view.method.data[0] == c"\r" or view.method.data[0] == c"\n":  # empty lines before the request
        view.method.data += 1
        view.method.length -= 1
    if engine.access_log != NULL:
        log_target(x, view)
    if unlikely(major != 1 or minor > 1):
        return refuse(engine, x, 505, ERROR_BAD_REQUEST, b"only HTTP/1.0 and HTTP/1.1 are spoken here")
    view.http_10 = minor == 0
    if view.http_10:
        x.flags |= X_CLIENT_10
    head_semantics(&x.head, view.http_10, False, &view.semantics)
    if x.method == METHOD_HEAD:
        x.flags |= X_HEAD_METHOD | X_IDEMPOTENT
    elif x.method == METHOD_GET or x.method == METHOD_PUT or x.method == METHOD_DELETE or x.method == METHOD_OPTIONS \
            or x.method == METHOD_TRACE:
        x.flags |= X_IDEMPOTENT
    if not view.semantics.close and (not view.http_10 or view.semantics.keep_alive):
        x.flags |= X_KEEP_CLIENT
    identify_client(x)
    if unlikely(x.head.length > x.client.listener.record.head_bytes_max):
        return refuse(engine, x, 431, ERROR_TOO_LARGE, b"the request head is too large")
    if unlikely(x.head.url_length > x.client.listener.record.uri_bytes_max):
        return refuse(engine, x, 414, ERROR_TOO_LARGE, b"the request target is too long")
    if unlikely(x.method == METHOD_CONNECT):
        x.flags &= ~X_KEEP_CLIENT
        # RFC 9110 section 15.5.6: a 405 names what is allowed. Of a target that is an authority nothing is, and an empty list says so.
        exchange_reply(engine, x, 405, ERROR_METHOD_REFUSED, b"CONNECT is not served here", b"Allow: \r\n", 9)
        return False
    if not check_framing(engine, x, view):
        return False
    if unlikely(view.semantics.host_count > 1 or (view.semantics.host_count == 0 and not view.http_10)):
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, b"exactly one Host header is required")
    if unlikely(view.semantics.host >= 0 and x.head.headers[view.semantics.host].value_length == 0 and not view.http_10):
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, b"the Host header is empty")
    if likely(view.semantics.host >= 0):
        host = &x.head.headers[view.semantics.host]
        view.authority.data = x.head.base + host.value
        view.authority.length = host.value_length
    if unlikely(not take_authority(view)):
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, b"the Host header is not a host with an optional port")
    wrong = split_target(engine, x, view, x.head.base + x.head.url, x.head.url_length)
    if unlikely(wrong != NULL):
        return refuse(engine, x, 400, ERROR_BAD_REQUEST, wrong)
    view.route_path = view.path
    if view.path.length == 1 and view.path.data[0] == c"*":
        view.route_path.data = b"/"
    if unlikely(view.semantics.expect >= 0 and view.http_10):
        x.head.headers[view.semantics.expect].dropped = 1  # HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1)
    elif view.semantics.expect >= 0:
        host = &x.head.headers[view.semantics.expect]
        if not same_token(x.head.base + host.value, host.value_length, b"100-continue", 12):
            return refuse(engine, x, 417, ERROR_BAD_REQUEST, b"the only expectation known is 100-continue")
        x.flags |= X_EXPECT
    return True


cdef void take_body(Exchange* x, RequestView* view) noexcept nogil:
    """Decides what of the input belongs to this request and leaves with its head."""
    cdef Buf* input = x.client.input
    cdef uint32_t here = input.end - input.start
    cdef Header* upgrade
    x.flags |= X_REPLAY
    if x.request.framing_in == FRAMING_CHUNKED:
        x.request.state = DIRECTION_BODY
        body_begin_chunked(&x.request)
        x.flags &= ~X_REPLAY  # decoded in place: cannot be sent twice
        return
    if x.request.framing_in == FRAMING_LENGTH and x.request.remaining:
        x.prefix_length = here if here < x.request.remaining else <uint32_t>x.request.remaining
        x.request.remaining -= x.prefix_length
        x.request.bytes = x.prefix_length
        x.bytes_in += x.prefix_length
        x.request.state = DIRECTION_BODY if x.request.remaining else DIRECTION_DONE
        return
    x.request.state = DIRECTION_DONE
    if view.semantics.connection_upgrade and view.semantics.upgrade >= 0 and not view.http_10:
        upgrade = &x.head.headers[view.semantics.upgrade]
        # An h2c tunnel would carry requests past every rule of ours (RFC 9113 deprecates it).
        if not list_has_token(x.head.base + upgrade.value, upgrade.value_length, b"h2c", 3):
            x.flags |= X_UPGRADE


# ---- reading ---------------------------------------------------------------------------------------------------------------
cdef int read_more(Engine* engine, Conn* client) noexcept nogil:
    """More bytes into the client's input: 1 got some, 0 nothing now, -1 the connection is gone (and closed)."""
    cdef Buf* input
    cdef int got
    if not client.ready & (READY_READ | READY_EOF | READY_ERROR):
        return 0
    if client.input == NULL:
        client.input = buf_get(engine)
        if unlikely(client.input == NULL):
            engine.accept_failures += 1
            conn_close(engine, client, False)
            return -1
    input = client.input
    if input.end == BUF_BYTES and input.start > 0:
        memmove(input.data, input.data + input.start, input.end - input.start)
        input.end -= input.start
        input.start = 0
    got = conn_read(engine, client, input.data + input.end, BUF_BYTES - input.end)
    if likely(got > 0):
        input.end += <uint32_t>got
        return 1
    if got == READ_AGAIN:
        if input.end == input.start:
            buf_free(engine, &client.input)
        return 0
    if client.exchange != NULL:
        exchange_gone(engine, client.exchange)
    else:
        conn_close(engine, client, False)
    return -1


cdef void head_is_late(Engine* engine, Exchange* x) noexcept nogil:
    """Still incomplete: bounds, and the deadline for the whole head (not re-armed by further bytes)."""
    cdef ListenerRuntime* listener = x.client.listener
    if x.head.url_length > listener.record.uri_bytes_max:
        exchange_reply(engine, x, 414, ERROR_TOO_LARGE, b"the request target is too long", NULL, 0)
    elif x.fed >= listener.record.head_bytes_max:
        exchange_reply(engine, x, 431, ERROR_TOO_LARGE, b"the request head is too large", NULL, 0)


cdef void client_read(Engine* engine, Conn* client, request_ready ready) noexcept nogil:
    """Reads and parses until a request is whole, then hands it over. The client is CLIENT_IDLE or CLIENT_HEAD.

    One request at a time: bytes behind it wait in the input until its exchange has ended (pipelining, answered in order).
    """
    cdef RequestView view
    cdef Exchange* x
    cdef Buf* input
    cdef uint32_t here
    cdef int result
    while True:
        input = client.input
        x = client.exchange
        if input == NULL or input.end - input.start == (x.fed if x != NULL else 0):
            if read_more(engine, client) != 1:
                return
            input = client.input
        if x == NULL:
            x = exchange_begin(engine, client)
            if unlikely(x == NULL):
                engine.accept_failures += 1
                conn_close(engine, client, False)
                return
            conn_set_state(engine, client, CLIENT_HEAD)
            conn_timeout(engine, client, client.listener.record.header_timeout_ms)
        here = input.end - input.start
        result = head_feed(&x.request, &x.head, input.data + input.start, x.fed, here)
        x.fed = here
        if result == HEAD_MORE:
            head_is_late(engine, x)
            if client.exchange != x:
                return
            continue
        break
    conn_timeout(engine, client, 0)
    conn_set_state(engine, client, CLIENT_EXCHANGE)
    if unlikely(result != HEAD_COMPLETE):
        if result == HEAD_TOO_MANY:
            refuse(engine, x, 431, ERROR_TOO_LARGE, b"too many header fields")
        else:
            refuse(engine, x, 400, ERROR_BAD_REQUEST, b"malformed request")
        return
    input.start += x.head.length
    x.bytes_in += x.head.length
    memset(&view, 0, sizeof(view) - 256)
    if not check_request(engine, x, &view):
        return
    take_body(x, &view)
    ready(engine, x, &view)


cdef void client_linger(Engine* engine, Conn* client) noexcept nogil:
    """Discards what a client sends after its answer, until it closes or the linger time is over."""
    cdef int got
    cdef int _turn
    for _turn in range(16):
        if not client.ready & (READY_READ | READY_EOF | READY_ERROR):
            return
        got = conn_read(engine, client, engine.scratch, SCRATCH_BYTES)
        if got <= 0 and got != READ_AGAIN:
            conn_close(engine, client, False)
            return
    run_later(engine, client)  # a full socket gives no further edge
