"""See seal.pxd."""

import fcntl
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from bascule.shared.checksum cimport checksum_crc32
from bascule.shared.snapshot cimport IMAGE_HEADER_SIZE, IMAGE_LAYOUT_VERSION, IMAGE_SECTIONS_MAX, ImageHeader


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec* vectors, int count)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* data, size_t size, long offset)

cdef extern from *:
    """
    #define IMAGE_MAGIC "BSCLSNAP"
    """
    const char* IMAGE_MAGIC


cdef uint32_t image_checksum(const ImageHeader* header, const uint8_t* body, uint64_t size) noexcept nogil:
    """Of the header and what follows it; nothing is read where `size` is 0."""
    cdef uint8_t[512] head
    memset(head, 0, IMAGE_HEADER_SIZE)
    memcpy(head, header, sizeof(ImageHeader))
    (<ImageHeader*>head).checksum = 0
    return checksum_crc32(checksum_crc32(0, head, IMAGE_HEADER_SIZE), body, size)


cdef void lay_out(ImageHeader* header, const Part* parts, uint32_t count) noexcept nogil:
    """Fills in what follows from the sections but the checksum. An empty section has no place."""
    cdef uint64_t size = IMAGE_HEADER_SIZE
    cdef uint32_t i
    memset(header.sections, 0, sizeof(header.sections))
    for i in range(count):
        if parts[i].size:
            header.sections[parts[i].number].offset = size
            header.sections[parts[i].number].size = parts[i].size
            size += (parts[i].size + 7) & ~<uint64_t>7
    memcpy(header.magic, IMAGE_MAGIC, 8)
    header.layout_version = IMAGE_LAYOUT_VERSION
    header.header_size = IMAGE_HEADER_SIZE
    header.size = size
    header.section_count = IMAGE_SECTIONS_MAX


cdef void copy_parts(uint8_t* base, ImageHeader* header, const Part* parts, uint32_t count) noexcept nogil:
    """Writes an image of header.size bytes to `base`."""
    cdef uint8_t* at
    cdef uint32_t i
    for i in range(count):
        if parts[i].size:
            at = base + header.sections[parts[i].number].offset
            memcpy(at, parts[i].data, parts[i].size)
            memset(at + parts[i].size, 0, -parts[i].size & 7)
    header.checksum = image_checksum(header, base + IMAGE_HEADER_SIZE, header.size - IMAGE_HEADER_SIZE)
    memset(base, 0, IMAGE_HEADER_SIZE)
    memcpy(base, header, sizeof(ImageHeader))


cdef bytes pack_image(ImageHeader* header, const Part* parts, uint32_t count):
    cdef bytes image
    cdef uint8_t* place
    lay_out(header, parts, count)
    image = PyBytes_FromStringAndSize(NULL, header.size)
    place = <uint8_t*>PyBytes_AS_STRING(image)
    with nogil:
        copy_parts(place, header, parts, count)
    return image


def assemble(uint64_t revision, sections, *, uint64_t store_revision=0, uint64_t store_identity=0, uint32_t kind=0,
             SealedImage base=None) -> bytes:
    """The image of `sections` (section number -> its bytes): header, sections in ascending order, alignment, checksum.

    `kind` is an ImageKind; `base` is the routes base that a records image is to name. Deterministic: the same arguments give
    the same bytes. Raises ValueError for a number outside 0..23.
    """
    cdef ImageHeader header
    cdef Part[24] parts
    cdef Py_buffer[24] views
    cdef uint32_t count = 0, i
    memset(&header, 0, sizeof(header))
    header.revision = revision
    header.store_revision = store_revision
    header.store_identity = store_identity
    header.kind = kind
    if base is not None:
        header.base_sequence, header.base_size, header.base_checksum = base.revision, base.size, base.checksum
    for key in sections:
        if not 0 <= key < IMAGE_SECTIONS_MAX:
            raise ValueError(f"section {key}: sections are numbered 0 to {IMAGE_SECTIONS_MAX - 1}")
    try:
        for key in sorted(sections):
            PyObject_GetBuffer(sections[key], &views[count], PyBUF_SIMPLE)
            parts[count].number = key
            parts[count].data = views[count].buf
            parts[count].size = views[count].len
            count += 1
        return pack_image(&header, parts, count)
    finally:
        for i in range(count):
            PyBuffer_Release(&views[i])


