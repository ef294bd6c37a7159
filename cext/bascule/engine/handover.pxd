"""How a worker hands connections over to another: the packets on the socket between them (docs/upgrade.md).

Giver and taker may be of different versions of the program. One SEQPACKET packet holds up to PARCEL_MAX connections; their
descriptors go with it by SCM_RIGHTS:

    packet         Preamble, ParcelHeader, Record * count, payload unless PAYLOAD_FILE
    descriptors    [a memfd with the payload, if PAYLOAD_FILE], then for each record: the client's, and of a tunnel the server's
    payload        for each record from Record.payload_at on: listener id, bytes read from the client and not parsed; of a tunnel: request
                   line for the access log, ids of frontend, backend, server, bytes the server did not take, bytes the client did not
    answer         Preamble, Answer

The giver has each connection until the answer says TAKEN, and handles nothing of it meanwhile; the taker handles nothing before
its answer is sent. So whichever of them dies, exactly one has it: a taker that dies before its answer leaves the giver's
descriptors, a giver that dies leaves the taker's.

The Preamble is the same in every version, so that a taker can say of any other that it does not know it. All numbers are
little-endian, of fixed width, at their natural alignment. A taker trusts nothing: every length, index and enumeration is checked.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    HANDOVER_VERSION = 1          # of everything here but the Preamble
    PARCEL_MAX = 100              # connections; a packet takes 253 descriptors (SCM_MAX_FD), a tunnel has two
    PARCELS_MAX = 4               # on their way to one heir
    DESCRIPTORS_MAX = 253
    INLINE_BYTES_MAX = 65536      # payload in the packet itself; larger goes in a memfd
    PARCEL_BYTES_MAX = 4194304    # payload from which on no further connection joins a parcel
    PENDING_BYTES_MAX = 1048576   # unsent bytes of one direction of a tunnel
    NAME_MAX = 100                # of an id

cdef enum PacketKind:
    PACKET_PARCEL = 1
    PACKET_ANSWER = 2
    PACKET_REFUSED = 3            # of a parcel as a whole: its version is unknown, or it does not hold together

cdef struct Preamble:             # 16 bytes
    char magic[4]                 # b"BSCH"
    uint16_t version              # HANDOVER_VERSION of the sender
    uint16_t kind                 # PacketKind
    uint32_t sequence             # of the parcel, repeated in its answer
    uint32_t reserved

cdef struct ParcelHeader:         # 32 bytes
    uint16_t count                # records
    uint8_t payload_place         # PayloadPlace
    uint8_t reserved
    uint32_t payload_bytes
    uint64_t statistics_identity  # of the region that Record.stats speaks of
    uint64_t limits_identity      # of the region that Record.holdings speaks of; 0 = none
    uint64_t reserved2

cdef enum PayloadPlace:
    PAYLOAD_INLINE = 0
    PAYLOAD_FILE = 1

cdef enum RecordKind:
    RECORD_IDLE = 1
    RECORD_TUNNEL = 2

cdef enum RecordFlag:
    RECORD_UNIX = 1               # the client came through a Unix listener
    RECORD_REQUEST_DONE = 2       # tunnel: the client has sent its end
    RECORD_REQUEST_SHUT = 4       # and it was passed on
    RECORD_RESPONSE_DONE = 8      # the same of the server
    RECORD_RESPONSE_SHUT = 16
    RECORD_FLAGS = 31

cdef struct StatRef:              # an object's counters; another generation: the slot has a new object
    uint32_t slot
    uint32_t generation

cdef struct Record:               # 200 bytes; from log_length on all zero unless RECORD_TUNNEL
    uint8_t kind                  # RecordKind
    uint8_t flags                 # RecordFlag
    uint16_t port                 # network order
    uint32_t left_ms              # until it is closed for silence; 0 = never
    uint8_t address[16]           # as in Conn
    uint64_t since_us             # CLOCK_MONOTONIC, which all processes of the host share
    uint32_t served
    uint32_t payload_at           # of this record's pieces, which follow each other in the order above
    uint32_t input_length         # <= BUF_BYTES
    uint16_t listener_length      # <= NAME_MAX
    uint16_t log_length           # <= LOG_TARGET_MAX
    uint8_t name_lengths[3]       # frontend, backend, server; <= NAME_MAX
    uint8_t holding_count         # <= HOLDINGS_MAX
    uint32_t request_pending      # <= PENDING_BYTES_MAX
    uint32_t response_pending
    uint32_t tunnel_timeout_ms
    uint64_t started_us
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t request_bytes
    uint64_t response_bytes
    uint64_t revision             # of the snapshot it was routed with
    int64_t holdings[4]           # concurrency limits, see shared/concurrency.pxd
    uint8_t client_ip[16]
    StatRef stats[4]              # listener, frontend, backend, server
    uint8_t method
    uint8_t retries
    uint8_t informational
    uint8_t attempts
    uint32_t reserved

cdef enum Result:
    RESULT_TAKEN = 1
    RESULT_REFUSED = 2            # no memory, no descriptors, an unknown listener, or a record that does not hold together

cdef struct Answer:               # 108 bytes
    uint16_t count
    uint8_t holdings_taken        # the taker has noted the concurrency holdings as its own
    uint8_t reserved
    uint8_t results[100]          # Result of each record
    uint32_t reserved2

cdef struct AnswerPacket:
    Preamble preamble
    Answer answer                 # not there in PACKET_REFUSED
