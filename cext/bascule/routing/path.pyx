"""The canonical form of a request path (contract: path.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

cdef enum:
    OCTET_REFUSED = 0
    OCTET_SUB_DELIM = 1           # allowed in a path, but not unreserved: "!$&'()*+,;=:@"
    OCTET_UNRESERVED = 2
    OCTET_SLASH = 3
    OCTET_PERCENT = 4

cdef uint8_t[256] octets
cdef uint8_t[256] hex_digits     # value, or 255

cdef void fill_tables() noexcept:
    cdef int i
    memset(octets, OCTET_REFUSED, 256)
    memset(hex_digits, 255, 256)
    for i in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~":
        octets[i] = OCTET_UNRESERVED
    for i in b"!$&'()*+,;=:@":
        octets[i] = OCTET_SUB_DELIM
    octets[c'/'] = OCTET_SLASH
    octets[c'%'] = OCTET_PERCENT
    for i in range(10):
        hex_digits[c'0' + i] = i
    for i in range(6):
        hex_digits[c'a' + i] = hex_digits[c'A' + i] = 10 + i

fill_tables()


cdef int is_canonical(const uint8_t* path, uint32_t length) noexcept nogil:
    """1 if plainly canonical: allowed octets, no '%', no empty inner segment, no segment that starts with a dot."""
    cdef uint32_t i
    cdef uint8_t c, before = 0
    for i in range(length):
        c = path[i]
        if octets[c] == OCTET_REFUSED or octets[c] == OCTET_PERCENT:
            return 0
        if before == c'/' and (c == c'/' or c == c'.'):
            return 0
        before = c
    return 1


cdef int copy_octet(const uint8_t* path, uint32_t length, uint32_t* at, char* out, uint32_t* used) noexcept nogil:
    """Moves one octet, decoded or with its percent-encoding normalised. -1 when it is refused."""
    cdef uint8_t c = path[at[0]]
    cdef uint8_t high, low, value
    if octets[c] == OCTET_UNRESERVED or octets[c] == OCTET_SUB_DELIM:
        out[used[0]] = <char>c
        used[0] += 1
        at[0] += 1
        return 0
    if c != c'%' or length - at[0] < 3:
        return -1
    high = hex_digits[path[at[0] + 1]]
    low = hex_digits[path[at[0] + 2]]
    if high == 255 or low == 255:
        return -1
    value = high << 4 | low
    if value == 0 or value == c'/' or value == c'\\':
        return -1
    if octets[value] == OCTET_UNRESERVED:
        out[used[0]] = <char>value
        used[0] += 1
    else:
        out[used[0]] = c'%'
        out[used[0] + 1] = <char>b"0123456789ABCDEF"[high]
        out[used[0] + 2] = <char>b"0123456789ABCDEF"[low]
        used[0] += 3
    at[0] += 3
    return 0


cdef int dots(const char* segment, uint32_t length) noexcept nogil:
    """1 for ".", 2 for "..", 0 for another segment, -1 for a dot segment with parameters ("..;x").

    Servers that strip parameters after decoding dot segments read "/public/..;/admin" as "/admin" (CVE-2018-1323 and its kin).
    """
    cdef uint32_t count = 0
    while count < length and count < 3 and segment[count] == c'.':
        count += 1
    if count == 0 or count == 3:
        return 0
    if count == length:
        return <int>count
    return -1 if segment[count] == c';' else 0


cdef int path_canonical(const char* path, uint32_t length, char* out, uint32_t* out_length) noexcept nogil:
    cdef const uint8_t* octet = <const uint8_t*>path
    cdef uint32_t at = 1, used = 1, start
    cdef int dot
    cdef bint open_end
    if length == 1 and octet[0] == c'*':
        return PATH_CANONICAL
    if length == 0 or octet[0] != c'/':
        return PATH_REFUSED
    if is_canonical(octet, length):
        return PATH_CANONICAL
    out[0] = c'/'
    while at < length:            # invariant: out[0:used] is canonical and ends with '/'; at is at the start of a segment
        if octet[at] == c'/':
            at += 1
            continue
        start = used
        while at < length and octet[at] != c'/':
            if copy_octet(octet, length, &at, out, &used) < 0:
                return PATH_REFUSED
        open_end = at == length
        dot = dots(out + start, used - start)
        if dot < 0:
            return PATH_REFUSED
        if dot:
            used = start
        if dot == 2:
            if start == 1:
                return PATH_REFUSED
            used -= 1
            while out[used - 1] != c'/':
                used -= 1
        if not dot and not open_end:
            out[used] = c'/'
            used += 1
    out_length[0] = used
    return PATH_REWRITTEN


def canonical(bytes path not None):
    """The canonical form of `path` (without query), or None if such a path must be refused with 400."""
    cdef uint32_t length = <uint32_t>PyBytes_GET_SIZE(path)
    cdef uint32_t out_length = 0
    cdef bytes out = PyBytes_FromStringAndSize(NULL, length)
    cdef int result = path_canonical(PyBytes_AS_STRING(path), length, PyBytes_AS_STRING(out), &out_length)
    if result == PATH_REFUSED:
        return None
    return path if result == PATH_CANONICAL else out[:out_length]
