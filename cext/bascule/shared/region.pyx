"""Making and mapping shared-memory regions: see region.pxd."""

import fcntl
import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE,
    madvise, mmap, munmap
)

from bascule.shared.atomic cimport load32


cdef enum:
    HUGE_PAGE_SIZE = 2 << 20
    ADVISE_COLLAPSE = 25          # MADV_COLLAPSE, Linux 6.1; works whatever shmem_enabled in sysfs says


class RegionError(ValueError):
    """The descriptor holds no region that this version of the program can use; the text says which and why."""


cdef uint8_t* region_map_aligned(int fd, uint64_t size, bint writable) noexcept nogil:
    cdef uint64_t length = (size + 4095) & ~<uint64_t>4095
    cdef uint64_t spare = HUGE_PAGE_SIZE
    cdef uint64_t before
    cdef void* base = mmap(NULL, length + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    cdef uint8_t* start
    cdef int access = PROT_READ | PROT_WRITE if writable else PROT_READ
    if base == MAP_FAILED:
        return NULL
    before = -<uintptr_t>base & (spare - 1)
    start = <uint8_t*>base + before
    if before:
        munmap(base, before)
    if before < spare:
        munmap(start + length, spare - before)
    if mmap(start, size, access, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
        munmap(start, length)
        return NULL
    return start


cdef int region_map(Mapping* mapping, int fd, bint writable) except -1:
    cdef uint64_t size = os.fstat(fd).st_size
    mapping.base = NULL
    mapping.size = 0
    if size == 0:
        raise RegionError(f"descriptor {fd} is empty: it is no shared region")
    mapping.base = region_map_aligned(fd, size, writable)
    if mapping.base == NULL:
        raise OSError(errno, f"cannot map the region of {size} bytes on descriptor {fd}; is the address space limited"
                             " (ulimit -v)?")
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


def use_huge_pages(int fd) -> int:
    """Backs a region by huge pages as far as the kernel does it now, and returns the bytes that are.

    A table that is read at random costs a walk through the page tables at every read (docs/shared-memory.md has figures).
    The price is that the whole region is then resident. Call it once, in any one process, when the region is really
    used; takes some ms, during which others may use the region.
    """
    cdef Mapping mapping
    cdef uint64_t offset = 0, backed = 0
    region_map(&mapping, fd, True)
    with nogil:
        while offset + HUGE_PAGE_SIZE <= mapping.size:
            # A hole cannot be collapsed: the read gives it its first page.
            load32(<const uint32_t*>(mapping.base + offset))
            if madvise(mapping.base + offset, HUGE_PAGE_SIZE, ADVISE_COLLAPSE) == 0:
                backed += HUGE_PAGE_SIZE
            offset += HUGE_PAGE_SIZE
    region_unmap(&mapping)
    return backed
