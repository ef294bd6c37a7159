"""See inheritance.pxd."""

from libc.errno cimport ECONNRESET, EINTR, EPIPE, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from bascule.engine.connection cimport buf_get, conn_close, conn_open, conn_timeout, output_append, run_later
from bascule.engine.delivery cimport Delivery, delivery_receive, is_parcel, is_record, is_stream, read_payload
from bascule.engine.handover cimport (
    HANDOVER_VERSION,
    PACKET_ANSWER,
    PACKET_REFUSED,
    RECORD_REQUEST_DONE,
    RECORD_REQUEST_SHUT,
    RECORD_RESPONSE_DONE,
    RECORD_RESPONSE_SHUT,
    RECORD_TUNNEL,
    RECORD_UNIX,
    RESULT_REFUSED,
    RESULT_TAKEN,
    Answer,
    AnswerPacket,
    Preamble,
    Record,
    StatRef,
)
from bascule.engine.listeners cimport listener_known
from bascule.engine.memory cimport BUF_BYTES
from bascule.engine.shed cimport shed_used
from bascule.engine.system cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    EPOLLRDHUP,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    close,
    epoll_ctl,
    epoll_event,
    memcpy,
    memset,
    send,
)
from bascule.engine.types cimport (
    CLIENT_IDLE,
    CLIENT_TUNNEL,
    CONN_SHARED,
    CONN_UNIX,
    DIRECTION_BODY,
    DIRECTION_DONE,
    FRAMING_TUNNEL,
    READY_WRITE,
    SERVER_TUNNEL,
    SOURCE_CLIENT,
    SOURCE_SERVER,
    SOURCE_TESTATOR,
    X_INHERITED,
    X_ROUTED,
    X_STARTED,
    X_TUNNEL,
    Conn,
    Direction,
    Exchange,
    ListenerRuntime,
    TunnelNames,
)
from bascule.request.exchange cimport exchange_begin, exchange_withdraw
from bascule.request.s1_accept cimport count_address
from bascule.shared.concurrency cimport limits_note
from bascule.shared.statistics cimport StatBlock, statistics_block

cdef enum:
    COUNTED_MAX = 65535           # connections of one address: who has been admitted is not turned away now


# ---- the socket --------------------------------------------------------------------------------------------------------
cdef int inheritance_open(Engine* engine, int fd) noexcept nogil:
    cdef epoll_event event
    cdef Testator* testator = <Testator*>calloc(1, sizeof(Testator))
    if testator == NULL:
        return -1
    testator.fd = fd
    testator.kind = SOURCE_TESTATOR
    event.events = EPOLLIN | EPOLLRDHUP
    event.data.ptr = testator
    if epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
        free(testator)
        return -1
    testator.next = engine.handover.testators
    engine.handover.testators = testator
    return 0


cdef void testator_close(Engine* engine, Testator* testator) noexcept nogil:
    # No event of this batch can name it any more: a descriptor is reported once in a batch, and this was its event.
    cdef Testator** at = &engine.handover.testators
    while at[0] != testator:
        at = &at[0].next
    at[0] = testator.next
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, testator.fd, NULL)
    close(testator.fd)
    free(testator)


cdef void inheritance_close(Engine* engine) noexcept nogil:
    while engine.handover.testators != NULL:
        testator_close(engine, engine.handover.testators)


# ---- pieces of a record -----------------------------------------------------------------------------------------------
cdef bint read_pending(Engine* engine, const Delivery* d, uint32_t at, uint32_t length, Direction* direction) noexcept nogil:
    cdef uint32_t piece
    while length:
        piece = length if length < BUF_BYTES else BUF_BYTES
        if not read_payload(d, at, engine.compose, piece):
            return False
        if output_append(engine, &direction.out, engine.compose, piece) != 0:
            return False
        at += piece
        length -= piece
    return True


cdef bint read_names(const Delivery* d, const Record* r, uint32_t at, TunnelNames* names) noexcept nogil:
    """Ids, which go to the access log as they are: nothing but visible characters."""
    cdef uint32_t total = 0
    cdef uint32_t i
    for i in range(3):
        names.lengths[i] = r.name_lengths[i]
        total += r.name_lengths[i]
    names.revision = r.revision
    if not read_payload(d, at, names.text, total):
        return False
    for i in range(total):
        if <uint8_t>names.text[i] <= 0x20 or <uint8_t>names.text[i] >= 0x7F:
            return False
    return True


# ---- records -----------------------------------------------------------------------------------------------------------
cdef Conn* take_client(Engine* engine, const Delivery* d, const Record* r, int fd, uint8_t state) noexcept nogil:
    """The client's connection, counted as ours; NULL: refused, fd untouched."""
    cdef char id[100]
    cdef ListenerRuntime* listener
    cdef Conn* client
    if not read_payload(d, r.payload_at, id, r.listener_length):
        return NULL
    listener = listener_known(engine, id, r.listener_length)
    if listener == NULL:
        return NULL
    client = conn_open(engine, fd, SOURCE_CLIENT, state)
    if client == NULL:
        return NULL
    client.listener = listener
    client.ready = READY_WRITE
    client.flags = CONN_SHARED
    if r.flags & RECORD_UNIX:
        client.flags |= CONN_UNIX
    memcpy(client.address, r.address, 16)
    client.port = r.port
    client.since_us = r.since_us if r.since_us < engine.now_us else engine.now_us
    client.served = r.served
    listener.connections += 1
    listener.stats.connections_open += 1
    if listener.record.connections_per_address_max and not client.flags & CONN_UNIX:
        count_address(engine, client, COUNTED_MAX)
    return client


