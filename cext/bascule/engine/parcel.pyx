"""See parcel.pxd."""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, ETOOMANYREFS, errno
from libc.stdint cimport uint8_t, uint16_t

from bascule.engine.handover cimport (
    DESCRIPTORS_MAX,
    HANDOVER_VERSION,
    INLINE_BYTES_MAX,
    PACKET_PARCEL,
    PAYLOAD_FILE,
    PAYLOAD_INLINE,
    RECORD_IDLE,
    RECORD_REQUEST_DONE,
    RECORD_REQUEST_SHUT,
    RECORD_RESPONSE_DONE,
    RECORD_RESPONSE_SHUT,
    RECORD_TUNNEL,
    RECORD_UNIX,
    ParcelHeader,
    Preamble,
    Record,
    StatRef,
)
from bascule.engine.memory cimport Buf
from bascule.engine.system cimport (
    CMSG_DATA,
    CMSG_FIRSTHDR,
    CMSG_LEN,
    CMSG_SPACE,
    MFD_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOL_SOCKET,
    close,
    cmsghdr,
    debug_assert,
    iovec,
    memcpy,
    memfd_create,
    memset,
    msghdr,
    sendmsg,
    write,
)
from bascule.engine.timers cimport TICK_MS, TIMER_IDLE, Timer
from bascule.engine.types cimport CONN_UNIX, DIRECTION_DONE, X_INHERITED, Exchange, Output
from bascule.shared.snapshot cimport Str
from bascule.shared.statistics cimport StatBlock


cdef struct Packing:
    # A packet in the making, in Engine.scratch. Owner: parcel_send's stack.
    char* payload                 # where inline bytes go
    uint32_t at                   # payload bytes so far
    int file                      # the memfd, or -1
    bint failed                   # the memfd did not take all
    int descriptors[253]          # DESCRIPTORS_MAX
    uint32_t descriptor_count


# ---- how much ----------------------------------------------------------------------------------------------------------
cdef inline uint32_t left_in(const Buf* buf) noexcept nogil:
    return buf.end - buf.start if buf != NULL else 0


cdef uint32_t unsent(const Output* output, const Buf* behind) noexcept nogil:
    """Bytes on their way to a sink: what it did not take, and what was read behind it."""
    cdef const Buf* buf = output.first
    cdef uint32_t total = left_in(behind)
    while buf != NULL:
        total += left_in(buf)
        buf = buf.next
    return total


cdef uint64_t pending_bytes(const Conn* client) noexcept nogil:
    cdef const Exchange* x = client.exchange
    if x == NULL:
        return left_in(client.input)
    return <uint64_t>unsent(&x.request.out, client.input) + unsent(&x.response.out, x.server.input)


cdef uint64_t payload_bytes(const Conn* client) noexcept nogil:
    cdef const Exchange* x = client.exchange
    cdef uint64_t total = client.listener.id_length + pending_bytes(client)
    cdef uint32_t i
    if x != NULL:
        total += x.log_length
        for i in range(3):
            total += name_of(x, i).length
    return total


# ---- pieces ------------------------------------------------------------------------------------------------------------
cdef struct Name:
    const char* text
    uint32_t length


cdef Name name_of(const Exchange* x, uint32_t which) noexcept nogil:
    """The id of the frontend (0), backend (1) or server (2) of a tunnel."""
    cdef Name name
    cdef uint32_t i
    cdef Str id
    if x.flags & X_INHERITED:
        name.text = x.names.text
        for i in range(which):
            name.text += x.names.lengths[i]
        name.length = x.names.lengths[which]
        return name
    id = x.frontend.id if which == 0 else x.backend.id if which == 1 else x.server_record.id
    name.text = x.snapshot.strings + id.offset
    name.length = id.length
    return name


cdef void put(Packing* p, const char* data, uint32_t length) noexcept nogil:
    cdef ssize_t written
    if p.file < 0:
        memcpy(p.payload + p.at, data, length)
        p.at += length
        return
    p.at += length
    while length and not p.failed:
        written = write(p.file, data, length)
        if written > 0:
            data += written
            length -= <uint32_t>written
        elif errno != EINTR:
            p.failed = True


cdef uint32_t put_unsent(Packing* p, const Output* output, const Buf* behind) noexcept nogil:
    cdef const Buf* buf = output.first
    cdef uint32_t before = p.at
    while buf != NULL:
        put(p, buf.data + buf.start, left_in(buf))
        buf = buf.next
    if behind != NULL:
        put(p, behind.data + behind.start, left_in(behind))
    return p.at - before


cdef uint32_t left_ms(const Engine* engine, const Timer* timer) noexcept nogil:
    if timer.deadline == TIMER_IDLE:
        return 0
    if timer.deadline <= engine.wheel.clock:
        return 1
    return <uint32_t>(timer.deadline - engine.wheel.clock) * TICK_MS


cdef StatRef ref_of(const Engine* engine, const StatBlock* block) noexcept nogil:
    cdef StatRef ref
    ref.slot = <uint32_t>(block - engine.statistics.blocks)
    ref.generation = block.generation
    return ref


