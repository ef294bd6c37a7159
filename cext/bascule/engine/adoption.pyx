"""See adoption.pxd."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from bascule.engine.system cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from bascule.routing.table cimport (
    RouteBase, RouteTable, route_base_open, route_base_release, route_table_base, route_table_join, route_table_open,
)
from bascule.shared.snapshot cimport (
    IMAGE_HEADER_SIZE, IMAGE_RECORDS, SNAPSHOT_BAD_ROUTES, SNAPSHOT_NO_MEMORY, SNAPSHOT_OK, SNAPSHOT_TOO_SHORT,
    SNAPSHOT_UNKNOWN_BASE, ImageHeader, Snapshot, snapshot_check_base, snapshot_names_base, snapshot_open,
)

cdef extern from "<sys/mman.h>" nogil:
    int MAP_POPULATE              # all of it is read at once: one call instead of a fault for every 16 pages


cdef int map_image(int fd, uint64_t size, const uint8_t** image) noexcept nogil:
    cdef void* mapped
    if size < IMAGE_HEADER_SIZE:
        return SNAPSHOT_TOO_SHORT
    mapped = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0)
    if mapped == MAP_FAILED:
        return -errno
    image[0] = <const uint8_t*>mapped
    return SNAPSHOT_OK


cdef RouteBase* known_base(const ImageHeader* records, const Snapshot* previous) noexcept nogil:
    """The base of the snapshot in force if it is the one that `records` names, with a reference for the caller."""
    cdef RouteBase* base
    if previous == NULL or (<const ImageHeader*>previous.base).kind != IMAGE_RECORDS:
        return NULL
    base = route_table_base(<const RouteTable*>previous.routes)
    if not snapshot_names_base(records, <const ImageHeader*>base.image):
        return NULL
    base.references += 1
    return base


cdef int new_base(RouteBase** out, const Snapshot* snapshot, int fd, uint64_t size) noexcept nogil:
    cdef const uint8_t* image = NULL
    cdef int code = map_image(fd, size, &image)
    if code != SNAPSHOT_OK:
        return code
    code = snapshot_check_base(image, size)
    if code == SNAPSHOT_OK and not snapshot_names_base(<const ImageHeader*>snapshot.base, <const ImageHeader*>image):
        code = SNAPSHOT_UNKNOWN_BASE
    if code == SNAPSHOT_OK:
        out[0] = route_base_open(image, size, snapshot.frontend_count)
        if out[0] == NULL:
            code = SNAPSHOT_BAD_ROUTES
    if code != SNAPSHOT_OK:
        munmap(<void*>image, size)
        return code
    out[0].mapped = True
    return SNAPSHOT_OK


cdef int open_routes(Snapshot* snapshot, int base_fd, uint64_t base_size, const Snapshot* previous) noexcept nogil:
    cdef RouteBase* base
    cdef const RouteTable* earlier = NULL
    cdef int code = SNAPSHOT_OK
    if (<const ImageHeader*>snapshot.base).kind != IMAGE_RECORDS:
        snapshot.routes = route_table_open(snapshot.base, snapshot.size, snapshot.frontend_count)
        return SNAPSHOT_OK if snapshot.routes != NULL else SNAPSHOT_BAD_ROUTES
    base = known_base(<const ImageHeader*>snapshot.base, previous)
    if base != NULL:
        earlier = <const RouteTable*>previous.routes
    elif base_fd < 0:
        return SNAPSHOT_UNKNOWN_BASE
    else:
        code = new_base(&base, snapshot, base_fd, base_size)
        if code != SNAPSHOT_OK:
            return code
    snapshot.routes = route_table_join(base, snapshot.base, snapshot.size, snapshot.frontend_count, earlier)
    route_base_release(base)
    return SNAPSHOT_OK if snapshot.routes != NULL else SNAPSHOT_BAD_ROUTES


cdef int snapshot_adopt(Snapshot** out, int records_fd, uint64_t records_size, int base_fd, uint64_t base_size,
                        const Snapshot* previous) noexcept nogil:
    cdef Snapshot* snapshot
    cdef const uint8_t* image = NULL
    cdef int code = map_image(records_fd, records_size, &image)
    if code != SNAPSHOT_OK:
        return code
    snapshot = <Snapshot*>calloc(1, sizeof(Snapshot))
    code = snapshot_open(snapshot, image, records_size) if snapshot != NULL else SNAPSHOT_NO_MEMORY
    if code == SNAPSHOT_OK:
        code = open_routes(snapshot, base_fd, base_size, previous)
    if code != SNAPSHOT_OK:
        free(snapshot)
        munmap(<void*>image, records_size)
        return code
    snapshot.references = 1
    out[0] = snapshot
    return SNAPSHOT_OK
