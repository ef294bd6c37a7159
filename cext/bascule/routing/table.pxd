"""Routes opened: what one worker holds beside the images.

The trie and its predicates are position-independent records in the image (layout: routing/layout.pxd). A RouteBase and a
RouteTable are what one worker holds beside them: validated pointers, and the compiled regular expressions, which cannot be
shared.

    Snapshot 7 ── RouteTable: delta, retired ──┐
    Snapshot 8 ── RouteTable: delta, retired ──┴── RouteBase (checked once)

Owner of a RouteTable: the Snapshot that opened it. Writer: route_table_open alone. Dies: route_table_close.
Owner of a RouteBase: the RouteTables that refer to it, and its opener until it releases it. Dies: with its last reference.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.routing.pcre cimport PcreCode
from bascule.routing.view cimport RouteView


cdef struct RouteTable:           # the beginning of OpenTable. Complete, not only named: a struct that C first meets in
    uint64_t reserved             # a parameter list would be another type in every file (an error for gcc 14)

cdef struct RouteBase:            # the beginning of OpenBase
    const uint8_t* image
    uint64_t size
    uint32_t references
    bint mapped                   # unmap the image with the base

cdef struct Regexp:               # of a delta; shared by the tables whose deltas have it
    PcreCode* code
    uint32_t references

cdef struct OpenBase:
    RouteBase face
    RouteView view
    uint8_t* referenced           # bits: frontends that entries of the base lead to

cdef struct OpenTable:            # match.pyx and table.pyx know it by this name
    RouteTable face
    OpenBase* base
    const uint8_t* retired        # NULL: none
    bint has_delta
    RouteView delta
    const uint32_t* positions
    Regexp** regexps              # delta.header.regexp_count of them

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


cdef inline bint bit(const uint8_t* bits, uint32_t number) noexcept nogil:
    return bits[number >> 3] >> (number & 7) & 1
