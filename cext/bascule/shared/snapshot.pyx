"""Verification of snapshot images: layout and rules in snapshot.pxd, assembly in seal.pyx.

A worker maps what another process wrote, so nothing is believed: snapshot_open proves every offset, length and index
before the first request is routed by them, and the request path then follows them unchecked.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset
from posix.stdlib cimport posix_memalign

from bascule.shared.seal cimport image_checksum

from bascule.shared.seal import SealedImage, assemble, is_sealed, make_memfd  # no-cython-lint: the Python face is one


cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET
    enum: AF_INET6
    enum: AF_UNIX

cdef extern from *:
    """
    #define IMAGE_MAGIC "BSCLSNAP"
    """
    const char* IMAGE_MAGIC

cdef enum:
    SOCKADDR_IN_SIZE = 16
    SOCKADDR_IN6_SIZE = 28
    SOCKADDR_UN_MIN = 3           # family and one byte of path
    SOCKADDR_UN_MAX = 110
    WEIGHT_MAX = 1000
    NO_SECTION = 0xFFFFFFFF

# No sum of a TAT, an interval and a tolerance may leave 63 bits: 2**61 ns are 73 years.
cdef uint64_t RATE_NS_MAX = (<uint64_t>1) << 61

cdef struct Fault:
    # Where a check failed. Owner: the caller's stack.
    int code                      # SnapshotFault
    uint32_t section              # ImageSection, NO_SECTION for the header
    uint32_t record               # index in it


# ---- sections ----

cdef bint range_inside(uint32_t first, uint32_t count, uint32_t total) noexcept nogil:
    return first <= total and count <= total - first


cdef int check_header(const ImageHeader* header, uint64_t size, bint routes) noexcept nogil:
    cdef const uint8_t* rest = <const uint8_t*>header + sizeof(ImageHeader)
    cdef uint32_t i
    if memcmp(header.magic, IMAGE_MAGIC, 8) != 0:
        return SNAPSHOT_BAD_MAGIC
    if header.layout_version != IMAGE_LAYOUT_VERSION:
        return SNAPSHOT_BAD_VERSION
    if header.header_size != IMAGE_HEADER_SIZE or header.size != size or header.section_count != IMAGE_SECTIONS_MAX:
        return SNAPSHOT_BAD_SIZE
    for i in range(<uint32_t>(IMAGE_HEADER_SIZE - sizeof(ImageHeader))):
        if rest[i] != 0:
            return SNAPSHOT_BAD_SIZE
    if header.kind > IMAGE_ROUTES or (header.kind == IMAGE_ROUTES) != routes:
        return SNAPSHOT_BAD_KIND
    if (header.kind == IMAGE_RECORDS) != (header.base_size != 0):
        return SNAPSHOT_BAD_KIND
    return SNAPSHOT_OK


cdef int check_sections(const ImageHeader* header, Fault* fault) noexcept nogil:
    """Every section inside the image, aligned, in ascending order and without overlap."""
    cdef uint64_t end = IMAGE_HEADER_SIZE
    cdef const Section* section
    cdef uint32_t i
    for i in range(<uint32_t>IMAGE_SECTIONS_MAX):
        section = &header.sections[i]
        if section.size == 0:
            continue
        if section.offset % 8 or section.offset < end or section.offset > header.size:
            fault.section = i
            return SNAPSHOT_BAD_SECTION
        if section.size > header.size - section.offset:
            fault.section = i
            return SNAPSHOT_BAD_SECTION
        end = section.offset + section.size
    return SNAPSHOT_OK


cdef const uint8_t* records(const ImageHeader* header, uint32_t number, uint64_t record_size, uint32_t* count,
                            Fault* fault) noexcept nogil:
    """Start of a section of fixed-size records and their count; a size that is no whole number of them is a fault."""
    cdef const Section* section = &header.sections[number]
    count[0] = 0
    if section.size == 0:
        return <const uint8_t*>header
    if section.size % record_size or section.size // record_size >= NO_INDEX:
        fault.code = SNAPSHOT_BAD_SECTION
        fault.section = number
        return <const uint8_t*>header
    count[0] = <uint32_t>(section.size // record_size)
    return <const uint8_t*>header + section.offset


cdef int locate(Snapshot* snapshot, const ImageHeader* header, Fault* fault) noexcept nogil:
    """Fills the pointers and counts of `snapshot`."""
    cdef const Section* strings = &header.sections[<uint32_t>SECTION_STRINGS]
    snapshot.strings = <const char*>snapshot.base + (strings.offset if strings.size else 0)
    snapshot.listeners = <const ListenerRecord*>records(
        header, SECTION_LISTENERS, sizeof(ListenerRecord), &snapshot.listener_count, fault)
    snapshot.backends = <const BackendRecord*>records(
        header, SECTION_BACKENDS, sizeof(BackendRecord), &snapshot.backend_count, fault)
    snapshot.servers = <const ServerRecord*>records(
        header, SECTION_SERVERS, sizeof(ServerRecord), &snapshot.server_count, fault)
    snapshot.frontends = <const FrontendRecord*>records(
        header, SECTION_FRONTENDS, sizeof(FrontendRecord), &snapshot.frontend_count, fault)
    snapshot.middlewares = <const MiddlewareRecord*>records(
        header, SECTION_MIDDLEWARES, sizeof(MiddlewareRecord), &snapshot.middleware_count, fault)
    snapshot.networks = <const Network*>records(
        header, SECTION_NETWORKS, sizeof(Network), &snapshot.network_count, fault)
    return fault.code


# ---- records ----

cdef bint str_inside(Str text, uint64_t strings_size) noexcept nogil:
    return text.offset <= strings_size and text.length <= strings_size - text.offset


cdef bint id_inside(Str text, uint64_t strings_size) noexcept nogil:
    return text.length > 0 and str_inside(text, strings_size)


cdef bint address_valid(const Snapshot* snapshot, Str address, uint64_t strings_size) noexcept nogil:
    """An empty address, or a struct sockaddr whose length fits its family."""
    cdef uint16_t family
    if not str_inside(address, strings_size):
        return False
    if address.length == 0:
        return True
    if address.length < SOCKADDR_UN_MIN:
        return False
    memcpy(&family, snapshot.strings + address.offset, 2)
    if family == AF_INET:
        return address.length == SOCKADDR_IN_SIZE
    if family == AF_INET6:
        return address.length == SOCKADDR_IN6_SIZE
    return family == AF_UNIX and address.length <= SOCKADDR_UN_MAX


cdef bint listener_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    cdef const ListenerRecord* listener = &snapshot.listeners[i]
    if not 1 <= listener.head_bytes_max <= HEAD_BYTES_BOUND or not 1 <= listener.uri_bytes_max <= HEAD_BYTES_BOUND:
        return False
    return id_inside(listener.id, strings_size) and range_inside(
        listener.first_network, listener.network_count, snapshot.network_count)


cdef bint is_zero(const void* record, uint64_t size) noexcept nogil:
    """Whether it is a tombstone; sizes of records are multiples of 8."""
    cdef uint64_t word, i
    for i in range(0, size, 8):
        memcpy(&word, <const uint8_t*>record + i, 8)
        if word != 0:
            return False
    return True


cdef bint backend_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    cdef const BackendRecord* backend = &snapshot.backends[i]
    cdef uint32_t j
    if backend.id.length == 0:
        return is_zero(backend, sizeof(BackendRecord))
    if not id_inside(backend.id, strings_size) or backend.balance != 0:
        return False
    if not range_inside(backend.first_server, backend.server_count, snapshot.server_count):
        return False
    # Owners are exclusive, so the whole walk is linear in the servers however the ranges are forged.
    for j in range(backend.first_server, backend.first_server + backend.server_count):
        if snapshot.servers[j].backend != i:
            return False
    return True


cdef bint server_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    cdef const ServerRecord* server = &snapshot.servers[i]
    cdef ServerRecord tombstone
    if server.backend == NO_INDEX:
        tombstone = server[0]
        tombstone.backend = 0
        return is_zero(&tombstone, sizeof(ServerRecord))
    return (
        id_inside(server.id, strings_size)
        and address_valid(snapshot, server.address, strings_size)
        and str_inside(server.authority, strings_size)
        and str_inside(server.version, strings_size)
        and server.backend < snapshot.backend_count
        and snapshot.backends[server.backend].id.length > 0
        and server.weight <= WEIGHT_MAX
        and server.state <= SERVER_STARTING
    )


cdef bint frontend_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    cdef const FrontendRecord* frontend = &snapshot.frontends[i]
    cdef uint32_t holdings = 0
    cdef uint32_t j
    if not id_inside(frontend.id, strings_size) or frontend.middleware_count > FRONTEND_MIDDLEWARES_MAX:
        return False
    if not frontend.flags & FRONTEND_WAITING and (
            frontend.backend >= snapshot.backend_count or snapshot.backends[frontend.backend].id.length == 0):
        return False
    if not range_inside(frontend.first_middleware, frontend.middleware_count, snapshot.middleware_count):
        return False
    for j in range(frontend.middleware_count):
        if snapshot.middlewares[frontend.first_middleware + j].type == 0:
            return False
        holdings += snapshot.middlewares[frontend.first_middleware + j].type == MIDDLEWARE_CONCURRENCY_LIMIT
    return holdings <= HOLDINGS_MAX


cdef bint middleware_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    cdef const MiddlewareRecord* middleware = &snapshot.middlewares[i]
    cdef const RateSpec* rate
    cdef uint32_t j
    if middleware.type == 0:
        return is_zero(middleware, sizeof(MiddlewareRecord))
    if not id_inside(middleware.id, strings_size) or not str_inside(middleware.key_header, strings_size):
        return False
    if middleware.type == MIDDLEWARE_CONCURRENCY_LIMIT:
        return True
    if middleware.type != MIDDLEWARE_RATE_LIMIT or middleware.rate_count < 1 or middleware.rate_count > 4:
        return False
    for j in range(middleware.rate_count):
        rate = &middleware.rates[j]
        if rate.interval_ns == 0 or rate.interval_ns > RATE_NS_MAX or rate.tolerance_ns > RATE_NS_MAX:
            return False
    return True


ctypedef bint (*RecordCheck)(const Snapshot*, uint32_t, uint64_t) noexcept nogil


cdef int check_each(const Snapshot* snapshot, uint32_t section, uint32_t count, RecordCheck valid,
                    Fault* fault) noexcept nogil:
    cdef uint64_t strings_size = (<const ImageHeader*>snapshot.base).sections[<uint32_t>SECTION_STRINGS].size
    cdef uint32_t i
    for i in range(count):
        if not valid(snapshot, i, strings_size):
            fault.section = section
            fault.record = i
            return SNAPSHOT_BAD_REFERENCE
    return SNAPSHOT_OK


cdef bint network_valid(const Snapshot* snapshot, uint32_t i, uint64_t strings_size) noexcept nogil:
    return snapshot.networks[i].prefix <= 128


cdef int check_records(const Snapshot* snapshot, Fault* fault) noexcept nogil:
    cdef int code = check_each(snapshot, SECTION_LISTENERS, snapshot.listener_count, listener_valid, fault)
    if code == SNAPSHOT_OK:
        code = check_each(snapshot, SECTION_BACKENDS, snapshot.backend_count, backend_valid, fault)
    if code == SNAPSHOT_OK:
        code = check_each(snapshot, SECTION_SERVERS, snapshot.server_count, server_valid, fault)
    if code == SNAPSHOT_OK:
        code = check_each(snapshot, SECTION_FRONTENDS, snapshot.frontend_count, frontend_valid, fault)
    if code == SNAPSHOT_OK:
        code = check_each(snapshot, SECTION_MIDDLEWARES, snapshot.middleware_count, middleware_valid, fault)
    if code == SNAPSHOT_OK:
        code = check_each(snapshot, SECTION_NETWORKS, snapshot.network_count, network_valid, fault)
    return code


cdef int check_outside(const uint8_t* base, uint64_t size, bint routes, Fault* fault) noexcept nogil:
    """What every kind of image has: header, checksum, sections."""
    cdef const ImageHeader* header = <const ImageHeader*>base
    cdef int code
    fault.code = SNAPSHOT_OK
    fault.section = NO_SECTION
    fault.record = 0
    if size < IMAGE_HEADER_SIZE:
        return SNAPSHOT_TOO_SHORT
    if <uintptr_t>base % 8:
        return SNAPSHOT_BAD_SECTION
    code = check_header(header, size, routes)
    if code != SNAPSHOT_OK:
        return code
    if image_checksum(header, base + IMAGE_HEADER_SIZE, size - IMAGE_HEADER_SIZE) != header.checksum:
        return SNAPSHOT_BAD_CHECKSUM
    return check_sections(header, fault)


cdef int check_image(Snapshot* snapshot, const uint8_t* base, uint64_t size, Fault* fault) noexcept nogil:
    cdef const ImageHeader* header = <const ImageHeader*>base
    cdef int code
    memset(snapshot, 0, sizeof(Snapshot))
    code = check_outside(base, size, False, fault)
    if code != SNAPSHOT_OK:
        return code
    snapshot.base = base
    snapshot.size = size
    snapshot.revision = header.revision
    code = locate(snapshot, header, fault)
    if code != SNAPSHOT_OK:
        return code
    return check_records(snapshot, fault)


cdef int snapshot_open(Snapshot* snapshot, const uint8_t* base, uint64_t size) noexcept nogil:
    cdef Fault fault
    return check_image(snapshot, base, size, &fault)


cdef int snapshot_check_base(const uint8_t* base, uint64_t size) noexcept nogil:
    cdef Fault fault
    return check_outside(base, size, True, &fault)


cdef bint snapshot_names_base(const ImageHeader* records, const ImageHeader* base) noexcept nogil:
    return (records.base_sequence == base.revision and records.base_size == base.size
            and records.base_checksum == base.checksum)


# ---- Python face ----

class SnapshotError(ValueError):
    """The bytes are no image this version can read; `code` is the SnapshotFault, the text says what and where."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


