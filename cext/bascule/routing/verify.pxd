"""Finds and checks the ROUTES sections of an image, so that no content of theirs can make the matcher read outside them or not
end.

Checked: every section's bounds and size; every offset and index; that the nodes form trees (an edge's or slot's target names its
parent, which comes before it), so a search visits each node at most once; that every edge run ends and the slots have a free one.
Not checked: that the trie says what the expressions said; the image's checksum is for accidents, its sealed memfd for the rest.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.routing.view cimport RouteView

# 1 = sound and `view` filled (but for the regexps), 0 = refused. `referenced`, unless NULL, gets a bitmap of the frontends that
# entries lead to, header.frontend_bound bits, for the caller to free.
cdef bint routes_locate(const uint8_t* image, uint64_t size, uint32_t frontend_count, RouteView* view,
                        uint8_t** referenced) noexcept nogil

# Section 16 for a delta of `entry_count` entries beside a base of `base_entries`; NULL when it is refused.
cdef const uint32_t* positions_locate(const uint8_t* image, uint64_t size, uint32_t entry_count,
                                      uint32_t base_entries) noexcept nogil

# Section 17 for a base with that bound; 0 = refused, and `retired` is NULL when there is none.
cdef bint retired_locate(const uint8_t* image, uint64_t size, uint32_t frontend_bound, const uint8_t** retired) noexcept nogil
