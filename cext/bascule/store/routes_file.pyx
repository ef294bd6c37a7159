"""The plain way through a routes file: 10,000 lines in a third of what Python takes. See routes_file.pyi."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    void* PyUnicode_DATA(object text)
    str PyUnicode_New(Py_ssize_t length, Py_UCS4 widest)

cdef enum:
    PREFIX_MAX = 4096             # store.proxy_names.PREFIX_LENGTH_MAX
    ID_MAX = 96                   # model.limits.ID_LENGTH_MAX
    HEAD_LENGTH = 12              # of HEAD
    FRAME_LENGTH = 14             # of HEAD and TAIL

cdef const char* HEAD = b"PathPrefix(`"
cdef const char* TAIL = b"`)"


@cython.final
cdef class PlainFrontend:
    cdef readonly str route
    cdef readonly str backend
    priority = 0
    max_body_bytes = 0
    middlewares = {}

    def __init__(self, str route not None, str backend not None):
        self.route = route
        self.backend = backend


cdef inline bint is_plain(char c) noexcept:
    """Neither blank nor control, nor a character that means something inside a route, nor one that may begin a comment."""
    return c > c' ' and c < 127 and c not in (c'`', c'<', c'>', c'\\', c'"', c"'", c'#')


cdef inline bint is_blank(char c) noexcept:
    return c == c' ' or c == c'\t'


cdef str plain_id(const char* prefix, Py_ssize_t length, prefix_id):
    """The id of a prefix that `prefix_id` would only replace slashes in; what it has to think about, it is asked for."""
    cdef char[ID_MAX] name
    cdef Py_ssize_t i
    cdef char c
    if length < 2 or length - 1 > ID_MAX or (length == 6 and memcmp(prefix, b"/proxy", 6) == 0):
        return prefix_id(PyUnicode_DecodeASCII(prefix, length, NULL))
    for i in range(1, length):
        c = prefix[i]
        if c == c'/' and prefix[i - 1] != c'/':
            name[i - 1] = c'.'
        elif c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c == c'-' or c == c'_':
            name[i - 1] = c
        else:
            return prefix_id(PyUnicode_DecodeASCII(prefix, length, NULL))
    return PyUnicode_DecodeASCII(name, length - 1, NULL)


cdef str route_of(const char* prefix, Py_ssize_t length):
    cdef str route = PyUnicode_New(FRAME_LENGTH + length, 127)
    cdef char* data = <char*>PyUnicode_DATA(route)
    memcpy(data, HEAD, HEAD_LENGTH)
    memcpy(data + HEAD_LENGTH, prefix, length)
    memcpy(data + HEAD_LENGTH + length, TAIL, FRAME_LENGTH - HEAD_LENGTH)
    return route


def read_plain_routes(bytes text not None, pool_of, prefix_id):
    cdef const char* at = PyBytes_AS_STRING(text)
    cdef const char* end = at + PyBytes_GET_SIZE(text)
    cdef const char* prefix
    cdef const char* addresses
    cdef const char* last_addresses = NULL
    cdef Py_ssize_t length, addresses_length, last_length = -1
    cdef dict backends = {}
    cdef dict frontends = {}
    cdef dict pools = {}
    cdef object pool = None
    cdef str name, words
    cdef PlainFrontend frontend
    while at < end:
        if is_blank(at[0]) or at[0] == c'\n':
            at += 1
            continue
        prefix = at
        while at < end and is_plain(at[0]):
            at += 1
        length = at - prefix
        if length == 0 or prefix[0] != c'/' or length > PREFIX_MAX or at == end or not is_blank(at[0]):
            return None
        while at < end and is_blank(at[0]):
            at += 1
        addresses = at
        while at < end and (is_plain(at[0]) or is_blank(at[0])):
            at += 1
        if at < end and at[0] != c'\n' or at == addresses:
            return None
        addresses_length = at - addresses
        if addresses_length != last_length or memcmp(addresses, last_addresses, addresses_length) != 0:
            last_addresses, last_length = addresses, addresses_length
            words = PyUnicode_DecodeASCII(addresses, addresses_length, NULL)
            pool = pools.get(words)
            if pool is None:
                pool = pools[words] = pool_of(words.split())
        name = plain_id(prefix, length, prefix_id)
        frontend = PlainFrontend.__new__(PlainFrontend)
        frontend.route = route_of(prefix, length)
        frontend.backend = name
        if frontends.setdefault(name, frontend) is not frontend:
            return None
        backends[name] = pool
    return backends, frontends
