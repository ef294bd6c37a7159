"""Route matching over the ROUTES sections of a snapshot: the third stage of a request.

route_match touches no Python object, takes no lock and allocates nothing.
"""

from libc.stdint cimport uint8_t, uint32_t

from bascule.routing.table cimport RouteTable


cdef enum:
    ROUTE_PARAMS_MAX = 16

cdef struct Slice:
    const char* data              # borrowed
    uint32_t length

cdef struct HeaderSlice:
    Slice name                    # as received, any case
    Slice value                   # without surrounding white space

cdef struct RouteRequest:
    # Owner: the caller, on its stack. All slices are borrowed for the call.
    Slice host                    # lower case, without port; IPv6 literals with their brackets; empty if none
    Slice path                    # canonical (routing/path.pxd)
    Slice query                   # after '?', raw; empty if none
    Slice method                  # as received
    const HeaderSlice* headers
    uint32_t header_count
    uint8_t client_ip[16]         # IPv6, IPv4 as ::ffff:a.b.c.d; all zero for unix clients

cdef struct RouteParam:
    Slice name                    # points into the image
    Slice value                   # points into host, path or a header of the request

cdef struct RouteMatch:
    uint32_t frontend             # index into SECTION_FRONTENDS; NO_INDEX when nothing matched
    uint32_t param_count
    RouteParam params[16]

cdef void route_match(const RouteTable* table, const RouteRequest* request, RouteMatch* match) noexcept nogil