cdef dict SECTION_NAMES = {
    SECTION_STRINGS: "strings", SECTION_LISTENERS: "listeners", SECTION_BACKENDS: "backends",
    SECTION_SERVERS: "servers", SECTION_FRONTENDS: "frontends", SECTION_MIDDLEWARES: "middlewares",
    SECTION_NETWORKS: "networks",
}
cdef dict FAULT_TEXTS = {
    SNAPSHOT_TOO_SHORT: f"the image is shorter than its header of {IMAGE_HEADER_SIZE} bytes",
    SNAPSHOT_BAD_MAGIC: "this is not a snapshot image: it does not start with BSCLSNAP",
    SNAPSHOT_BAD_VERSION: f"the image has another layout than version {IMAGE_LAYOUT_VERSION}, the one this program"
                          " reads; let the running version compile the configuration again",
    SNAPSHOT_BAD_SIZE: "the sizes in the image's header do not fit the image: it was cut or overwritten",
    SNAPSHOT_BAD_CHECKSUM: "the image's checksum does not fit its bytes: it was damaged on the way",
    SNAPSHOT_BAD_SECTION: "a section lies outside the image or is misaligned",
    SNAPSHOT_BAD_REFERENCE: "a record holds a string, index or value out of bounds",
    SNAPSHOT_BAD_ROUTES: "the routing table does not hold together",
    SNAPSHOT_NO_MEMORY: "there was no memory to open the image",
    SNAPSHOT_BAD_KIND: "the image is of another kind: a snapshot is one whole image, or a records image and its routes base",
    SNAPSHOT_UNKNOWN_BASE: "the routes base that the image names is not the one at hand; send both",
}


