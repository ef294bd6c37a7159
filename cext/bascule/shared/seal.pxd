"""Images put together and sealed: the writer's side of snapshot.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.shared.snapshot cimport ImageHeader


cdef struct Part:                 # one section of an image being sealed; borrowed
    uint32_t number               # ImageSection, ascending in an array of them
    const void* data
    uint64_t size

cdef class SealedImage:
    # An image in a sealed memfd. Owner: whoever holds the object; the descriptor dies with it.
    cdef readonly int fd
    cdef readonly uint64_t size
    cdef readonly uint64_t revision
    cdef readonly uint32_t checksum

# `header` needs revision, store_*, base_* and kind; the rest is filled in.
cdef SealedImage seal_image(ImageHeader* header, const Part* parts, uint32_t count)
cdef bytes pack_image(ImageHeader* header, const Part* parts, uint32_t count)   # the same, in memory

# The image in a sealed memfd that somebody else has made: takes the descriptor over. What it says is not looked at.
cdef SealedImage adopt_image(int fd)

# Of an image whose header is `header` and whose `size` bytes after it are `body`.
cdef uint32_t image_checksum(const ImageHeader* header, const uint8_t* body, uint64_t size) noexcept nogil
