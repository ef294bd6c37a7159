"""Route matching over the ROUTES sections of a snapshot image: the third stage of a request.

The trie and its predicates are position-independent records in the image (layout: routing/layout.pxd). A RouteBase and a
RouteTable are what one worker holds beside them: validated pointers, and the compiled regular expressions, which cannot be
shared.

    Snapshot 7 ── RouteTable: delta, retired ──┐
    Snapshot 8 ── RouteTable: delta, retired ──┴── RouteBase (checked once)

Owner of a RouteTable: the Snapshot that opened it. Writer: route_table_open alone. Dies: route_table_close.
Owner of a RouteBase: the RouteTables that refer to it, and its opener until it releases it. Dies: with its last reference.
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

cdef struct RouteBase:            # the beginning of match.pyx's OpenBase
    const uint8_t* image
    uint64_t size
    uint32_t references
    bint mapped                   # unmap the image with the base

# Checks the routes of a base or whole image; one reference is the caller's. NULL = refused, or no memory.
cdef RouteBase* route_base_open(const uint8_t* image, uint64_t size, uint32_t frontend_count) noexcept nogil
cdef void route_base_release(RouteBase* base) noexcept nogil

# The routes of a whole image, which must outlive the table. NULL = refused.
cdef RouteTable* route_table_open(const uint8_t* image, uint64_t size, uint32_t frontend_count) noexcept nogil

# Those of a records image (checked by snapshot_open) and its base, of which the table takes a reference. `previous`, or NULL, is
# the table of an earlier records image, whose compiled regexps are taken over. NULL = refused.
cdef RouteTable* route_table_join(RouteBase* base, const uint8_t* records, uint64_t size, uint32_t frontend_count,
                                  const RouteTable* previous) noexcept nogil
cdef RouteBase* route_table_base(const RouteTable* table) noexcept nogil
cdef void route_table_close(RouteTable* table) noexcept nogil
cdef void route_match(const RouteTable* table, const RouteRequest* request, RouteMatch* match) noexcept nogil