def describe(int code) -> str:
    """What a SnapshotFault returned by snapshot_open means, in words."""
    return FAULT_TEXTS.get(code, f"unknown fault {code}")


cdef object fault_error(int code, Fault fault):
    place = ""
    if fault.section != NO_SECTION:
        place = f" (section {fault.section}, {SECTION_NAMES.get(fault.section, 'routes or unused')}"
        place += f", record {fault.record})" if code == SNAPSHOT_BAD_REFERENCE else ")"
    return SnapshotError(code, describe(code) + place)


def verify(buffer) -> int:
    """Checks a whole or records image but its routes, and returns its revision.

    `buffer` is any contiguous bytes-like object; one that does not start on an 8-byte boundary is copied first.
    Raises SnapshotError with the reason and the place.
    """
    cdef Py_buffer view
    cdef Snapshot snapshot
    cdef Fault fault
    cdef void* copy = NULL
    cdef const uint8_t* base
    cdef int code
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        if <uintptr_t>base % 8:
            if posix_memalign(&copy, 8, view.len + 1) != 0:
                raise MemoryError
            memcpy(copy, view.buf, view.len)
            base = <const uint8_t*>copy
        with nogil:
            code = check_image(&snapshot, base, view.len, &fault)
        if code != SNAPSHOT_OK:
            raise fault_error(code, fault)
        return snapshot.revision
    finally:
        free(copy)
        PyBuffer_Release(&view)
