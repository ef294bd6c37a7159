"""See scan.pxd. RFC 9112 sections 3 to 5; RFC 9110 section 5.6.2 for tokens."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from bascule.codec.llhttp cimport (
    F_CHUNKED,
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_OPTIONS,
    METHOD_PATCH,
    METHOD_POST,
    METHOD_PUT,
)
from bascule.codec.token cimport same_token
from bascule.engine.system cimport memcmp, unlikely
from bascule.engine.types cimport HEADERS_MAX, Header

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif
    /* The first control character (below 0x20, or 0x7F) of [at, end), or end. Never reads outside of it. */
    static inline const unsigned char *bascule_text_end(const unsigned char *at, const unsigned char *end) {
    #if defined(__SSE2__)
        const __m128i low = _mm_set1_epi8(0x1F), del = _mm_set1_epi8(0x7F);
        while (end - at >= 16) {
            __m128i text = _mm_loadu_si128((const __m128i *)at);
            __m128i found = _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(text, low), text), _mm_cmpeq_epi8(text, del));
            int mask = _mm_movemask_epi8(found);
            if (mask) return at + __builtin_ctz((unsigned)mask);
            at += 16;
        }
    #endif
        while (at < end && *at >= 0x20 && *at != 0x7F) at++;
        return at;
    }
    /* Behind a run of letters, digits and hyphens at [at, end): how far the whole of a name goes, nearly always. Where there is no
       SSE2, or less than 16 bytes are left: at. One step without a branch on the bytes, which no processor could foresee. */
    static inline const unsigned char *bascule_name_end(const unsigned char *at, const unsigned char *end) {
    #if defined(__SSE2__)
        while (end - at >= 16) {
            __m128i text = _mm_loadu_si128((const __m128i *)at);
            __m128i letter = _mm_sub_epi8(_mm_or_si128(text, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
            __m128i digit = _mm_sub_epi8(text, _mm_set1_epi8('0'));
            __m128i in = _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(25)), letter),
                         _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit),
                                      _mm_cmpeq_epi8(text, _mm_set1_epi8('-'))));
            unsigned out = ~(unsigned)_mm_movemask_epi8(in) & 0xFFFF;
            if (out) return at + __builtin_ctz(out);
            at += 16;
        }
    #endif
        return at;
    }
    """
    const uint8_t* name_end "bascule_name_end"(const uint8_t* at, const uint8_t* end) noexcept nogil
    const uint8_t* text_end "bascule_text_end"(const uint8_t* at, const uint8_t* end) noexcept nogil

cdef enum:
    IN_NAME = 1                   # tchar
    IN_TARGET = 2                 # what llhttp lets through in a path and in a query, but "#"
    HEAD_MIN = 16                 # bytes; shorter heads are not plain
    HEAD_MAX = 65535              # bytes; offsets within a Header's 16-bit lengths
    LENGTH_DIGITS_MAX = 18

cdef uint8_t classes[256]


cdef void fill_classes() noexcept:
    cdef const char* marks = b"!#$%&'*+-.^_`|~"
    cdef uint32_t i
    for i in range(0x21, 0x7F):
        if i != c"#":
            classes[i] |= IN_TARGET
        if c"0" <= i <= c"9" or c"a" <= (i | 0x20) <= c"z":
            classes[i] |= IN_NAME
    for i in range(15):
        classes[<uint8_t>marks[i]] |= IN_NAME

fill_classes()


cdef bint is_length(const uint8_t* text, uint32_t length) noexcept nogil:
    cdef uint32_t i
    if length == 0 or length > LENGTH_DIGITS_MAX:
        return False
    for i in range(length):
        if text[i] < c"0" or text[i] > c"9":
            return False
    return True


