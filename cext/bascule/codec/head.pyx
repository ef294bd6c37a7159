"""See head.pxd. RFC 9112 sections 2-7, RFC 9110 section 7.6.1 for Connection."""

from bascule.codec.chunked cimport chunked_bind
from bascule.codec.llhttp cimport (
    F_CHUNKED,
    HPE_OK,
    HPE_PAUSED,
    LLHTTP_REQUEST,
    LLHTTP_RESPONSE,
    LlhttpTable,
    llhttp_bind,
    llhttp_settings_t,
    llhttp_t,
    llhttp_table,
)
from bascule.codec.scan cimport scan_request, scan_response
from bascule.codec.token cimport same_token
from bascule.engine.system cimport BASCULE_DEBUG, debug_assert, likely, unlikely
from bascule.engine.types cimport (
    HEADER_ALIAS,
    HEADER_CONNECTION,
    HEADER_CONTENT_LENGTH,
    HEADER_EXPECT,
    HEADER_FORWARDED,
    HEADER_HOST,
    HEADER_KEEP_ALIVE,
    HEADER_OTHER,
    HEADER_PROXY_AUTHENTICATE,
    HEADER_PROXY_CONNECTION,
    HEADER_TE,
    HEADER_TRAILER,
    HEADER_TRANSFER_ENCODING,
    HEADER_UPGRADE,
    HEADER_VIA,
    HEADER_X_FORWARDED_FOR,
    HEADER_X_FORWARDED_HOST,
    HEADER_X_FORWARDED_PROTO,
    HEADER_X_REQUEST_ID,
    HEADERS_MAX,
)

cdef llhttp_settings_t head_settings
cdef LlhttpTable* parser_table

cdef enum:
    CONNECTIONS_MAX = 8           # Connection headers of one head
    ABORT = -1                    # any value llhttp does not know stops it