cdef bint take_input(Engine* engine, const Delivery* d, const Record* r, Conn* client) noexcept nogil:
    if r.input_length == 0:
        return True
    client.input = buf_get(engine)
    if client.input == NULL or not read_payload(d, r.payload_at + r.listener_length, client.input.data, r.input_length):
        return False
    client.input.end = r.input_length
    return True


cdef StatBlock* block_of(Engine* engine, const Delivery* d, const StatRef* ref, StatBlock* otherwise) noexcept nogil:
    if not d.same_statistics or ref.slot >= engine.statistics.block_count \
            or engine.statistics.generations[ref.slot] != ref.generation:
        return otherwise
    return statistics_block(&engine.statistics, ref.slot)


cdef void take_accounts(Engine* engine, const Delivery* d, const Record* r, Exchange* x) noexcept nogil:
    """Charges the objects that the tunnel began with, where they still are."""
    cdef StatBlock* spare = statistics_block(&engine.statistics, 0xFFFFFFFF)
    x.stat_listener.in_flight -= 1
    x.stat_listener = block_of(engine, d, &r.stats[0], x.stat_listener)
    x.stat_frontend = block_of(engine, d, &r.stats[1], spare)
    x.stat_backend = block_of(engine, d, &r.stats[2], spare)
    x.stat_server = block_of(engine, d, &r.stats[3], spare)
    x.stat_listener.in_flight += 1
    x.stat_frontend.in_flight += 1
    x.stat_backend.in_flight += 1
    x.stat_server.in_flight += 1
    x.flags |= X_ROUTED


cdef void fill_direction(Direction* direction, bint done, bint shut, uint64_t bytes_) noexcept nogil:
    direction.framing_in = direction.framing_out = FRAMING_TUNNEL
    direction.state = DIRECTION_DONE if done else DIRECTION_BODY
    direction.shut = done and shut
    direction.bytes = bytes_


cdef bint fill_tunnel(Engine* engine, const Delivery* d, const Record* r, Exchange* x) noexcept nogil:
    cdef uint32_t at = r.payload_at + r.listener_length
    x.flags |= X_STARTED | X_TUNNEL
    x.started_us = r.started_us
    x.bytes_in = r.bytes_in
    x.bytes_out = r.bytes_out
    x.status = 101
    x.method = r.method
    x.retries = r.retries
    x.informational = r.informational
    x.attempts = r.attempts
    x.tunnel_timeout_ms = r.tunnel_timeout_ms
    memcpy(x.client_ip, r.client_ip, 16)
    fill_direction(&x.request, r.flags & RECORD_REQUEST_DONE, r.flags & RECORD_REQUEST_SHUT, r.request_bytes)
    fill_direction(&x.response, r.flags & RECORD_RESPONSE_DONE, r.flags & RECORD_RESPONSE_SHUT, r.response_bytes)
    x.names = <TunnelNames*>malloc(sizeof(TunnelNames))
    if x.names == NULL:
        return False
    x.flags |= X_INHERITED
    x.log_length = r.log_length
    if not read_payload(d, at, x.log_target, r.log_length):
        return False
    at += r.log_length
    if not read_names(d, r, at, x.names):
        return False
    at += r.name_lengths[0] + r.name_lengths[1] + r.name_lengths[2]
    return read_pending(engine, d, at, r.request_pending, &x.request) \
        and read_pending(engine, d, at + r.request_pending, r.response_pending, &x.response)


cdef bint take_holdings(Engine* engine, const Delivery* d, const Record* r, Exchange* x) noexcept nogil:
    cdef uint32_t i
    if not d.same_limits:
        return True
    for i in range(r.holding_count):
        if not limits_note(&engine.limits, r.holdings[i]):
            return False
        x.limit_handles[i] = r.holdings[i]
        x.limit_count += 1
    return True


cdef bint take_tunnel(Engine* engine, const Delivery* d, const Record* r, Conn* client, int fd) noexcept nogil:
    """The rest of a tunnel whose client was taken. False: refused; `fd` is still the caller's unless client.exchange has a server."""
    cdef Exchange* x = exchange_begin(engine, client)
    cdef Conn* server
    if x == NULL:
        return False
    take_accounts(engine, d, r, x)
    if not fill_tunnel(engine, d, r, x):
        return False
    server = conn_open(engine, fd, SOURCE_SERVER, SERVER_TUNNEL)
    if server == NULL:
        return False
    server.flags = CONN_SHARED
    server.ready = READY_WRITE
    server.exchange = x
    x.server = server
    conn_timeout(engine, server, r.left_ms)
    return take_holdings(engine, d, r, x)


