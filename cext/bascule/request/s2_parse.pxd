"""Stage 2, read and parse: bytes to a checked request.

    CLIENT_IDLE --first byte--> CLIENT_HEAD --whole head--> checks --> s3_route

May do: read from the client, reply. May fail with: bad_request 400, request_timeout 408, too_large 413/414/431, 405, 417, 501, 505.
Hands over to: s3_route. After any 400 the connection is closed.
"""

from libc.stdint cimport uint32_t

from bascule.codec.head cimport Semantics
from bascule.engine.types cimport Conn, Engine, Exchange
from bascule.routing.match cimport Slice


cdef struct RequestView:
    # What the stages between parsing and forwarding know of the request. Lives on client_read's stack; slices point
    # into the client's input or into Engine.compose (a rewritten path).
    Slice method
    Slice path                    # canonical
    Slice route_path              # the same, but "/" for the asterisk form
    Slice query                   # without "?"
    Slice authority               # as received: the Host header, or the authority of an absolute-form target
    Slice host                    # host_lower, without port
    bint has_query
    bint http_10
    bint said_proto               # kept from a trusted proxy
    bint said_host
    bint said_id
    Semantics semantics
    char host_lower[256]

ctypedef void (*request_ready)(Engine* engine, Exchange* x, RequestView* view) noexcept nogil

cdef void client_read(Engine* engine, Conn* client, request_ready ready) noexcept nogil
cdef void client_linger(Engine* engine, Conn* client) noexcept nogil

# Steps of client_read by themselves, for bench/.
cdef bint check_request(Engine* engine, Exchange* x, RequestView* view) noexcept nogil    # False: answered, the exchange may be gone
cdef void take_body(Exchange* x, RequestView* view) noexcept nogil
