"""See trailers.pxd.

Whoever reads a trailer may merge it into the head, long after the head was routed, limited and authorized by it. So a field passes
only if it belongs to none of the classes RFC 9110 section 6.5.1 names, nor is one that we write ourselves. Everything else (checksums,
grpc-status, timings) is the application's.
"""

from libc.stdint cimport uint32_t
from libc.string cimport strlen

from bascule.engine.system cimport memchr, memmove

cdef enum:
    NAMES = 42
    PREFIXES = 9

cdef const char* names[NAMES]
cdef const char* prefixes[PREFIXES]

# Lower case; "-" stands for "_" too, because CGI and its heirs make no difference between them.
names[:] = [
    # framing and hop by hop (RFC 9110 section 7.6.1)
    b"transfer-encoding", b"trailer", b"connection", b"keep-alive", b"te", b"upgrade", b"http2-settings", b"proxy", b"close",
    # routing (7.2, 7.6.2)
    b"host", b"max-forwards", b"origin", b"referer",
    # authentication (11), sessions (RFC 6265)
    b"authorization", b"www-authenticate", b"authentication-info", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2",
    # request modifiers (10.1, 12.5, 14.2; conditionals are a prefix)
    b"expect", b"range", b"accept", b"cache-control", b"pragma", b"user-agent", b"from", b"priority",
    # response control data (10.2, RFC 9111 section 5)
    b"age", b"date", b"expires", b"location", b"retry-after", b"vary", b"warning", b"allow", b"server",
    # what we write (rewrite.pyx)
    b"forwarded", b"via", b"x-request-id", b"x-real-ip", b"status",
]
prefixes[:] = [
    b"content-",                  # how the body is to be read (8.3 to 8.6), Content-Length above all
    b"if-",                       # conditionals (13.1)
    b"accept-",                   # negotiation (12.5)
    b"proxy-",
    b"x-forwarded-",
    b"access-control-",           # Fetch: decided from the head alone
    b"sec-",                      # forbidden request headers of Fetch, WebSocket's handshake
    b"strict-transport-",
    b"x-original-",               # X-Original-URL and its like: some servers route by them
]


cdef bint begins(const char* name, uint32_t length, const char* with_, uint32_t with_length) noexcept nogil:
    cdef uint32_t i
    cdef char c
    if length < with_length:
        return False
    for i in range(with_length):
        c = name[i]
        if c == c"_":
            c = c"-"
        elif c"A" <= c <= c"Z":
            c |= 0x20
        if c != with_[i]:
            return False
    return True


cdef bint is_allowed(const char* name, uint32_t length) noexcept nogil:
    cdef uint32_t i
    if length == 14 and begins(name, length, b"content-digest", 14):
        return True  # RFC 9530 section 2 defines it for trailers
    for i in range(PREFIXES):
        if begins(name, length, prefixes[i], <uint32_t>strlen(prefixes[i])):
            return False
    for i in range(NAMES):
        if length == strlen(names[i]) and begins(name, length, names[i], length):
            return False
    return True


cdef void trailers_filter(Buf* buf) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t kept = 0
    cdef uint32_t line_end, name_end
    cdef char* found
    while at < buf.end:
        found = <char*>memchr(buf.data + at, c"\n", buf.end - at)
        line_end = <uint32_t>(found - buf.data) + 1 if found != NULL else buf.end
        found = <char*>memchr(buf.data + at, c":", line_end - at)
        name_end = <uint32_t>(found - buf.data) if found != NULL else at
        if name_end > at and is_allowed(buf.data + at, name_end - at):
            if kept != at:
                memmove(buf.data + kept, buf.data + at, line_end - at)
            kept += line_end - at
        at = line_end
    buf.end = kept
