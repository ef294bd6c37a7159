"""Binding of llhttp and its start-up probes. See llhttp.pxd.

A size check alone is not enough: httptools 0.6.1 and 0.9.0 have parser structs of one size with different offsets. So three probes run
before the first connection: sizeof by canaries, every callback slot by a request and a response that fire them all, and
the fields the engine reads, by value.
"""

import sys

from libc.stddef cimport size_t
from libc.string cimport memset

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    const char* dlerror()
    enum:
        RTLD_LAZY

_REMEDY = "install a supported release: pip install 'httptools>=0.7.1,<0.10'"


class ParserMismatch(RuntimeError):
    """The installed httptools is not one whose llhttp layout this build knows; the message says what differed."""


cdef LlhttpTable* llhttp_table() noexcept nogil:
    return &llhttp


# ---- what the probe's callbacks saw ------------------------------------------------------------------------------------
cdef struct Seen:
    uint32_t begun
    uint32_t url
    uint32_t status
    uint32_t fields
    uint32_t values
    uint32_t extensions
    uint32_t headers_complete
    uint32_t body
    uint32_t complete
    uint32_t chunks

cdef Seen seen

cdef int saw_begin(llhttp_t* parser) noexcept nogil:
    seen.begun += 1
    return 0

cdef int saw_url(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.url += <uint32_t>length
    return 0

cdef int saw_status(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.status += <uint32_t>length
    return 0

cdef int saw_field(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.fields += <uint32_t>length
    return 0

cdef int saw_value(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.values += <uint32_t>length
    return 0

cdef int saw_extension(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.extensions += <uint32_t>length
    return 0

cdef int saw_headers(llhttp_t* parser) noexcept nogil:
    seen.headers_complete += 1
    return HPE_PAUSED

cdef int saw_body(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    seen.body += <uint32_t>length
    return 0

cdef int saw_complete(llhttp_t* parser) noexcept nogil:
    seen.complete += 1
    return HPE_PAUSED

cdef int saw_chunk(llhttp_t* parser) noexcept nogil:
    seen.chunks += 1
    return 0


cdef size_t agreed_bytes(const unsigned char* a, const unsigned char* b, size_t size) noexcept nogil:
    # Both buffers were filled with different canaries, so bytes agree only where the library wrote; its last write is its sizeof.
    cdef size_t last = 0
    cdef size_t i
    for i in range(size):
        if a[i] == b[i]:
            last = i + 1
    return last


cdef int probe_sizes() except -1:
    cdef unsigned char a[512]
    cdef unsigned char b[512]
    cdef llhttp_settings_t settings
    cdef size_t parser_bytes, settings_bytes
    memset(a, 0xAA, 512)
    memset(b, 0x55, 512)
    llhttp.settings_init(<llhttp_settings_t*>a)
    llhttp.settings_init(<llhttp_settings_t*>b)
    settings_bytes = agreed_bytes(a, b, 512)
    memset(&settings, 0, sizeof(settings))
    memset(a, 0xAA, 512)
    memset(b, 0x55, 512)
    llhttp.init(<llhttp_t*>a, LLHTTP_REQUEST, &settings)
    llhttp.init(<llhttp_t*>b, LLHTTP_REQUEST, &settings)
    parser_bytes = agreed_bytes(a, b, 512)
    if settings_bytes != sizeof(llhttp_settings_t) or parser_bytes != sizeof(llhttp_t):
        raise ParserMismatch(
            f"llhttp's structs are {parser_bytes} and {settings_bytes} bytes, expected {sizeof(llhttp_t)} and "
            f"{sizeof(llhttp_settings_t)}; {_REMEDY}")
    return 0


cdef int expect(bint condition, str what) except -1:
    if not condition:
        raise ParserMismatch(f"llhttp behaves differently from what this build expects ({what}); {_REMEDY}")
    return 0


cdef int probe_behaviour() except -1:
    cdef llhttp_settings_t settings
    cdef llhttp_t parser
    cdef bytes request = b"PUT /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;k=v\r\nhello\r\n0\r\nT: u\r\n\r\nGET"
    cdef bytes response = b"HTTP/1.0 204 Fine\r\nContent-Length: 77\r\n\r\n"
    cdef const char* data = request
    cdef size_t head = request.index(b"5;k")
    cdef int error
    llhttp.settings_init(&settings)
    settings.on_message_begin = saw_begin
    settings.on_url = saw_url
    settings.on_status = saw_status
    settings.on_header_field = saw_field
    settings.on_header_value = saw_value
    settings.on_chunk_extension_name = saw_extension
    settings.on_chunk_extension_value = saw_extension
    settings.on_headers_complete = saw_headers
    settings.on_body = saw_body
    settings.on_message_complete = saw_complete
    settings.on_chunk_header = saw_chunk
    memset(&seen, 0, sizeof(seen))
    llhttp.init(&parser, LLHTTP_REQUEST, &settings)
    parser.data = &seen
    error = llhttp.execute(&parser, data, len(request))
    expect(error == HPE_PAUSED and seen.headers_complete == 1, "pause at the end of the head")
    expect(parser.data == &seen and parser.settings == &settings, "pointers")
    expect(parser.error_pos == data + head, f"position after the head, {parser.error_pos - data} for {head}")
    expect(parser.method == METHOD_PUT and parser.http_major == 1 and parser.http_minor == 1, "method and version")
    expect(parser.flags & F_CHUNKED, "chunked flag")
    expect(seen.begun == 1 and seen.url == 4 and seen.fields == 21 and seen.values == 8, "request callbacks")
    llhttp.resume(&parser)
    error = llhttp.execute(&parser, data + head, len(request) - head)
    expect(error == HPE_PAUSED and seen.complete == 1, "pause at the end of the message")
    expect(parser.error_pos == data + request.index(b"GET"), "position after the message")
    expect(seen.body == 5 and seen.chunks == 2 and seen.extensions == 2 and seen.fields == 22, "body callbacks")
    memset(&seen, 0, sizeof(seen))
    llhttp.init(&parser, LLHTTP_RESPONSE, &settings)
    data = response
    error = llhttp.execute(&parser, data, len(response))
    expect(error == HPE_PAUSED and parser.error_pos == data + len(response), "response head")
    expect(parser.status_code == 204 and parser.http_minor == 0 and parser.content_length == 77, "status and length")
    expect(seen.status == 4, "status callback")
    return 0


cdef void* resolve(void* library, bytes name) except NULL:
    cdef void* found = dlsym(library, name)
    if found == NULL:
        raise ParserMismatch(f"httptools does not export {name.decode()}; {_REMEDY}")
    return found


cdef object find_module(str name, path):
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


cdef str library_path():
    """Where the module that holds llhttp is. It is found but not imported: httptools brings `typing`, 20 ms of every worker's start."""
    package = find_module("httptools", None)
    if package is not None and package.submodule_search_locations:
        for folder in package.submodule_search_locations:
            module = find_module("httptools.parser.parser", [f"{folder}/parser"])
            if module is not None and module.origin:
                return module.origin
    import httptools.parser.parser as imported
    return imported.__file__


cdef int llhttp_bind() except -1:
    """Resolves and probes llhttp once a process.

    Errors: ParserMismatch, saying what differed and which releases are supported.
    """
    if llhttp.execute != NULL:
        return 0
    cdef str path = library_path()
    cdef void* library = dlopen(path.encode(), RTLD_LAZY)
    if library == NULL:
        raise ParserMismatch(f"cannot open {path}: {(<bytes>dlerror()).decode()}; {_REMEDY}")
    llhttp.init = <void (*)(llhttp_t*, int, const llhttp_settings_t*) noexcept nogil>resolve(library, b"llhttp_init")
    llhttp.settings_init = <void (*)(llhttp_settings_t*) noexcept nogil>resolve(library, b"llhttp_settings_init")
    llhttp.resume = <void (*)(llhttp_t*) noexcept nogil>resolve(library, b"llhttp_resume")
    llhttp.errno_name = <const char* (*)(int) noexcept nogil>resolve(library, b"llhttp_errno_name")
    llhttp.method_name = <const char* (*)(int) noexcept nogil>resolve(library, b"llhttp_method_name")
    llhttp.execute = <int (*)(llhttp_t*, const char*, size_t) noexcept nogil>resolve(library, b"llhttp_execute")
    try:
        probe_sizes()
        probe_behaviour()
    except BaseException:
        llhttp.execute = NULL
        raise
    return 0


def bind():
    """Binds and probes; returns the version of httptools. Raises ParserMismatch."""
    llhttp_bind()
    from importlib.metadata import version  # costs more to import than all of this module
    return version("httptools")