cdef int SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


cdef class SealedImage:
    """An image in a sealed memfd; the descriptor is closed with the object."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def fileno(self) -> int:
        return self.fd

    def duplicate(self) -> int:
        """A descriptor of its own for the caller, who closes it."""
        return os.dup(self.fd)

    def read(self) -> bytes:
        """A copy of the bytes."""
        return os.pread(self.fd, self.size, 0)


cdef int write_all(int fd, ImageHeader* header, const Part* parts, uint32_t count) noexcept nogil:
    """Header and parts by writev(2), which spares the page faults of a mapping; 0, or -1 and errno."""
    cdef iovec[52] vectors
    cdef uint64_t[1] zeros
    cdef uint8_t[512] head
    cdef uint32_t used = 1, first = 0, i
    cdef uint64_t padding
    cdef ssize_t written
    zeros[0] = 0
    header.checksum = image_checksum(header, NULL, 0)
    for i in range(count):
        if parts[i].size == 0:
            continue
        vectors[used].iov_base = <void*>parts[i].data
        vectors[used].iov_len = parts[i].size
        header.checksum = checksum_crc32(header.checksum, <const uint8_t*>parts[i].data, parts[i].size)
        used += 1
        padding = -parts[i].size & 7
        if padding:
            vectors[used].iov_base = zeros
            vectors[used].iov_len = padding
            header.checksum = checksum_crc32(header.checksum, <const uint8_t*>zeros, padding)
            used += 1
    memset(head, 0, IMAGE_HEADER_SIZE)
    memcpy(head, header, sizeof(ImageHeader))
    vectors[0].iov_base = head
    vectors[0].iov_len = IMAGE_HEADER_SIZE
    while first < used:
        written = writev(fd, &vectors[first], <int>(used - first))
        if written < 0:
            return -1
        while first < used and <size_t>written >= vectors[first].iov_len:
            written -= vectors[first].iov_len
            first += 1
        if first < used:
            vectors[first].iov_base = <char*>vectors[first].iov_base + written
            vectors[first].iov_len -= written
    return 0


cdef SealedImage seal_image(ImageHeader* header, const Part* parts, uint32_t count):
    cdef SealedImage image = SealedImage.__new__(SealedImage)
    cdef int result
    lay_out(header, parts, count)
    image.fd = os.memfd_create("bascule-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with nogil:
        result = write_all(image.fd, header, parts, count)
    if result != 0:
        raise OSError(errno, os.strerror(errno), "the memfd of a snapshot")
    fcntl.fcntl(image.fd, fcntl.F_ADD_SEALS, SEALS)
    image.size = header.size
    image.revision = header.revision
    image.checksum = header.checksum
    return image


cdef SealedImage adopt_image(int fd):
    cdef SealedImage image = SealedImage.__new__(SealedImage)
    cdef ImageHeader header
    image.fd = fd
    if not is_sealed(fd) or pread(fd, &header, sizeof(header), 0) != sizeof(header):
        raise ValueError("the descriptor holds no sealed image")
    image.size = header.size
    image.revision = header.revision
    image.checksum = header.checksum
    return image


def make_memfd(data) -> int:
    """A new close-on-exec memfd that holds `data` and can never change again; the caller closes it."""
    fd = os.memfd_create("bascule-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left):]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_sealed(int fd) -> bool:
    """Whether the descriptor's bytes can no longer change, so that a mapping needs no second look."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:
        return False
