"""llhttp, called at C speed through the symbols that httptools' wheel exports (httptools >= 0.7.1, < 0.10).

The wheel ships no llhttp.h; the two structs below are llhttp 9.3 - 9.4's, which all these releases share. llhttp_bind resolves the
functions from the installed module, then proves size, offsets and behaviour (docs/parsing.md) and refuses on any difference.

Owner of the table: this module, written once by llhttp_bind before the first connection, then read only.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct llhttp_t:             # 96 bytes
    int32_t _index
    void* _span_pos0
    void* _span_cb0
    int32_t error
    const char* reason
    const char* error_pos
    void* data                    # ours: the Exchange
    void* _current
    uint64_t content_length
    uint8_t type
    uint8_t method
    uint8_t http_major
    uint8_t http_minor
    uint8_t header_state
    uint16_t lenient_flags
    uint8_t upgrade
    uint8_t finish
    uint16_t flags
    uint16_t status_code
    uint8_t initial_message_completed
    void* settings

ctypedef int (*llhttp_data_cb)(llhttp_t* parser, const char* at, size_t length) noexcept nogil
ctypedef int (*llhttp_cb)(llhttp_t* parser) noexcept nogil

cdef struct llhttp_settings_t:    # 200 bytes: 25 slots
    llhttp_cb on_message_begin
    llhttp_data_cb on_protocol
    llhttp_data_cb on_url
    llhttp_data_cb on_status
    llhttp_data_cb on_method
    llhttp_data_cb on_version
    llhttp_data_cb on_header_field
    llhttp_data_cb on_header_value
    llhttp_data_cb on_chunk_extension_name
    llhttp_data_cb on_chunk_extension_value
    llhttp_cb on_headers_complete
    llhttp_data_cb on_body
    llhttp_cb on_message_complete
    llhttp_cb on_protocol_complete
    llhttp_cb on_url_complete
    llhttp_cb on_status_complete
    llhttp_cb on_method_complete
    llhttp_cb on_version_complete
    llhttp_cb on_header_field_complete
    llhttp_cb on_header_value_complete
    llhttp_cb on_chunk_extension_name_complete
    llhttp_cb on_chunk_extension_value_complete
    llhttp_cb on_chunk_header
    llhttp_cb on_chunk_complete
    llhttp_cb on_reset

cdef enum:
    LLHTTP_REQUEST = 1
    LLHTTP_RESPONSE = 2
    HPE_OK = 0
    HPE_PAUSED = 21
    HPE_PAUSED_UPGRADE = 22
    F_CHUNKED = 8
    METHOD_DELETE = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_CONNECT = 5
    METHOD_OPTIONS = 6
    METHOD_TRACE = 7
    METHOD_PATCH = 28

cdef struct LlhttpTable:
    void (*init)(llhttp_t* parser, int type, const llhttp_settings_t* settings) noexcept nogil
    void (*settings_init)(llhttp_settings_t* settings) noexcept nogil
    int (*execute)(llhttp_t* parser, const char* data, size_t length) noexcept nogil
    void (*resume)(llhttp_t* parser) noexcept nogil
    const char* (*errno_name)(int error) noexcept nogil
    const char* (*method_name)(int method) noexcept nogil

cdef LlhttpTable llhttp
cdef LlhttpTable* llhttp_table() noexcept nogil
cdef int llhttp_bind() except -1
