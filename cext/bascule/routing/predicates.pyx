"""Residual predicates (contract: predicates.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from bascule.routing.layout cimport (
    CAPTURES_MAX, PREDICATE_CLIENT_IP, PREDICATE_HEADER, PREDICATE_HEADER_IS, PREDICATE_HEADER_PATTERN, PREDICATE_HEADER_REGEXP,
    PREDICATE_HOST, PREDICATE_HOST_REGEXP, PREDICATE_METHOD, PREDICATE_PATH, PREDICATE_PATH_REGEXP,
    PREDICATE_QUERY, PREDICATE_QUERY_IS, PREDICATE_QUERY_REGEXP, SEGMENT_INT, SEGMENT_LITERAL, TAIL_END, TAIL_MORE,
    PredicateRecord, SegmentRecord,
)
from bascule.routing.match cimport HeaderSlice, RouteRequest, Slice
from bascule.routing.pcre cimport SUBJECT_BYTES_MAX, pcre_matches
from bascule.routing.view cimport RouteView


cdef int segment_fits(uint8_t kind, const char* prefix, uint32_t prefix_length, const char* suffix, uint32_t suffix_length,
                      const char* start, const char* end, Slice* value) noexcept nogil:
    cdef const char* at
    if <uint64_t>(end - start) <= <uint64_t>prefix_length + suffix_length:
        return 0
    if prefix_length and memcmp(start, prefix, prefix_length) != 0:
        return 0
    if suffix_length and memcmp(end - suffix_length, suffix, suffix_length) != 0:
        return 0
    at = start + prefix_length
    value.data = at
    value.length = <uint32_t>(end - suffix_length - at)
    if kind == SEGMENT_INT:
        while at < end - suffix_length:
            if not c'0' <= at[0] <= c'9':
                return 0
            at += 1
    return 1


cdef inline int one_segment(const RouteView* view, const SegmentRecord* segment, const char* start, const char* end,
                            Slice* captures, uint32_t* count) noexcept nogil:
    cdef Slice value
    if segment.kind == SEGMENT_LITERAL:
        return (segment.prefix_length == <uint64_t>(end - start)
                and memcmp(view.strings + segment.prefix, start, segment.prefix_length) == 0)
    if not segment_fits(segment.kind, view.strings + segment.prefix, segment.prefix_length, view.strings + segment.suffix,
                        segment.suffix_length, start, end, &value):
        return 0
    if count[0] < CAPTURES_MAX:
        captures[count[0]] = value
        count[0] += 1
    return 1


cdef int forward_pattern(const RouteView* view, const PredicateRecord* record, const char* at, const char* end, Slice* captures,
                         uint32_t* count) noexcept nogil:
    """A path without its first '/', or a header value. `at` NULL: there is no segment at all."""
    cdef uint32_t i
    cdef const char* stop
    for i in range(record.segment_count):
        if at == NULL:
            return 0
        stop = <const char*>memchr(at, c'/', end - at) if end > at else NULL
        if stop == NULL:
            stop = end
        if not one_segment(view, view.segments + record.first_segment + i, at, stop, captures, count):
            return 0
        at = stop + 1 if stop < end else NULL
    if record.tail == TAIL_END:
        return at == NULL
    if record.tail == TAIL_MORE:
        if at == NULL:
            return 0
        if record.prefix and count[0] < CAPTURES_MAX:
            captures[count[0]].data = at
            captures[count[0]].length = <uint32_t>(end - at)
            count[0] += 1
    return 1


cdef int host_pattern(const RouteView* view, const PredicateRecord* record, Slice host, Slice* captures,
                      uint32_t* count) noexcept nogil:
    """Labels from right to left; an IPv6 literal is one label and fits no parameter."""
    cdef const char* stop = host.data + host.length
    cdef const char* start
    cdef const SegmentRecord* segments = view.segments + record.first_segment
    cdef uint32_t i
    if host.length == 0:
        return 0
    if host.data[0] == c'[':
        return (record.segment_count == 1 and record.tail == TAIL_END and segments[0].kind == SEGMENT_LITERAL
                and one_segment(view, segments, host.data, stop, captures, count))
    for i in range(record.segment_count):
        if stop == NULL:
            return 0
        start = stop
        while start > host.data and (start - 1)[0] != c'.':
            start -= 1
        if not one_segment(view, segments + i, start, stop, captures, count):
            return 0
        stop = start - 1 if start > host.data else NULL
    if record.tail == TAIL_END:
        return stop == NULL
    if stop == NULL or stop == host.data:
        return 0
    if count[0] < CAPTURES_MAX:
        captures[count[0]].data = host.data
        captures[count[0]].length = <uint32_t>(stop - host.data)
        count[0] += 1
    return 1


cdef inline bint same_name(Slice name, const char* lower, uint32_t length) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t c
    if name.length != length:
        return False
    for i in range(length):
        c = name.data[i]
        if (c + 32 if c'A' <= c <= c'Z' else c) != <uint8_t>lower[i]:
            return False
    return True


cdef int header_holds(const RouteView* view, const PredicateRecord* record, const RouteRequest* request, Slice* captures,
                      uint32_t* count) noexcept nogil:
    cdef uint32_t i, before = count[0]
    cdef int result
    cdef const HeaderSlice* header
    for i in range(request.header_count):
        header = request.headers + i
        if not same_name(header.name, view.strings + record.name, record.name_length):
            continue
        if record.kind == PREDICATE_HEADER:
            return 1
        if record.kind == PREDICATE_HEADER_REGEXP:
            result = pcre_matches(view.regexps[record.regexp], view.scratch, header.value.data, header.value.length)
        elif record.kind == PREDICATE_HEADER_IS:
            result = equals(header.value, view.strings + record.value, record.value_length)
        else:
            result = forward_pattern(view, record, header.value.data, header.value.data + header.value.length, captures, count)
        if result:
            return result
        count[0] = before
    return 0


cdef inline int equals(Slice slice, const char* text, uint32_t length) noexcept nogil:
    return slice.length == length and (length == 0 or memcmp(slice.data, text, length) == 0)


cdef inline int hex_value(uint8_t c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 32
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1


cdef inline uint8_t decoded_octet(const char** at, const char* end) noexcept nogil:
    """The next octet of form-urlencoded text: '+' is a space, "%XX" its octet, a '%' that begins no encoding itself."""
    cdef uint8_t c = at[0][0]
    cdef int high, low
    at[0] += 1
    if c == c'+':
        return c' '
    if c == c'%' and end - at[0] >= 2:
        high = hex_value(at[0][0])
        low = hex_value(at[0][1])
        if high >= 0 and low >= 0:
            at[0] += 2
            return <uint8_t>(high << 4 | low)
    return c


cdef int decoded_equals(const char* at, const char* end, const char* text, uint32_t length) noexcept nogil:
    cdef uint32_t i
    for i in range(length):
        if at == end or decoded_octet(&at, end) != <uint8_t>text[i]:
            return 0
    return at == end


cdef int query_holds(const RouteView* view, const PredicateRecord* record, const RouteRequest* request) noexcept nogil:
    """Any of the parameters of that name may make it true. WHATWG URL standard, application/x-www-form-urlencoded parsing."""
    cdef const char* at = request.query.data
    cdef const char* end
    cdef const char* stop
    cdef const char* equal
    cdef int result
    if request.query.length == 0:
        return 0
    end = at + request.query.length
    while True:
        stop = <const char*>memchr(at, c'&', end - at) if at < end else NULL
        if stop == NULL:
            stop = end
        equal = <const char*>memchr(at, c'=', stop - at) if at < stop else NULL
        if at < stop and decoded_equals(at, stop if equal == NULL else equal, view.strings + record.name, record.name_length):
            if record.kind == PREDICATE_QUERY:
                return 1
            equal = stop if equal == NULL else equal + 1
            if record.kind == PREDICATE_QUERY_IS:
                result = decoded_equals(equal, stop, view.strings + record.value, record.value_length)
            else:
                result = query_regexp(view, record, equal, stop)
            if result:
                return result
        if stop == end:
            return 0
        at = stop + 1


cdef int query_regexp(const RouteView* view, const PredicateRecord* record, const char* at, const char* end) noexcept nogil:
    cdef uint32_t used = 0
    if end - at > SUBJECT_BYTES_MAX:
        return -1
    while at < end:
        view.decoded[used] = <char>decoded_octet(&at, end)
        used += 1
    return pcre_matches(view.regexps[record.regexp], view.scratch, view.decoded, used)


cdef int client_ip_holds(const RouteView* view, const PredicateRecord* record, const uint8_t* address) noexcept nogil:
    """An IPv6 network does not hold IPv4 clients, unless it is inside ::ffff:0:0/96; a client without address is in none."""
    cdef const uint8_t* network = <const uint8_t*>view.strings + record.value
    cdef uint32_t whole = record.prefix >> 3, bits = record.prefix & 7
    if memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) == 0:
        return 0
    if record.prefix < 96 and memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
        return 0
    if memcmp(address, network, whole) != 0:
        return 0
    return bits == 0 or (address[whole] ^ network[whole]) >> (8 - bits) == 0


cdef int predicate_holds(const RouteView* view, const PredicateRecord* record, const RouteRequest* request, Slice* captures,
                         uint32_t* capture_count) noexcept nogil:
    cdef uint8_t kind = record.kind
    cdef Slice path = request.path
    if kind == PREDICATE_METHOD:
        return equals(request.method, view.strings + record.value, record.value_length)
    if PREDICATE_HEADER <= kind <= PREDICATE_HEADER_PATTERN or kind == PREDICATE_HEADER_REGEXP:
        return header_holds(view, record, request, captures, capture_count)
    if kind == PREDICATE_QUERY or kind == PREDICATE_QUERY_IS or kind == PREDICATE_QUERY_REGEXP:
        return query_holds(view, record, request)
    if kind == PREDICATE_CLIENT_IP:
        return client_ip_holds(view, record, request.client_ip)
    if kind == PREDICATE_HOST:
        return host_pattern(view, record, request.host, captures, capture_count)
    if kind == PREDICATE_PATH:
        if path.length == 0 or path.data[0] != c'/':
            return forward_pattern(view, record, NULL, NULL, captures, capture_count)
        return forward_pattern(view, record, path.data + 1, path.data + path.length, captures, capture_count)
    if kind == PREDICATE_HOST_REGEXP:
        return pcre_matches(view.regexps[record.regexp], view.scratch, request.host.data, request.host.length)
    if kind == PREDICATE_PATH_REGEXP:
        return pcre_matches(view.regexps[record.regexp], view.scratch, path.data, path.length)
    return pcre_matches(view.regexps[record.regexp], view.scratch, request.method.data, request.method.length)
