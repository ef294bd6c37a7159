"""The snapshot images: everything a worker needs to route, in immutable blocks of bytes.

A snapshot is two images, so that one change costs what it changes and not a compilation of every route:

    records image   new with every revision: listeners, backends, servers, frontends, middlewares, strings, and what
                    happened to the routes since the base: the changed ones (a small table of their own) and a bit for
                    each frontend whose routes in the base are no longer true
    routes base     the table of all routes as of some earlier revision; the records image names it by its sequence, size
                    and checksum. A worker checks it once and shares it among all snapshots that name it

or one (IMAGE_WHOLE), where the base's sections are in the records image itself: dry runs, tests.

Owner: the master compiles them into sealed memfds, the keeper keeps the newest descriptors, workers map them read-only.
Writer: change/compile.pyx, once, before sealing. Nobody writes afterwards.
Dies: in a worker, when a newer snapshot is adopted and the last exchange pinned to it has ended; the base, with the last
snapshot that names it.

    0            128                                            size
    +------------+-----------+-----------+-- ... --+-----------+
    | ImageHeader| section 0 | section 1 |         | section n |     every section starts 8-byte aligned
    +------------+-----------+-----------+-- ... --+-----------+
    ^ checksum (CRC-32, zlib's) covers all of it, its own four bytes as zeros ^

Little-endian, no pointers: a Str is an offset and a length into the STRINGS section; record references are indices.
Same input, same bytes: after a full compilation records are sorted by id and strings interned in order of first use; edits
then append, change in place and leave tombstones, so an index of a frontend means the same until the next full compilation.
Reference: DESIGN sections 4 and 5.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    IMAGE_LAYOUT_VERSION = 2
    IMAGE_HEADER_SIZE = 512
    IMAGE_SECTIONS_MAX = 24
    NO_INDEX = 0xFFFFFFFF
    # Bounds of the engine that the configuration must keep; change/compile.pyx refuses to be imported beside a model that says otherwise.
    HEAD_BYTES_BOUND = 29696      # 29 KiB: a composed head with our own lines must fit one buffer (engine/memory.pxd, BUF_BYTES)
    HOLDINGS_MAX = 4              # concurrency limits of one frontend: Exchange.limit_handles
    FRONTEND_MIDDLEWARES_MAX = 32

cdef enum ImageSection:
    SECTION_STRINGS = 0
    SECTION_LISTENERS = 1
    SECTION_BACKENDS = 2
    SECTION_SERVERS = 3
    SECTION_FRONTENDS = 4
    SECTION_MIDDLEWARES = 5
    SECTION_NETWORKS = 6          # Network records: trusted proxies, referenced by listeners
    SECTION_ROUTES = 8            # 8..17 belong to routing/ alone (routing/layout.pxd); nobody else reads them
    SECTION_ROUTES_LAST = 17

cdef enum ImageKind:
    IMAGE_WHOLE = 0               # records, and in sections 8..15 all routes
    IMAGE_RECORDS = 1             # records, and in sections 8..17 what differs from the base it names
    IMAGE_ROUTES = 2              # a routes base: sections 8..15 alone

cdef struct Section:
    uint64_t offset               # from the start of the image, 8-byte aligned
    uint64_t size                 # bytes

cdef struct ImageHeader:          # 512 bytes (IMAGE_HEADER_SIZE), the rest of it is zero
    char magic[8]                 # b"BSCLSNAP"
    uint32_t layout_version       # IMAGE_LAYOUT_VERSION
    uint32_t header_size          # IMAGE_HEADER_SIZE
    uint64_t size                 # of the whole image
    uint64_t revision             # the publisher's own sequence; of a routes base, the one it was compiled for
    uint32_t checksum             # zlib.crc32 of the whole image with these four bytes zero
    uint32_t section_count        # IMAGE_SECTIONS_MAX
    Section sections[24]
    uint64_t store_revision       # of the store, this was compiled from; 0 = no store
    uint64_t store_identity       # which store that is
    uint64_t base_sequence        # IMAGE_RECORDS: revision, size and checksum of its routes base; else 0
    uint64_t base_size
    uint32_t base_checksum
    uint32_t kind                 # ImageKind

cdef struct Str:
    uint32_t offset               # into SECTION_STRINGS
    uint32_t length               # bytes

cdef struct Network:              # 20 bytes; addresses are IPv6, IPv4 as ::ffff:a.b.c.d
    uint8_t address[16]
    uint32_t prefix               # 0..128

cdef struct ListenerRecord:       # 72 bytes
    Str id
    uint32_t stat_slot            # identity number: see shared/statistics.pxd
    uint32_t first_network        # trusted proxies: SECTION_NETWORKS[first_network : + network_count]
    uint32_t network_count
    uint32_t header_timeout_ms    # first byte of a request to the end of its head
    uint32_t keepalive_timeout_ms  # idle between requests
    uint32_t body_timeout_ms      # longest silence inside a request body, or a response the client does not read
    uint32_t body_rate_min        # bytes a second, averaged from the first body byte, after body_timeout; 0 = off
    uint32_t head_bytes_max       # request head, 431 beyond; 1..HEAD_BYTES_BOUND
    uint32_t uri_bytes_max        # request target, 414 beyond; 1..HEAD_BYTES_BOUND
    uint32_t connections_max      # of one worker; 0 = bounded by descriptors alone
    uint32_t connections_per_address_max  # of one worker; 0 = off
    uint32_t flags                # LISTENER_*
    uint64_t body_bytes_max       # request body, 413 beyond; 0 = no limit
    uint64_t reserved

cdef enum:
    LISTENER_UNIX = 1             # an AF_UNIX address: clients have no IP; treated as a trusted proxy

cdef struct BackendRecord:        # 64 bytes; all zero = a tombstone
    Str id
    uint32_t stat_slot
    uint32_t first_server         # SECTION_SERVERS[first_server : + server_count]
    uint32_t server_count
    uint32_t balance              # 0 = smooth weighted round robin
    uint32_t connect_timeout_ms
    uint32_t response_timeout_ms  # end of request to the end of the response head
    uint32_t idle_timeout_ms      # longest silence inside a response body
    uint32_t exchange_timeout_ms  # whole exchange; 0 = off
    uint32_t tunnel_timeout_ms    # longest silence in both directions of a tunnel
    uint32_t keepalive_timeout_ms  # of a pooled server connection
    uint32_t idle_connections_max  # pooled per server per worker
    uint32_t reserved[3]

cdef enum ServerState:
    SERVER_UP = 0
    SERVER_DRAINING = 1           # finishes what it has, takes nothing new
    SERVER_DOWN = 2
    SERVER_STARTING = 3           # takes nothing until its verdict says ready

cdef struct ServerRecord:         # 48 bytes; all zero but for backend = NO_INDEX: a tombstone, or room to grow
    Str id
    Str address                   # a struct sockaddr (in, in6 or un) of `length` bytes; length 0 = not resolved (yet)
    Str authority                 # "host:port" as configured, for messages
    Str version
    uint32_t stat_slot
    uint32_t backend              # index of the owner
    uint16_t weight               # 0..1000; 0 takes no traffic
    uint8_t state                 # ServerState
    uint8_t flags                 # SERVER_*
    uint8_t reserved[4]

cdef enum:
    SERVER_NAMED = 1              # its authority is a host name: the address is the resolver's

cdef struct FrontendRecord:       # 40 bytes
    Str id
    uint32_t stat_slot
    uint32_t backend              # SECTION_BACKENDS index
    uint32_t first_middleware     # SECTION_MIDDLEWARES[first : + count], in order of application
    uint32_t middleware_count     # at most FRONTEND_MIDDLEWARES_MAX, of them HOLDINGS_MAX concurrency limits
    int32_t priority
    uint32_t flags                # FRONTEND_*
    uint64_t body_bytes_max       # 0 = the listener's

cdef enum:
    FRONTEND_WAITING = 1          # its backend does not exist yet, or its route cannot be compiled: no route leads to it
    FRONTEND_REMOVED = 2          # a tombstone that keeps its id, which still ranks its routes in the base; WAITING is set too

cdef enum MiddlewareType:
    MIDDLEWARE_RATE_LIMIT = 1
    MIDDLEWARE_CONCURRENCY_LIMIT = 2

cdef enum KeyPart:                # bits of MiddlewareRecord.key_parts; the key is the combination of all set
    KEY_CLIENT_IP = 1             # IPv6 by /64, IPv4 by /32
    KEY_REQUEST_HOST = 2
    KEY_REQUEST_HEADER = 4        # the value of header key_header (absent = empty)
    KEY_GLOBAL = 8                # one bucket for all

cdef struct RateSpec:             # 24 bytes; GCRA parameters, shared/limits.pxd
    uint64_t interval_ns          # emission interval T = period / requests
    uint64_t tolerance_ns         # T * (burst - 1)
    uint32_t requests             # as configured, for RateLimit headers
    uint32_t period_s             # window announced in headers, rounded up

cdef struct MiddlewareRecord:     # 152 bytes; all zero = a tombstone, or room to grow
    Str id
    uint64_t identity             # 64-bit hash of "<frontend>/<middleware>": state is keyed by it
    uint32_t type                 # MiddlewareType
    uint32_t key_parts
    Str key_header                # lower case; length 0 unless KEY_REQUEST_HEADER
    uint32_t rate_count           # 1..4 for MIDDLEWARE_RATE_LIMIT
    uint32_t concurrency_max      # for MIDDLEWARE_CONCURRENCY_LIMIT
    RateSpec rates[4]
    int32_t order                 # as configured: of its place among its siblings
    uint32_t reserved[3]


cdef struct Snapshot:
    # Owner: the engine of one worker. Writer: that worker. Dies: see snapshot_release.
    const uint8_t* base           # the mapping
    uint64_t size
    uint64_t revision
    uint32_t references           # exchanges pinned to it, plus one while it is the current one
    const char* strings
    const ListenerRecord* listeners
    uint32_t listener_count
    const BackendRecord* backends
    uint32_t backend_count
    const ServerRecord* servers
    uint32_t server_count
    const FrontendRecord* frontends
    uint32_t frontend_count
    const MiddlewareRecord* middlewares
    uint32_t middleware_count
    const Network* networks
    uint32_t network_count
    void* routes                  # RouteTable*, opened by routing/match.pyx


cdef enum SnapshotFault:          # Python sees them as SnapshotError, with the place in words
    SNAPSHOT_OK = 0
    SNAPSHOT_TOO_SHORT = 1
    SNAPSHOT_BAD_MAGIC = 2
    SNAPSHOT_BAD_VERSION = 3
    SNAPSHOT_BAD_SIZE = 4
    SNAPSHOT_BAD_CHECKSUM = 5
    SNAPSHOT_BAD_SECTION = 6
    SNAPSHOT_BAD_REFERENCE = 7
    SNAPSHOT_BAD_ROUTES = 8
    SNAPSHOT_NO_MEMORY = 9
    SNAPSHOT_BAD_KIND = 10
    SNAPSHOT_UNKNOWN_BASE = 11


# Checks everything a reader relies on (sizes, checksum, bounds of every section, string and index) and fills
# `snapshot`; `base` must be 8-byte aligned and stay mapped. Returns a SnapshotFault. Routes are left NULL:
# routing/match opens them.
# After SNAPSHOT_OK no field of any record needs another bounds check. An IMAGE_ROUTES is refused.
cdef int snapshot_open(Snapshot* snapshot, const uint8_t* base, uint64_t size) noexcept nogil

# The same of a routes base: header, checksum, sections; what is in them is routing/verify's to check.
cdef int snapshot_check_base(const uint8_t* base, uint64_t size) noexcept nogil

# Whether `base`, which has been checked, is the one that the records image `records` names.
cdef bint snapshot_names_base(const ImageHeader* records, const ImageHeader* base) noexcept nogil