# ---- records -----------------------------------------------------------------------------------------------------------
cdef void pack_tunnel(const Engine* engine, Packing* p, Record* record, const Exchange* x) noexcept nogil:
    cdef Name name
    cdef uint32_t i
    record.kind = RECORD_TUNNEL
    record.left_ms = left_ms(engine, &x.server.timer)
    if x.request.state == DIRECTION_DONE:
        record.flags |= RECORD_REQUEST_DONE
    if x.request.shut:
        record.flags |= RECORD_REQUEST_SHUT
    if x.response.state == DIRECTION_DONE:
        record.flags |= RECORD_RESPONSE_DONE
    if x.response.shut:
        record.flags |= RECORD_RESPONSE_SHUT
    record.tunnel_timeout_ms = x.tunnel_timeout_ms
    record.started_us = x.started_us
    record.bytes_in = x.bytes_in
    record.bytes_out = x.bytes_out
    record.request_bytes = x.request.bytes
    record.response_bytes = x.response.bytes
    record.revision = x.names.revision if x.flags & X_INHERITED else x.snapshot.revision
    record.holding_count = x.limit_count
    for i in range(x.limit_count):
        record.holdings[i] = x.limit_handles[i]
    memcpy(record.client_ip, x.client_ip, 16)
    record.stats[0] = ref_of(engine, x.stat_listener)
    record.stats[1] = ref_of(engine, x.stat_frontend)
    record.stats[2] = ref_of(engine, x.stat_backend)
    record.stats[3] = ref_of(engine, x.stat_server)
    record.method = x.method
    record.retries = x.retries
    record.informational = x.informational
    record.attempts = x.attempts
    record.log_length = x.log_length
    put(p, x.log_target, x.log_length)
    for i in range(3):
        name = name_of(x, i)
        record.name_lengths[i] = <uint8_t>name.length
        put(p, name.text, name.length)
    record.request_pending = put_unsent(p, &x.request.out, x.client.input)
    record.response_pending = put_unsent(p, &x.response.out, x.server.input)


cdef void pack(const Engine* engine, Packing* p, Record* record, const Conn* client) noexcept nogil:
    memset(record, 0, sizeof(Record))
    record.kind = RECORD_IDLE
    if client.flags & CONN_UNIX:
        record.flags = RECORD_UNIX
    record.port = client.port
    record.left_ms = left_ms(engine, &client.timer)
    memcpy(record.address, client.address, 16)
    record.since_us = client.since_us
    record.served = client.served
    record.payload_at = p.at
    record.listener_length = <uint16_t>client.listener.id_length
    put(p, client.listener.id, client.listener.id_length)
    p.descriptors[p.descriptor_count] = client.fd
    p.descriptor_count += 1
    if client.exchange == NULL:
        record.input_length = left_in(client.input)
        if client.input != NULL:
            put(p, client.input.data + client.input.start, record.input_length)
        return
    p.descriptors[p.descriptor_count] = client.exchange.server.fd
    p.descriptor_count += 1
    pack_tunnel(engine, p, record, client.exchange)


# ---- the packet --------------------------------------------------------------------------------------------------------
cdef int send_packet(int fd, const char* data, uint64_t length, const Packing* p) noexcept nogil:
    cdef uint64_t control[160]    # CMSG_SPACE of DESCRIPTORS_MAX descriptors, and aligned
    cdef msghdr message
    cdef iovec part
    cdef cmsghdr* rights
    debug_assert(CMSG_SPACE(p.descriptor_count * sizeof(int)) <= sizeof(control))
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    part.iov_base = <void*>data
    part.iov_len = length
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CMSG_SPACE(p.descriptor_count * sizeof(int))
    rights = CMSG_FIRSTHDR(&message)
    rights.cmsg_level = SOL_SOCKET
    rights.cmsg_type = SCM_RIGHTS
    rights.cmsg_len = CMSG_LEN(p.descriptor_count * sizeof(int))
    memcpy(CMSG_DATA(rights), p.descriptors, p.descriptor_count * sizeof(int))
    while sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0:
        if errno == EAGAIN:
            return SEND_FULL
        if errno == ETOOMANYREFS or errno == ENOBUFS or errno == ENOMEM:
            return SEND_LATER
        if errno != EINTR:
            return SEND_BROKEN
    return SEND_SENT


cdef int parcel_send(Engine* engine, int fd, uint32_t sequence, Conn** clients, uint32_t count) noexcept nogil:
    cdef char* data = engine.scratch
    cdef Preamble* preamble = <Preamble*>data
    cdef ParcelHeader* header = <ParcelHeader*>(data + sizeof(Preamble))
    cdef Record* records = <Record*>(data + sizeof(Preamble) + sizeof(ParcelHeader))
    cdef Packing p
    cdef uint64_t total = 0
    cdef uint32_t i
    cdef int result = SEND_LATER
    for i in range(count):
        total += payload_bytes(clients[i])
    p.payload = <char*>&records[count]
    p.at = p.descriptor_count = 0
    p.failed = False
    p.file = -1
    if total > INLINE_BYTES_MAX:
        p.file = memfd_create(b"bascule-parcel", MFD_CLOEXEC)
        if p.file < 0:
            return SEND_LATER
        p.descriptors[0] = p.file
        p.descriptor_count = 1
    for i in range(count):
        pack(engine, &p, &records[i], clients[i])
    debug_assert(p.at == total and p.descriptor_count <= DESCRIPTORS_MAX)
    memset(preamble, 0, sizeof(Preamble) + sizeof(ParcelHeader))
    memcpy(preamble.magic, b"BSCH", 4)
    preamble.version = HANDOVER_VERSION
    preamble.kind = PACKET_PARCEL
    preamble.sequence = sequence
    header.count = <uint16_t>count
    header.payload_place = PAYLOAD_INLINE if p.file < 0 else PAYLOAD_FILE
    header.payload_bytes = p.at
    header.statistics_identity = engine.statistics_identity
    header.limits_identity = engine.limits_identity
    if not p.failed:
        result = send_packet(fd, data, <uint64_t>(p.payload - data) + (p.at if p.file < 0 else 0), &p)
    if p.file >= 0:
        close(p.file)
    return result