# ---- callbacks while a head is read (parser.data is the Head) -----------------------------------------------------------
cdef int on_url(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    cdef Head* head = <Head*>parser.data
    if head.url_length == 0:
        head.url = <uint32_t>(at - head.base)
    head.url_length += <uint32_t>length
    return 0


cdef int on_field(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    # A name may come in pieces, but pieces are contiguous: the head stays in one buffer while it is read.
    cdef Head* head = <Head*>parser.data
    cdef uint32_t offset = <uint32_t>(at - head.base)
    cdef Header* header
    if head.count > 0 and not head.in_value:
        header = &head.headers[head.count - 1]
        if header.name + header.name_length == offset:
            header.name_length += <uint16_t>length
            return 0
    if unlikely(head.count == HEADERS_MAX):
        head.error = <uint8_t>(-HEAD_TOO_MANY)
        return ABORT
    header = &head.headers[head.count]
    head.count += 1
    header.name = offset
    header.name_length = <uint16_t>length
    header.value = offset
    header.value_length = 0
    header.dropped = 0
    head.in_value = False
    return 0


cdef int on_value(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    cdef Head* head = <Head*>parser.data
    cdef Header* header = &head.headers[head.count - 1]
    if not head.in_value:
        header.value = <uint32_t>(at - head.base)
        header.value_length = <uint16_t>length
        head.in_value = True
    else:
        header.value_length = <uint16_t>(at + length - head.base - header.value)
    return 0


cdef int on_value_complete(llhttp_t* parser) noexcept nogil:
    (<Head*>parser.data).in_value = True
    return 0


cdef int on_pause(llhttp_t* parser) noexcept nogil:
    return HPE_PAUSED


cdef void heads_bind() noexcept nogil:
    """Fills the callback tables; after llhttp_bind."""
    global parser_table
    parser_table = llhttp_table()
    parser_table.settings_init(&head_settings)
    head_settings.on_url = on_url
    head_settings.on_header_field = on_field
    head_settings.on_header_value = on_value
    head_settings.on_header_value_complete = on_value_complete
    head_settings.on_headers_complete = on_pause
    chunked_bind()


# ---- feeding -----------------------------------------------------------------------------------------------------------
cdef void head_begin(Direction* direction, Head* head, bint response) noexcept nogil:
    direction.llhttp_begun = False
    direction.is_response = response
    head.length = 0
    head.count = 0
    head.url_length = 0
    head.error = 0
    head.in_value = False


cdef inline uint32_t head_scan(Direction* direction, Head* head, const char* base, uint32_t end) noexcept nogil:
    if direction.is_response:
        return scan_response(head, &direction.parser, base, end)
    return scan_request(head, &direction.parser, base, end)


cdef int head_feed(Direction* direction, Head* head, const char* base, uint32_t start, uint32_t end) noexcept nogil:
    """Parses bytes [start, end) of `base`; earlier bytes of the head were fed before. `base` must not move meanwhile.

    A head that is whole and plain in the first bytes fed is read by the scanner; any other by llhttp, from its beginning.
    """
    head.base = base
    if likely(not direction.llhttp_begun):
        debug_assert(start == 0)
        head.length = head_scan(direction, head, base, end)
        if likely(head.length != 0):
            if BASCULE_DEBUG:
                debug_assert(llhttp_agrees(direction, head))
            return HEAD_COMPLETE
    return head_feed_llhttp(direction, head, base, start, end)


cdef int head_feed_llhttp(Direction* direction, Head* head, const char* base, uint32_t start, uint32_t end) noexcept nogil:
    cdef int error
    head.base = base
    if not direction.llhttp_begun:
        head.url_length = 0  # the scanner may have got that far
        parser_table.init(&direction.parser, LLHTTP_RESPONSE if direction.is_response else LLHTTP_REQUEST, &head_settings)
        direction.parser.data = head
        direction.llhttp_begun = True
    error = parser_table.execute(&direction.parser, base + start, end - start)
    if likely(error == HPE_PAUSED):
        head.length = <uint32_t>(direction.parser.error_pos - base)
        return HEAD_COMPLETE
    if error == HPE_OK:
        return HEAD_MORE
    return HEAD_TOO_MANY if head.error else HEAD_BAD


cdef inline uint16_t trimmed(const Head* head, const Header* header) noexcept nogil:
    cdef const char* value = head.base + header.value
    cdef uint16_t length = header.value_length
    while length and (value[length - 1] == c" " or value[length - 1] == c"\t"):
        length -= 1
    return length


cdef bint llhttp_agrees(const Direction* direction, const Head* head) noexcept nogil:
    """Whether llhttp reads the head as the scanner did: the promise of scan.pxd, kept by every test of a debug build."""
    cdef const llhttp_t* scanned = &direction.parser
    cdef Direction other
    cdef Head whole
    cdef uint32_t i
    cdef const Header* a
    cdef const Header* b
    head_begin(&other, &whole, direction.is_response)
    if head_feed_llhttp(&other, &whole, head.base, 0, head.length) != HEAD_COMPLETE or whole.length != head.length:
        return False
    if other.parser.http_major != scanned.http_major or other.parser.http_minor != scanned.http_minor \
            or (other.parser.flags & F_CHUNKED) != scanned.flags or whole.count != head.count:
        return False
    if direction.is_response:
        if other.parser.status_code != scanned.status_code:
            return False
    elif other.parser.method != scanned.method or whole.url != head.url or whole.url_length != head.url_length:
        return False
    for i in range(head.count):
        a = &head.headers[i]
        b = &whole.headers[i]
        if a.name != b.name or a.name_length != b.name_length or trimmed(head, a) != trimmed(&whole, b) \
                or (trimmed(head, a) and a.value != b.value):
            return False
    return True


# ---- tokens ------------------------------------------------------------------------------------------------------------
cdef inline uint32_t list_element(const char* list, uint32_t length, uint32_t i, uint32_t* start, uint32_t* end) noexcept nogil:
    """The element of a comma-separated list that begins at `i`, without white space; returns where the next begins."""
    start[0] = i
    while i < length and list[i] != c",":
        i += 1
    end[0] = i
    while start[0] < end[0] and (list[start[0]] == c" " or list[start[0]] == c"\t"):
        start[0] += 1
    while end[0] > start[0] and (list[end[0] - 1] == c" " or list[end[0] - 1] == c"\t"):
        end[0] -= 1
    return i + 1


cdef bint list_has_token(const char* list, uint32_t length, const char* lower, uint32_t lower_length) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t start, end
    while i < length:
        i = list_element(list, length, i, &start, &end)
        if same_token(list + start, end - start, lower, lower_length):
            return True
    return False


cdef inline uint8_t hyphenated(const char* name, uint32_t length, const char* lower, uint8_t id) noexcept nogil:
    """`id` for a name that is `lower`; HEADER_ALIAS when underscores stand in it for hyphens."""
    cdef uint32_t i
    cdef bint alias = False
    for i in range(length):
        if (name[i] | 0x20) != lower[i]:
            if name[i] != c"_" or lower[i] != c"-":
                return HEADER_OTHER
            alias = True
    return HEADER_ALIAS if alias else id


cdef inline uint8_t header_id(const char* name, uint16_t length) noexcept nogil:
    # One chain of elif, which becomes a jump table: most names are told apart by their length and first letter.
    if length == 2:
        return HEADER_TE if same_token(name, 2, b"te", 2) else HEADER_OTHER
    elif length == 3:
        return HEADER_VIA if same_token(name, 3, b"via", 3) else HEADER_OTHER
    elif length == 4:
        return HEADER_HOST if same_token(name, 4, b"host", 4) else HEADER_OTHER
    elif length == 5:
        # "Proxy" would become HTTP_PROXY in CGI programs behind us (CVE-2016-5385): dropped like a hop-by-hop header.
        return HEADER_PROXY_CONNECTION if same_token(name, 5, b"proxy", 5) else HEADER_OTHER
    elif length == 6:
        return HEADER_EXPECT if same_token(name, 6, b"expect", 6) else HEADER_OTHER
    elif length == 7:
        if same_token(name, 7, b"upgrade", 7):
            return HEADER_UPGRADE
        return HEADER_TRAILER if same_token(name, 7, b"trailer", 7) else HEADER_OTHER
    elif length == 9:
        return HEADER_FORWARDED if same_token(name, 9, b"forwarded", 9) else HEADER_OTHER
    elif length == 10:
        if same_token(name, 10, b"connection", 10):
            return HEADER_CONNECTION
        return HEADER_KEEP_ALIVE if same_token(name, 10, b"keep-alive", 10) else HEADER_OTHER
    elif length == 12:
        return hyphenated(name, 12, b"x-request-id", HEADER_X_REQUEST_ID)
    elif length == 14:
        return hyphenated(name, 14, b"content-length", HEADER_CONTENT_LENGTH)
    elif length == 15:
        return hyphenated(name, 15, b"x-forwarded-for", HEADER_X_FORWARDED_FOR)
    elif length == 16:
        if same_token(name, 16, b"proxy-connection", 16):
            return HEADER_PROXY_CONNECTION
        return hyphenated(name, 16, b"x-forwarded-host", HEADER_X_FORWARDED_HOST)
    elif length == 17:
        if (name[0] | 0x20) == c"t":
            return hyphenated(name, 17, b"transfer-encoding", HEADER_TRANSFER_ENCODING)
        return hyphenated(name, 17, b"x-forwarded-proto", HEADER_X_FORWARDED_PROTO)
    elif length == 18:
        return HEADER_PROXY_AUTHENTICATE if same_token(name, 18, b"proxy-authenticate", 18) else HEADER_OTHER
    return HEADER_OTHER


# ---- semantics ---------------------------------------------------------------------------------------------------------
cdef bint parse_length(const char* text, uint32_t length, uint64_t* value) noexcept nogil:
    """Digits only: no sign, no space, no list (RFC 9112 section 6.3, peers.md 4.3)."""
    cdef uint64_t total = 0
    cdef uint32_t i
    if length == 0 or length > 18:
        return False
    for i in range(length):
        if text[i] < c"0" or text[i] > c"9":
            return False
        total = total * 10 + <uint64_t>(text[i] - c"0")
    value[0] = total
    return True


cdef bint is_protected(const char* name, uint32_t length, uint8_t id) noexcept nogil:
    # A client must not be able to remove these by naming them in Connection (Traefik CVE-2021-32813, CVE-2024-45410).
    if id != HEADER_OTHER:
        return True
    return same_token(name, length, b"authorization", 13) or same_token(name, length, b"cookie", 6)


cdef bint drop_named(Head* head, const Header* connection) noexcept nogil:
    """Strikes the headers that a Connection header names; False when it names more than there can be."""
    cdef const char* list = head.base + connection.value
    cdef uint32_t length = connection.value_length
    cdef uint32_t i = 0
    cdef uint32_t start, end, h, k
    cdef uint32_t tokens = 0
    cdef Header* header
    cdef const char* name
    while i < length:
        tokens += 1
        if tokens > HEADERS_MAX:  # every token is compared with every header: the product must stay small
            return False
        i = list_element(list, length, i, &start, &end)
        if end == start or same_token(list + start, end - start, b"close", 5) \
                or same_token(list + start, end - start, b"keep-alive", 10):
            continue
        for h in range(head.count):
            header = &head.headers[h]
            if header.name_length != end - start:
                continue
            name = head.base + header.name
            for k in range(header.name_length):
                if (name[k] | 0x20) != (list[start + k] | 0x20):
                    break
            else:
                if not is_protected(name, header.name_length, header.id):
                    header.dropped = 1
    return True


cdef void head_semantics(Head* head, bint http_10, bint response, Semantics* s) noexcept nogil:
    """Classifies every header, marks what is not forwarded, and decides the framing.

    Trailing white space is cut from every value. Order: Connection-named headers are struck here, before any header of ours is added.
    """
    cdef uint32_t i
    cdef uint32_t lengths = 0
    cdef uint32_t codings = 0
    cdef uint32_t connections = 0
    cdef Header* header
    cdef const char* value
    s.fault = FAULT_NONE
    s.host_count = 0
    s.chunked = s.has_length = s.close = s.keep_alive = s.connection_upgrade = s.te_trailers = False
    s.content_length = 0
    s.host = s.upgrade = s.expect = s.connection = -1
    for i in range(head.count):
        header = &head.headers[i]
        header.id = header_id(head.base + header.name, header.name_length)
        header.value_length = trimmed(head, header)
        if likely(header.id == HEADER_OTHER):
            continue
        value = head.base + header.value
        if header.id == HEADER_HOST:
            if s.host_count < 255:
                s.host_count += 1
            s.host = <int>i
        elif header.id == HEADER_CONTENT_LENGTH:
            lengths += 1
            header.dropped = 1
            s.has_length = True
            if not parse_length(value, header.value_length, &s.content_length):
                s.fault = FAULT_LENGTH_INVALID
        elif header.id == HEADER_TRANSFER_ENCODING:
            codings += 1
            header.dropped = 1
            if same_token(value, header.value_length, b"chunked", 7):
                s.chunked = True
            else:
                s.fault = FAULT_CODING_UNKNOWN
        elif header.id == HEADER_CONNECTION:
            connections += 1
            header.dropped = 1
            if s.connection < 0:
                s.connection = <int>i
            s.close = s.close or list_has_token(value, header.value_length, b"close", 5)
            s.keep_alive = s.keep_alive or list_has_token(value, header.value_length, b"keep-alive", 10)
            s.connection_upgrade = s.connection_upgrade or list_has_token(value, header.value_length, b"upgrade", 7)
        elif header.id == HEADER_UPGRADE:
            header.dropped = 1
            s.upgrade = <int>i
        elif header.id == HEADER_TE:
            header.dropped = 1
            s.te_trailers = s.te_trailers or list_has_token(value, header.value_length, b"trailers", 8)
        elif header.id == HEADER_EXPECT:
            s.expect = <int>i
        elif header.id == HEADER_KEEP_ALIVE or header.id == HEADER_PROXY_CONNECTION or header.id == HEADER_ALIAS:
            header.dropped = 1
        elif header.id == HEADER_PROXY_AUTHENTICATE:
            header.dropped = not response
    if unlikely(connections > CONNECTIONS_MAX):
        s.fault = FAULT_CONNECTION
        return
    if connections > 0:
        for i in range(<uint32_t>s.connection, head.count):
            if head.headers[i].id == HEADER_CONNECTION and not drop_named(head, &head.headers[i]):
                s.fault = FAULT_CONNECTION
    if s.fault != FAULT_NONE:
        return
    if lengths > 1 or codings > 1:
        s.fault = FAULT_LENGTH_REPEATED
    elif codings and lengths:
        s.fault = FAULT_LENGTH_AND_CODING
    elif codings and http_10:
        s.fault = FAULT_CODING_IN_10


# ---- for tests -----------------------------------------------------------------------------------------------------------
def read_head(bytes data, *, bint response=False, bint scanner=True):
    cdef Direction direction
    cdef Head head
    cdef const char* base = data
    cdef uint32_t i
    cdef Header* header
    llhttp_bind()
    heads_bind()
    head_begin(&direction, &head, response)
    head.base = base
    if scanner:
        head.length = head_scan(&direction, &head, base, <uint32_t>len(data))
        if head.length == 0:
            return None
    elif head_feed_llhttp(&direction, &head, base, 0, <uint32_t>len(data)) != HEAD_COMPLETE:
        return None
    headers = []
    for i in range(head.count):
        header = &head.headers[i]
        headers.append((data[header.name:header.name + header.name_length],
                        data[header.value:header.value + trimmed(&head, header)]))
    return {
        "length": head.length,
        "start": direction.parser.status_code if response else direction.parser.method,
        "target": b"" if response else data[head.url:head.url + head.url_length],
        "version": (direction.parser.http_major, direction.parser.http_minor),
        "chunked": bool(direction.parser.flags & F_CHUNKED),
        "headers": headers,
    }
