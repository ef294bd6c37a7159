"""The engine's objects: who owns each, who may write it, when it dies.

One worker has one Engine and one thread; every struct here is private to it, so there is not one lock and no atomic operation on it.
What other processes see is in shared/ (snapshot, statistics, limits).

                Engine
                  |-- ListenerRuntime x listeners -- Slot x lent sockets
                  |-- Conn (client) in clients --+
                  |                              Exchange (in flight only) -- Snapshot (pinned)
                  |-- Conn (server) -------------+
                  |     in ServerRuntime.idle between exchanges
                  |-- slabs: conns, exchanges, bufs;  wheel: timers;  run queue: clients with work left
                  |-- Handover: heirs -- Parcel (connections on their way);  testators

A state is a place: Conn.state says which list holds it and what it waits for; conn_set_state (connection.pyx) is the only mover.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from bascule.codec.llhttp cimport llhttp_t
from bascule.engine.memory cimport Buf, Slab
from bascule.engine.system cimport sockaddr_storage
from bascule.engine.timers cimport Timer, Wheel
from bascule.shared.limits cimport LimitTable
from bascule.shared.snapshot cimport BackendRecord, FrontendRecord, ListenerRecord, Network, ServerRecord, Snapshot
from bascule.shared.statistics cimport StatBlock, StatSegment
from bascule.shared.verdicts cimport VerdictTable


cdef enum:
    EVENTS_MAX = 256              # of one epoll_wait
    TURNS_MAX = 64                # epoll_waits before the worker's uvloop is let in again,
    TURN_US = 20000               # and the time after which it is
    READS_MAX = 8                 # reads of one body before other connections get their turn
    HEADERS_MAX = 128             # of one head; 431 beyond
    TRAILERS_MAX = 4096           # bytes of the trailer section of one message
    EXTENSIONS_MAX = 4096         # bytes of chunk extensions in one message
    INFORMATIONAL_MAX = 16        # 1xx responses before the final one
    SCRATCH_BYTES = 262144        # one read of a body
    RUNTIME_PAGE = 256            # ServerRuntimes allocated at a time
    RUNTIME_PAGES = 4096          # 1,048,576 servers
    ADDRESS_ROWS = 65536          # counters of connections per client address (a count-min sketch of two rows)

cdef enum SourceKind:             # first byte after the descriptor in everything registered with epoll
    SOURCE_SLOT = 1
    SOURCE_CLIENT = 2
    SOURCE_SERVER = 3
    SOURCE_TIMER = 4
    SOURCE_FOREIGN = 5            # served by the worker's own loop; here it only ends the turn
    SOURCE_HEIR = 6               # takes over connections of ours
    SOURCE_TESTATOR = 7           # leaves us its connections

cdef enum Ready:                  # what the last edges said; cleared by the call that proves otherwise
    READY_READ = 1
    READY_WRITE = 2
    READY_EOF = 4                 # RDHUP or HUP: read on until it returns 0, even after a short read
    READY_ERROR = 8

# States of a connection, and the legal moves.
#
#   client:  IDLE -> HEAD -> EXCHANGE -> IDLE             (next request; HEAD at once if its first bytes are here)
#            EXCHANGE -> TUNNEL -> CLOSED                 (after a 101)
#            EXCHANGE -> LINGER -> CLOSED                 (answered, but the client is still sending)
#            HEAD -> IDLE                                 (a partial head goes on in another worker, from its first byte)
#            IDLE -> GIVEN -> IDLE                        (sent to an heir; back when it does not take it)
#            TUNNEL -> GIVEN -> TUNNEL
#            any -> CLOSED
#   server:  CONNECTING -> BUSY -> POOLED -> BUSY ...     (POOLED: in ServerRuntime.idle)
#            BUSY -> TUNNEL -> CLOSED
#            TUNNEL -> GIVEN -> TUNNEL                    (with its client)
#            any -> CLOSED
cdef enum ConnState:
    CONN_CLOSED = 0               # on the engine's graveyard, freed at the end of the turn
    CLIENT_IDLE = 1
    CLIENT_HEAD = 2
    CLIENT_EXCHANGE = 3
    CLIENT_LINGER = 4
    CLIENT_TUNNEL = 5
    SERVER_CONNECTING = 6
    SERVER_BUSY = 7
    SERVER_POOLED = 8
    SERVER_TUNNEL = 9
    CLIENT_GIVEN = 10             # not in the epoll set; no event, timer or byte of it is handled until the heir has answered
    SERVER_GIVEN = 11

cdef struct Source:               # what epoll's data pointer points to; the common beginning of Slot and Conn
    int fd
    uint8_t kind                  # SourceKind

cdef struct Slot:
    # One lent SO_REUSEPORT socket. Owner: its ListenerRuntime; dies in take_back or drain (EPOLL_CTL_DEL, then close).
    int fd
    uint8_t kind
    uint8_t paused                # not polled until Engine.resume fires
    uint32_t number
    ListenerRuntime* listener
    Slot* next

cdef struct ListenerRuntime:
    # One configured listener as this worker knows it; made when first lent or named by a snapshot, kept to the end.
    # `record` and `networks` are copies of the newest snapshot's, so that idle clients pin no snapshot.
    ListenerRuntime* next
    char id[100]
    uint32_t id_length
    bint configured               # the newest snapshot names it
    bint lapsing                  # the snapshot before it did; lives within one adoption
    bint rehearsal                # of the self-test of a new generation: requests are routed and answered, not forwarded
    ListenerRecord record
    Network* networks
    uint32_t network_count
    uint32_t connections          # open client connections
    Slot* slots
    StatBlock* stats

cdef struct ServerRuntime:
    # What this worker knows of one server, by its stat_slot: outlives snapshots. 64 bytes.
    Conn* idle                    # LIFO of SERVER_POOLED connections
    uint32_t idle_count
    uint32_t connections          # open, in any state
    int32_t wrr_current           # smooth weighted round robin
    uint32_t address_length       # of the address the pooled connections lead to
    uint32_t epoch                # raised when the address changes
    uint8_t address[28]           # first bytes of it (all of an in or in6 address; a unix path is hashed into it)

cdef struct Conn:
    # Owner: the list its state names. Dies: conn_close puts it on the graveyard.
    int fd
    uint8_t kind
    uint8_t state                 # ConnState
    uint8_t ready                 # Ready
    uint8_t flags                 # CONN_*
    Exchange* exchange            # NULL when idle, pooled or lingering
    Buf* input                    # bytes read and not consumed; NULL when there are none
    Timer timer
    Conn* next                    # clients, idle pool, or graveyard
    Conn* previous
    Conn* run_next                # run queue
    ListenerRuntime* listener     # client
    ServerRuntime* runtime        # server
    uint8_t address[16]           # client: IPv6, or ::ffff:v4; zero for unix
    uint16_t port
    uint16_t address_counted      # Engine.address_counts holds this connection in the rows
    uint16_t address_rows[2]
    uint32_t served               # exchanges carried
    uint32_t epoch                # server: ServerRuntime.epoch when it was opened
    uint64_t since_us             # phase began: head, body, linger

cdef enum ConnFlag:
    CONN_QUEUED = 1               # on the run queue
    CONN_CLOSE_AFTER = 2          # an heir did not take it: its next answer says close
    CONN_REUSED = 4               # server: came from the pool for this exchange
    CONN_UNIX = 8
    CONN_SHARED = 16              # another process may still hold a duplicate: EPOLL_CTL_DEL before close

cdef enum Framing:
    FRAMING_NONE = 0              # no body
    FRAMING_LENGTH = 1            # Content-Length
    FRAMING_CHUNKED = 2
    FRAMING_CLOSE = 3             # until the connection ends (responses only)
    FRAMING_TUNNEL = 4

# One direction of an exchange:  HEAD -> BODY -> DONE;  HEAD -> DONE when there is no body.
# DONE means: read to its end and handed to Direction.out; the exchange ends when both are DONE and out is empty.
cdef enum DirectionState:
    DIRECTION_HEAD = 0
    DIRECTION_BODY = 1
    DIRECTION_DONE = 2

cdef struct Output:
    # Bytes the sink did not take yet. Owner: the Direction. Bounded: while it is not empty, nothing is read from the source.
    Buf* first
    Buf* last

cdef struct Direction:
    uint8_t state                 # DirectionState
    uint8_t framing_in            # Framing as received
    uint8_t framing_out           # Framing as sent
    uint8_t is_response           # which head the parser reads
    uint8_t llhttp_begun          # llhttp reads this head; else the scanner did, or no byte has come
    uint8_t sink_closed           # the sink takes no more bytes
    uint8_t shut                  # tunnels: the end was passed on
    uint32_t extension_bytes
    uint64_t framing_bytes        # chunk lines, extensions and trailers as received
    uint64_t remaining            # FRAMING_LENGTH: body bytes not read yet
    uint64_t bytes                # body bytes read
    Output out
    char* body_data               # set by the body callbacks: decoded bytes of this read, moved together
    uint32_t body_length
    bint body_complete
    Buf* trailers                 # "Name: value" lines, or NULL
    Slab* bufs                    # where trailers come from
    llhttp_t parser               # of a head the scanner read: method, version, status_code and flags alone are set

cdef enum HeaderId:
    HEADER_OTHER = 0
    HEADER_HOST
    HEADER_CONNECTION
    HEADER_KEEP_ALIVE
    HEADER_PROXY_CONNECTION
    HEADER_TRANSFER_ENCODING
    HEADER_CONTENT_LENGTH
    HEADER_UPGRADE
    HEADER_TE
    HEADER_EXPECT
    HEADER_FORWARDED
    HEADER_X_FORWARDED_FOR
    HEADER_X_FORWARDED_PROTO
    HEADER_X_FORWARDED_HOST
    HEADER_X_REQUEST_ID
    HEADER_VIA
    HEADER_PROXY_AUTHENTICATE
    HEADER_TRAILER
    HEADER_ALIAS                  # "X_Forwarded_For": what CGI and its heirs read as a header that we write or check

cdef struct Header:
    uint32_t name                 # offsets from Head.base
    uint32_t value
    uint16_t name_length
    uint16_t value_length
    uint8_t id                    # HeaderId
    uint8_t dropped               # not forwarded

cdef struct Head:
    # Index of the head being read: first the request's, then, once that is composed, each response's.
    const char* base
    uint32_t length               # including the empty line; 0 = not complete
    uint32_t count
    uint32_t url
    uint32_t url_length
    uint8_t error                 # HeadError of head.pxd, set by callbacks
    bint in_value                 # the last callback was for a value
    Header headers[128]

cdef enum ExchangeFlag:
    X_HEAD_METHOD = 1             # no response body
    X_CLIENT_10 = 2               # the client speaks HTTP/1.0
    X_KEEP_CLIENT = 4             # the client connection may carry another exchange
    X_KEEP_SERVER = 8             # the server connection may be pooled
    X_EXPECT = 16                 # the client waits for 100 Continue; until it was sent
    X_UPGRADE = 32                # the request asks for a protocol change
    X_IDEMPOTENT = 64
    X_REPLAY = 128                # everything sent so far is still held in request_head and the client's input
    X_STARTED = 256               # response bytes were sent (or composed) for the client
    X_LOCAL = 512                 # answered by us
    X_ROUTED = 1024               # counted at frontend and backend
    X_TRUSTED = 2048              # the client is a trusted proxy
    X_CUT = 4096                  # the response cannot be completed: reset the client, so that it cannot look complete
    X_ENDED = 8192                # exchange_end ran
    X_TUNNEL = 16384
    X_INHERITED = 32768           # a tunnel that began in another worker: `names` instead of a snapshot

cdef struct TunnelNames:
    # What the access log says of a tunnel that began in another worker, whose snapshot is not here. Owner: its Exchange (malloc).
    uint64_t revision
    uint8_t lengths[3]            # of frontend, backend, server; each at most NAME_MAX
    char text[300]                # one behind the other

cdef struct Exchange:
    # One request and its response. Owner: its client Conn (client.exchange). Dies: exchange_end.
    # Timer kind TIMER_EXCHANGE. `client` is never NULL; `server` is NULL before a connection was taken and after it was given back.
    Timer timer
    Conn* client
    Conn* server
    Snapshot* snapshot            # pinned from routing to the end; NULL before
    const FrontendRecord* frontend
    const BackendRecord* backend
    const ServerRecord* server_record
    StatBlock* stat_listener      # of the listener when the exchange began: a new snapshot may move the listener to another
    StatBlock* stat_frontend
    StatBlock* stat_backend
    StatBlock* stat_server
    TunnelNames* names            # set with X_INHERITED alone
    uint64_t started_us
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t body_bytes_max       # of the request body; 0 = no limit
    uint64_t body_since_us        # its rate counts from here: the head is sent, less what the client waited for the server
    uint32_t flags                # ExchangeFlag
    uint16_t status               # sent to the client, 499 when it went away
    uint8_t method                # llhttp's number
    uint8_t error                 # StatError
    uint8_t retries
    uint8_t informational
    uint8_t limit_count
    uint8_t attempts              # servers tried
    int64_t limit_handles[4]      # concurrency holdings to give back; 4 is HOLDINGS_MAX
    uint8_t client_ip[16]         # the client as policy sees it: the peer, or what a trusted proxy said
    uint32_t fed                  # bytes of the request head given to the parser
    Buf* request_head             # composed; kept while X_REPLAY
    uint32_t request_head_length
    uint32_t request_head_sent
    uint32_t prefix_length        # body bytes in client.input that leave with the head (FRAMING_LENGTH)
    uint32_t prefix_sent
    uint32_t tunnel_timeout_ms    # set when the tunnel begins
    Direction request
    Direction response
    uint16_t log_length
    Head head                     # from here on exchange_begin clears nothing
    char log_target[512]          # "METHOD target", filled only while the access log is on

cdef enum:
    LOG_TARGET_MAX = 512          # bytes of a request target that reach the access log

cdef enum AccessLogKind:          # what takes the lines decides how they are written
    LOG_FILE = 0                  # opened to append: one write of any length stays whole between those of other workers
    LOG_PIPE = 1                  # and terminals: 4096 bytes at most stay whole
    LOG_SOCKET = 2                # the journal's

cdef struct AccessLog:
    # Lines gathered for one write(2) at the end of a turn. Owner: the engine.
    int fd
    uint32_t kind                 # AccessLogKind
    uint32_t used
    uint64_t lost                 # lines that could not be written
    long second                   # that `stamp` stands for, of CLOCK_REALTIME
    char stamp[32]                # "2026-11-22T04:30:20"
    char data[65536]

cdef struct Shed:                 # what shed.pyx remembers; 0 is no bound for neither
    uint64_t begin                # bytes from which on idle connections are closed
    uint64_t refuse               # and from which on requests are
    uint64_t rest_tick            # a walk over all timers was in vain: none before this tick
    uint32_t walked               # steps of the walk under way

cdef struct Parcel:
    # Connections that went with one packet, in the order of its records, until the heir has answered. Owner: its Heir.
    uint32_t sequence
    uint32_t count
    Conn* conns[100]              # PARCEL_MAX; CLIENT_GIVEN

# One worker that takes over connections:  OPEN -> LEAVING -> GONE;  OPEN -> GONE
cdef enum HeirState:
    HEIR_OPEN = 1
    HEIR_LEAVING = 2              # gets nothing more; closed when it has answered every parcel
    HEIR_GONE = 3                 # closed; freed at the end of the turn, because events may still name it

cdef struct Heir:
    # Owner: Handover.heirs. Dies: it refused, its process died, or it left after Engine.resume.
    int fd
    uint8_t kind                  # SOURCE_HEIR
    uint8_t state                 # HeirState
    uint8_t full                  # the kernel takes no more now
    uint32_t first                # of the parcels on their way, which form a ring
    uint32_t underway             # how many
    Parcel parcels[4]             # PARCELS_MAX
    Heir* next

cdef struct Testator:
    # One worker that gives us its connections. Owner: Handover.testators. Dies when its end of the socket is closed.
    int fd                        # -1: closed; freed at the end of the turn
    uint8_t kind                  # SOURCE_TESTATOR
    Testator* next

cdef struct Handover:
    # Owner: the engine. Writers: bequest.pyx (giving), inheritance.pyx (taking), connection.pyx (cursor).
    Heir* heirs
    Heir* last                    # got the last parcel: the one behind it is next
    Testator* testators
    Conn* cursor                  # of the walk over Engine.clients in search of connections to give; NULL: none under way
    bint starved                  # connections may have been passed over for want of room: walk again when there is some
    bint busy                     # bequest_step has something to do
    bint ended                    # the deadline of resting or draining has passed
    Conn* offered[100]            # PARCEL_MAX; CLIENT_GIVEN, not sent yet: they leave at the end of the turn
    uint64_t offered_bytes
    uint32_t sequence             # of the next parcel
    Timer retry
    Timer deadline
    uint64_t idle_given           # counted since the engine began: connections ...
    uint64_t tunnels_given
    uint64_t inherited
    uint64_t refused              # ... an heir did not take
    uint64_t taken_back           # parcels that came back because their heir died or refused
    uint64_t closed               # ... closed politely while draining
    uint64_t cut                  # ... cut at the deadline

cdef struct Engine:
    int epoll_fd
    int timer_fd
    uint8_t timer_kind            # SOURCE_TIMER; the address of timer_fd serves as its Source
    uint32_t worker
    uint64_t now_us               # CLOCK_MONOTONIC, read once a turn
    Source foreign                # stands for every descriptor of Engine.watch
    bint summoned                 # one of them has something to say
    uint64_t start_us
    uint64_t left_us              # the last clock read of the turn before this one
    uint64_t armed_tick           # when timer_fd fires; TIMER_IDLE = not armed
    Wheel wheel
    Slab conns
    Slab exchanges
    Slab bufs
    Snapshot* snapshot            # current; NULL before the first adoption
    uint32_t snapshots            # mapped now
    ListenerRuntime* listeners
    Conn* clients                 # every open client connection
    Conn* graveyard
    Conn* run_first
    Conn* run_last
    ServerRuntime** runtimes      # RUNTIME_PAGES pointers to pages of RUNTIME_PAGE
    StatSegment statistics
    LimitTable limits
    bint limits_on
    VerdictTable verdicts         # of servers; count 0 without a region
    Shed shed
    bint draining                 # answers say close, idle clients are closed spread over a window
    bint winding_down             # resting or leaving: no slots, and no server connection is pooled
    bint resting                  # Engine.rest was called: it may serve again
    bint leaving                  # Engine.drain was called: it will not
    uint64_t drain_deadline_us
    uint32_t offered              # clients in Handover.offered
    uint32_t offers_max           # how many may be there: 0 while there is no heir, or none that can take a parcel now
    Handover handover
    uint64_t statistics_identity  # of the regions' memfds: numbers of one region mean nothing in another
    uint64_t limits_identity
    uint64_t random_state[2]
    uint32_t client_count
    uint32_t server_count
    uint32_t exchange_count
    uint64_t accept_failures      # EMFILE and the like
    Timer resume                  # armed while slots are paused for want of descriptors
    uint16_t* address_counts      # 2 * ADDRESS_ROWS, allocated when a listener first asks for it
    AccessLog* access_log          # NULL = off
    char* scratch                 # BUF_RESERVE + SCRATCH_BYTES + BUF_RESERVE; contents live within one handler
    char* compose                 # BUF_BYTES + 8192: a response head being composed; lives within one handler


cdef inline bint is_mapped_v4(const uint8_t* address) noexcept nogil:
    """Whether 16 bytes are ::ffff:a.b.c.d; all of the prefix counts, because clients choose the later bytes of their own /64."""
    cdef const uint64_t* words = <const uint64_t*>address
    return words[0] == 0 and (<const uint32_t*>address)[2] == <uint32_t>0xFFFF0000


cdef inline bint head_unsent(const Exchange* x) noexcept nogil:
    """Whether the composed head, or body bytes to leave with it, are not all in the kernel. Does not touch the buffer: it is cold."""
    return x.request_head_sent < x.request_head_length or x.prefix_sent < x.prefix_length


cdef inline bint output_empty(const Output* output) noexcept nogil:
    return output.first == NULL