cdef uint32_t scan_fields(Head* head, llhttp_t* parser, const uint8_t* data, const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Header lines from `at` to the empty line; the length of the head, or 0."""
    cdef const uint8_t* name
    cdef const uint8_t* value
    cdef Header* header
    cdef uint32_t count = 0
    cdef uint32_t name_length, value_length
    cdef uint32_t framings = 0
    parser.flags = 0
    while True:
        if unlikely(end - at < 2):
            return 0
        if at[0] == c"\r":
            break
        name = at
        at = name_end(at, end)
        while at < end and classes[at[0]] & IN_NAME:
            at += 1
        if unlikely(at == name or at == end or at[0] != c":" or count == HEADERS_MAX):
            return 0
        name_length = <uint32_t>(at - name)
        at += 1
        while at < end and (at[0] == c" " or at[0] == c"\t"):
            at += 1
        value = at
        at = text_end(at, end)
        while unlikely(at < end and at[0] == c"\t"):
            at = text_end(at + 1, end)
        if unlikely(end - at < 2 or at[0] != c"\r" or at[1] != c"\n"):
            return 0
        value_length = <uint32_t>(at - value)
        at += 2
        if unlikely(name_length == 14 and same_token(<const char*>name, 14, b"content-length", 14)):
            framings += 1
            if not is_length(value, value_length):
                return 0
        elif unlikely(name_length == 17 and same_token(<const char*>name, 17, b"transfer-encoding", 17)):
            framings += 1
            parser.flags = F_CHUNKED
            if parser.http_minor == 0 or not same_token(<const char*>value, value_length, b"chunked", 7):
                return 0
        header = &head.headers[count]
        count += 1
        header.name = <uint32_t>(name - data)
        header.value = <uint32_t>(value - data)
        header.name_length = <uint16_t>name_length
        header.value_length = <uint16_t>value_length
        header.dropped = 0
    at += 2
    if unlikely((at - 1)[0] != c"\n" or framings > 1 or at - data > HEAD_MAX):
        return 0
    head.count = count
    return <uint32_t>(at - data)


cdef inline uint32_t plain_method(const uint8_t* data, llhttp_t* parser) noexcept nogil:
    """The method's length with the space behind it, or 0."""
    if data[0] == c"G":
        parser.method = METHOD_GET
        return 4 if memcmp(data, b"GET ", 4) == 0 else 0
    if data[0] == c"P":
        if data[1] == c"O":
            parser.method = METHOD_POST
            return 5 if memcmp(data, b"POST ", 5) == 0 else 0
        if data[1] == c"U":
            parser.method = METHOD_PUT
            return 4 if memcmp(data, b"PUT ", 4) == 0 else 0
        parser.method = METHOD_PATCH
        return 6 if memcmp(data, b"PATCH ", 6) == 0 else 0
    if data[0] == c"H":
        parser.method = METHOD_HEAD
        return 5 if memcmp(data, b"HEAD ", 5) == 0 else 0
    if data[0] == c"D":
        parser.method = METHOD_DELETE
        return 7 if memcmp(data, b"DELETE ", 7) == 0 else 0
    parser.method = METHOD_OPTIONS
    return 8 if memcmp(data, b"OPTIONS ", 8) == 0 else 0


cdef uint32_t scan_request(Head* head, llhttp_t* parser, const char* data, uint32_t length) noexcept nogil:
    cdef const uint8_t* start = <const uint8_t*>data
    cdef const uint8_t* end = start + length
    cdef const uint8_t* at = start
    cdef const uint8_t* target
    if unlikely(length < HEAD_MIN):
        return 0
    target = start + plain_method(start, parser)
    if unlikely(target == start or target[0] != c"/"):
        return 0
    at = target
    while at < end and classes[at[0]] & IN_TARGET:
        at += 1
    if unlikely(end - at < 11 or memcmp(at, b" HTTP/1.", 8) != 0 or at[9] != c"\r" or at[10] != c"\n"):
        return 0
    if unlikely(at[8] != c"1" and at[8] != c"0"):
        return 0
    parser.http_major = 1
    parser.http_minor = at[8] - c"0"
    head.url = <uint32_t>(target - start)
    head.url_length = <uint32_t>(at - target)
    return scan_fields(head, parser, start, at + 11, end)


cdef uint32_t scan_response(Head* head, llhttp_t* parser, const char* data, uint32_t length) noexcept nogil:
    cdef const uint8_t* start = <const uint8_t*>data
    cdef const uint8_t* end = start + length
    cdef const uint8_t* at
    if unlikely(length < HEAD_MIN or memcmp(start, b"HTTP/1.", 7) != 0 or start[8] != c" " or start[12] != c" "):
        return 0
    if unlikely(start[7] != c"1" and start[7] != c"0"):
        return 0
    if unlikely(start[9] < c"2" or start[9] > c"5" or start[10] < c"0" or start[10] > c"9" or start[11] < c"0" or start[11] > c"9"):
        return 0
    at = text_end(start + 13, end)
    if unlikely(end - at < 2 or at[0] != c"\r" or at[1] != c"\n"):
        return 0
    parser.http_major = 1
    parser.http_minor = start[7] - c"0"
    parser.status_code = <uint16_t>((start[9] - c"0") * 100 + (start[10] - c"0") * 10 + start[11] - c"0")
    return scan_fields(head, parser, start, at + 2, end)
