"""See client.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

from bascule.engine.system cimport AF_INET, AF_INET6, likely, memcmp, memcpy, memset
from bascule.engine.types cimport CONN_UNIX, HEADER_X_FORWARDED_FOR, X_TRUSTED, Exchange, ListenerRuntime
from bascule.shared.snapshot cimport Network

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char* text, void* out)


cdef bint in_networks(const Network* networks, uint32_t count, const uint8_t* address) noexcept nogil:
    cdef uint32_t i, whole, bits
    for i in range(count):
        whole = networks[i].prefix >> 3
        bits = networks[i].prefix & 7
        if memcmp(networks[i].address, address, whole) == 0 and (
                bits == 0 or ((networks[i].address[whole] ^ address[whole]) >> (8 - bits)) == 0):
            return True
    return False


cdef bint parse_address(const char* text, uint32_t length, uint8_t* out) noexcept nogil:
    cdef char copy[48]
    if length == 0 or length > 47:
        return False
    memcpy(copy, text, length)
    copy[length] = 0
    memset(out, 0, 16)
    if inet_pton(AF_INET, copy, out + 12) == 1:
        out[10] = out[11] = 0xFF
        return True
    return inet_pton(AF_INET6, copy, out) == 1


cdef void identify_client(Exchange* x) noexcept nogil:
    cdef ListenerRuntime* listener = x.client.listener
    cdef const char* list
    cdef uint32_t end, start
    cdef int i
    cdef uint8_t candidate[16]
    memcpy(x.client_ip, x.client.address, 16)
    if likely(not x.client.flags & CONN_UNIX):
        if listener.network_count == 0 or not in_networks(listener.networks, listener.network_count, x.client.address):
            return
    x.flags |= X_TRUSTED
    for i in range(<int>x.head.count - 1, -1, -1):
        if x.head.headers[i].id != HEADER_X_FORWARDED_FOR:
            continue
        list = x.head.base + x.head.headers[i].value
        end = x.head.headers[i].value_length
        while end > 0:
            start = end
            while start > 0 and list[start - 1] != c",":
                start -= 1
            if not parse_entry(list + start, end - start, candidate):
                return
            memcpy(x.client_ip, candidate, 16)
            if not in_networks(listener.networks, listener.network_count, candidate):
                return
            end = start - 1 if start > 0 else 0


cdef bint parse_entry(const char* text, uint32_t length, uint8_t* out) noexcept nogil:
    """An address; or, as some proxies write it, one with its port: 192.0.2.1:5000, [2001:db8::1]:5000, [2001:db8::1]."""
    cdef uint32_t end = 0
    while length and (text[0] == c" " or text[0] == c"\t"):
        text += 1
        length -= 1
    while length and (text[length - 1] == c" " or text[length - 1] == c"\t"):
        length -= 1
    if length and text[0] == c"[":
        while end < length and text[end] != c"]":
            end += 1
        if end == length or not (end + 1 == length or is_port(text + end + 1, length - end - 1)):
            return False
        return memchr(text, c":", end) != NULL and parse_address(text + 1, end - 1, out)
    while end < length and text[end] != c":":
        end += 1
    if end < length and is_port(text + end, length - end):
        length = end
    return parse_address(text, length, out)


cdef bint is_port(const char* text, uint32_t length) noexcept nogil:
    cdef uint32_t i
    if length < 2 or length > 6 or text[0] != c":":
        return False
    for i in range(1, length):
        if text[i] < c"0" or text[i] > c"9":
            return False
    return True
