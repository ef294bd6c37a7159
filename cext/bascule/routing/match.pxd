"""Route matching over the ROUTES sections of a snapshot image: the third stage of a request.

The trie and its predicates are position-independent records in the image (layout: routing/layout.pxd). A RouteTable is
what one worker holds beside them: validated pointers, and the compiled regular expressions, which cannot be shared.

Owner of a RouteTable: the Snapshot that opened it. Writer: route_table_open alone. Dies: route_table_close.
route_match touches no Python object, takes no lock and allocates nothing.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


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

cdef struct RouteTable:           # the beginning of match.pyx's OpenTable. Complete, not only named: a struct that C first meets in
    uint64_t reserved             # a parameter list would be another type in every file (an error for gcc 14)

cdef RouteTable* route_table_open(const uint8_t* image, uint64_t size, uint32_t frontend_count) noexcept nogil
cdef void route_table_close(RouteTable* table) noexcept nogil
cdef void route_match(const RouteTable* table, const RouteRequest* request, RouteMatch* match) noexcept nogil
