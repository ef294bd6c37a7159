"""See chunked.pxd. RFC 9112 section 7.1."""

from libc.string cimport strlen

from bascule.codec.llhttp cimport (
    HPE_OK,
    HPE_PAUSED,
    LLHTTP_REQUEST,
    LLHTTP_RESPONSE,
    LlhttpTable,
    llhttp_settings_t,
    llhttp_t,
    llhttp_table,
)
from bascule.engine.memory cimport Buf, slab_get
from bascule.engine.system cimport memcpy, memmove, unlikely
from bascule.engine.types cimport EXTENSIONS_MAX, TRAILERS_MAX

cdef llhttp_settings_t body_settings
cdef LlhttpTable* parser_table
cdef llhttp_t after_head[2]       # llhttp behind the head of a chunked request and of a chunked response

cdef enum:
    FRAMING_BYTES_FREE = 65536    # of chunk framing in one message, beside
    FRAMING_RATIO_MAX = 16        # bytes of it for each byte of body: three times what one-byte chunks need
    ABORT = -1                    # any value llhttp does not know stops it


# ---- callbacks (parser.data is the Direction) ------------------------------------------------------------------------------
cdef int on_body(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    # Decoded bytes of one read are moved together, so that they leave as one chunk; a single chunk is not moved at all.
    cdef Direction* direction = <Direction*>parser.data
    if direction.body_length == 0:
        direction.body_data = <char*>at
    elif direction.body_data + direction.body_length != at:
        memmove(direction.body_data + direction.body_length, at, length)
    direction.body_length += <uint32_t>length
    return 0


cdef int on_extension(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    cdef Direction* direction = <Direction*>parser.data
    direction.extension_bytes += <uint32_t>length
    if direction.extension_bytes > EXTENSIONS_MAX:
        return ABORT
    return 0


cdef int trailer_append(Direction* direction, const char* at, size_t length) noexcept nogil:
    cdef Buf* buf = direction.trailers
    if buf == NULL:
        buf = <Buf*>slab_get(direction.bufs)
        if buf == NULL:
            return ABORT
        buf.next = NULL
        buf.start = 0
        buf.end = 0
        direction.trailers = buf
    if buf.end + length > TRAILERS_MAX:
        return ABORT
    memcpy(buf.data + buf.end, at, length)
    buf.end += <uint32_t>length
    return 0


cdef int on_trailer_field(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    return trailer_append(<Direction*>parser.data, at, length)


cdef int on_trailer_field_complete(llhttp_t* parser) noexcept nogil:
    return trailer_append(<Direction*>parser.data, b": ", 2)


cdef int on_trailer_value(llhttp_t* parser, const char* at, size_t length) noexcept nogil:
    return trailer_append(<Direction*>parser.data, at, length)


cdef int on_trailer_value_complete(llhttp_t* parser) noexcept nogil:
    return trailer_append(<Direction*>parser.data, b"\r\n", 2)


cdef int on_message_complete(llhttp_t* parser) noexcept nogil:
    (<Direction*>parser.data).body_complete = True
    return HPE_PAUSED


cdef int on_pause(llhttp_t* parser) noexcept nogil:
    return HPE_PAUSED


cdef void pause_behind_head(llhttp_t* parser, int type_, const char* text) noexcept nogil:
    cdef llhttp_settings_t settings
    parser_table.settings_init(&settings)
    settings.on_headers_complete = on_pause
    parser_table.init(parser, type_, &settings)
    parser_table.execute(parser, text, strlen(text))


cdef void chunked_bind() noexcept nogil:
    global parser_table
    parser_table = llhttp_table()
    parser_table.settings_init(&body_settings)
    body_settings.on_body = on_body
    body_settings.on_chunk_extension_name = on_extension
    body_settings.on_chunk_extension_value = on_extension
    body_settings.on_header_field = on_trailer_field
    body_settings.on_header_field_complete = on_trailer_field_complete
    body_settings.on_header_value = on_trailer_value
    body_settings.on_header_value_complete = on_trailer_value_complete
    body_settings.on_message_complete = on_message_complete
    pause_behind_head(&after_head[0], LLHTTP_REQUEST, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    pause_behind_head(&after_head[1], LLHTTP_RESPONSE, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


cdef void body_begin_chunked(Direction* direction) noexcept nogil:
    if not direction.llhttp_begun:
        direction.parser = after_head[<uint32_t>direction.is_response]
        direction.llhttp_begun = True
    direction.parser.settings = &body_settings
    direction.parser.data = direction
    direction.extension_bytes = 0
    direction.framing_bytes = 0
    direction.body_complete = False
    parser_table.resume(&direction.parser)


cdef int body_feed_chunked(Direction* direction, char* data, uint32_t length, uint32_t* consumed) noexcept nogil:
    """Decodes in place: the decoded bytes are body_data[0 : body_length]. `consumed` < length only when complete."""
    cdef int error
    direction.body_length = 0
    direction.body_data = data
    error = parser_table.execute(&direction.parser, data, length)
    if error == HPE_OK:
        consumed[0] = length
    elif error == HPE_PAUSED and direction.body_complete:
        consumed[0] = <uint32_t>(direction.parser.error_pos - data)
    else:
        return BODY_BAD
    # Leading zeros, empty extensions and one-byte chunks: framing in no proportion to the body it frames (CVE-2023-39326).
    direction.framing_bytes += consumed[0] - direction.body_length
    if unlikely(direction.framing_bytes > FRAMING_BYTES_FREE + FRAMING_RATIO_MAX * (direction.bytes + direction.body_length)):
        return BODY_BAD
    return BODY_COMPLETE if direction.body_complete else BODY_MORE
