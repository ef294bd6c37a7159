"""Making and mapping shared-memory regions: see region.pxd."""

import fcntl
import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap


class RegionError(ValueError):
    """The descriptor holds no region that this version of the program can use; the text says which and why."""


cdef int region_map(Mapping* mapping, int fd, bint writable) except -1:
    cdef uint64_t size = os.fstat(fd).st_size
    cdef void* base
    mapping.base = NULL
    mapping.size = 0
    if size == 0:
        raise RegionError(f"descriptor {fd} is empty: it is no shared region")
    base = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
    if base == MAP_FAILED:
        raise OSError(errno, f"cannot map the region of {size} bytes on descriptor {fd}; is the address space limited"
                             " (ulimit -v)?")
    mapping.base = <uint8_t*>base
    mapping.size = size
    return 0


cdef void region_unmap(Mapping* mapping) noexcept:
    if mapping.base != NULL:
        munmap(mapping.base, mapping.size)
    mapping.base = NULL


cdef int region_create(const char* name, uint64_t size) except -1:
    # The size is sealed, so that no process can cut pages away below another one's mapping.
    cdef int fd = os.memfd_create(name.decode(), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd
