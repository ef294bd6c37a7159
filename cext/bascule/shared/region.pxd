"""A mapped shared-memory region, as Python objects hold it."""

from libc.stdint cimport uint8_t, uint64_t


cdef struct Mapping:
    # Owner: the object that mapped it. Dies: region_unmap.
    uint8_t* base                 # NULL when not mapped
    uint64_t size

cdef int region_map(Mapping* mapping, int fd, bint writable) except -1  # OSError; the whole descriptor, MAP_SHARED
cdef void region_unmap(Mapping* mapping) noexcept

# Maps `size` bytes of the descriptor (MAP_SHARED) so that huge pages can back them: on a huge page's boundary, which
# Linux chooses by itself for files but not for memfds. NULL and errno when it fails; undone by munmap.
cdef uint8_t* region_map_aligned(int fd, uint64_t size, bint writable) noexcept nogil

# A close-on-exec memfd of `size` zero bytes, whose size is fixed.
cdef int region_create(const char* name, uint64_t size) except -1