cdef void leave(Engine* engine, Conn* client) noexcept nogil:
    """Undoes what was taken of a connection; the giver's descriptors keep it alive."""
    if client.exchange != NULL:
        exchange_withdraw(engine, client.exchange, False)
    conn_close(engine, client, False)


cdef bint take(Engine* engine, Delivery* d, const Record* r, int* client_fd, int* server_fd) noexcept nogil:
    """Takes one connection over, or nothing of it. Descriptors that found their place become -1."""
    cdef bint tunnel = r.kind == RECORD_TUNNEL
    cdef bint done
    cdef Conn* client
    if not is_record(engine, d, r) or not is_stream(client_fd[0]) or (tunnel and not is_stream(server_fd[0])):
        return False
    client = take_client(engine, d, r, client_fd[0], CLIENT_TUNNEL if tunnel else CLIENT_IDLE)
    if client == NULL:
        return False
    client_fd[0] = -1
    if tunnel:
        done = take_tunnel(engine, d, r, client, server_fd[0])
        if client.exchange != NULL and client.exchange.server != NULL:
            server_fd[0] = -1
    else:
        done = take_input(engine, d, r, client)
        conn_timeout(engine, client, r.left_ms)
    if not done:
        leave(engine, client)
        return False
    d.taken[d.taken_count] = client
    d.taken_count += 1
    return True


# ---- a parcel ----------------------------------------------------------------------------------------------------------
cdef void take_all(Engine* engine, Delivery* d, Answer* answer) noexcept nogil:
    """Every record, with the descriptors that are its own by their order; one with too few is refused."""
    cdef uint32_t next_ = 1 if d.file >= 0 else 0
    cdef uint32_t i, needed
    cdef bint room = not engine.draining and shed_used(engine) < engine.shed.begin
    for i in range(d.header.count):
        needed = 2 if d.records[i].kind == RECORD_TUNNEL else 1
        answer.results[i] = RESULT_REFUSED
        if next_ + needed <= d.descriptor_count and room:
            if take(engine, d, &d.records[i], &d.descriptors[next_], &d.descriptors[next_ + needed - 1]):
                answer.results[i] = RESULT_TAKEN
        next_ += needed


cdef int reply(Testator* testator, uint16_t kind, uint32_t sequence, const Answer* answer) noexcept nogil:
    """0, or -1 with errno."""
    cdef AnswerPacket packet
    cdef size_t length = sizeof(Preamble)
    memset(&packet, 0, sizeof(packet))
    memcpy(packet.preamble.magic, b"BSCH", 4)
    packet.preamble.version = HANDOVER_VERSION
    packet.preamble.kind = kind
    packet.preamble.sequence = sequence
    if answer != NULL:
        packet.answer = answer[0]
        length = sizeof(packet)
    while send(testator.fd, &packet, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0:
        if errno != EINTR:
            return -1
    return 0


cdef void begin(Engine* engine, Conn* client) noexcept nogil:
    """It is ours: whatever came with it is handled in this turn."""
    engine.handover.inherited += 1
    if client.input != NULL or client.exchange != NULL:
        run_later(engine, client)


cdef bint deliver(Engine* engine, Testator* testator, Delivery* d) noexcept nogil:
    """False: the giver cannot be told, so that it keeps everything and the socket must be closed."""
    cdef Answer answer
    cdef uint32_t i
    cdef bint told
    memset(&answer, 0, sizeof(answer))
    d.same_statistics = d.header.statistics_identity == engine.statistics_identity
    d.same_limits = engine.limits_on and d.header.limits_identity == engine.limits_identity
    answer.count = d.header.count
    answer.holdings_taken = d.same_limits
    take_all(engine, d, &answer)
    told = reply(testator, PACKET_ANSWER, d.preamble.sequence, &answer) == 0
    if not told and (errno == EPIPE or errno == ECONNRESET):
        told = True  # the giver has ended: there is nobody else who could have them
    for i in range(d.taken_count):
        if told:
            begin(engine, d.taken[i])
        else:
            leave(engine, d.taken[i])
    return told


cdef void testator_event(Engine* engine, Testator* testator) noexcept nogil:
    cdef Delivery d
    cdef uint32_t i, sequence
    cdef ssize_t got
    cdef bint ended
    d.descriptor_count = d.taken_count = 0
    got = delivery_receive(engine, testator.fd, &d)
    if got == -1:
        return
    ended = got == 0
    if got != 0:
        if got > 0 and is_parcel(&d, engine.scratch, got):
            ended = not deliver(engine, testator, &d)
        else:
            sequence = (<const Preamble*>engine.scratch).sequence if got >= <ssize_t>sizeof(Preamble) else 0
            reply(testator, PACKET_REFUSED, sequence, NULL)
            ended = True  # the giver takes back all it has sent: what still waits here must not be taken
    for i in range(d.descriptor_count):
        if d.descriptors[i] >= 0:
            close(d.descriptors[i])
    if ended:
        testator_close(engine, testator)
