"""See s6_forward.pxd."""

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, EMFILE, ENFILE, errno
from libc.stdint cimport uint8_t, uint32_t

from bascule.engine.connection cimport conn_close, conn_open, conn_set_state, conn_timeout, run_later
from bascule.engine.memory cimport Buf
from bascule.engine.shed cimport shed_descriptor
from bascule.engine.system cimport (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    MSG_NOSIGNAL,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    close,
    connect,
    getsockopt,
    iovec,
    likely,
    memcmp,
    memcpy,
    memset,
    msghdr,
    send,
    sendmsg,
    setsockopt,
    sockaddr,
    socket,
    socklen_t,
    unlikely,
)
from bascule.engine.timers cimport timer_set
from bascule.engine.types cimport (
    CONN_REUSED,
    DIRECTION_DONE,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    READY_WRITE,
    SERVER_BUSY,
    SERVER_CONNECTING,
    SOURCE_SERVER,
    X_IDEMPOTENT,
    X_REPLAY,
    ServerRuntime,
    head_unsent,
)
from bascule.request.exchange cimport exchange_fail, server_release
from bascule.request.s5_balance cimport balance_pick, server_runtime
from bascule.request.s8_relay cimport relay_request, wait_for
from bascule.request.s9_account cimport account_retry, account_server
from bascule.shared.snapshot cimport ServerRecord
from bascule.shared.statistics cimport (
    ERROR_CONNECT_FAILED,
    ERROR_NO_SERVER,
    ERROR_OVERLOAD,
    statistics_block,
)

cdef enum:
    ATTEMPTS_MAX = 3              # servers tried for one exchange


# ---- which connection ----------------------------------------------------------------------------------------------------
cdef uint32_t address_key(const ServerRecord* server, const uint8_t* address, uint8_t* key) noexcept nogil:
    """The address in at most 28 bytes: itself for TCP, folded for a Unix path (110 bytes)."""
    cdef uint32_t length = server.address.length
    cdef uint32_t i
    if length <= 28:
        memcpy(key, address, length)
        return length
    memset(key, 0, 28)
    for i in range(length):
        key[i % 28] = <uint8_t>((key[i % 28] * 31) ^ address[i])
    return length


cdef void runtime_check_address(Engine* engine, ServerRuntime* runtime, const ServerRecord* server,
                                const uint8_t* address) noexcept nogil:
    # The same identity may get another address (a new URL, or the name resolves differently): its idle connections lead elsewhere.
    cdef uint8_t key[28]
    cdef uint32_t length = address_key(server, address, key)
    if likely(runtime.address_length == length and memcmp(runtime.address, key, length if length < 28 else 28) == 0):
        return
    while runtime.idle != NULL:
        conn_close(engine, runtime.idle, False)
    memcpy(runtime.address, key, 28)
    runtime.address_length = length
    runtime.epoch += 1  # connections that are busy now lead to the old address: server_release must not pool them


cdef Conn* take_pooled(Engine* engine, ServerRuntime* runtime) noexcept nogil:
    """The most recently used idle connection that has shown no sign of death."""
    cdef Conn* server
    while runtime.idle != NULL:
        server = runtime.idle
        if unlikely(server.ready & (READY_READ | READY_EOF | READY_ERROR)):
            conn_close(engine, server, False)
            continue
        conn_set_state(engine, server, SERVER_BUSY)
        conn_timeout(engine, server, 0)
        server.flags |= CONN_REUSED
        return server
    return NULL


cdef Conn* dial(Engine* engine, Exchange* x, ServerRuntime* runtime, const ServerRecord* record,
                const uint8_t* address) noexcept nogil:
    """A connection being opened; NULL with errno when it failed at once."""
    cdef int family = (<const sockaddr*>address).sa_family
    cdef int one = 1
    cdef int fd, result
    cdef Conn* server
    fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if unlikely(fd < 0) and (errno == EMFILE or errno == ENFILE) and shed_descriptor(engine):
        fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if unlikely(fd < 0):
        return NULL
    if family == AF_INET or family == AF_INET6:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    result = connect(fd, <const sockaddr*>address, <socklen_t>record.address.length)
    if result != 0 and errno != EINPROGRESS:
        close(fd)
        return NULL
    server = conn_open(engine, fd, SOURCE_SERVER, SERVER_CONNECTING)
    if unlikely(server == NULL):
        close(fd)
        return NULL
    server.runtime = runtime
    server.epoch = runtime.epoch
    runtime.connections += 1
    statistics_block(&engine.statistics, record.stat_slot).connections += 1
    if result == 0:
        conn_set_state(engine, server, SERVER_BUSY)
        server.ready |= READY_WRITE
    return server


cdef void attempt(Engine* engine, Exchange* x, const ServerRecord* avoid, bint fresh) noexcept nogil:
    """Picks servers until one takes the exchange, or fails it."""
    cdef const ServerRecord* record
    cdef const uint8_t* address
    cdef ServerRuntime* runtime
    cdef Conn* server
    while True:
        record = avoid if fresh and avoid != NULL else balance_pick(engine, x, avoid)
        if unlikely(record == NULL):
            if x.attempts == 0:
                exchange_fail(engine, x, 503, ERROR_NO_SERVER, b"no server of this backend is up")
            else:
                exchange_fail(engine, x, 502, ERROR_CONNECT_FAILED, b"no server of this backend accepts connections")
            return
        x.attempts += 1
        account_server(engine, x, record)
        runtime = server_runtime(engine, record)
        if unlikely(runtime == NULL):
            exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of memory")
            return
        address = <const uint8_t*>x.snapshot.strings + record.address.offset
        runtime_check_address(engine, runtime, record, address)
        server = NULL if fresh else take_pooled(engine, runtime)
        if server == NULL:
            server = dial(engine, x, runtime, record, address)
        if likely(server != NULL):
            break
        if errno == EMFILE or errno == ENFILE:  # ours, not the server's fault; another server needs one as well
            exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of descriptors")
            return
        if x.attempts >= ATTEMPTS_MAX:
            exchange_fail(engine, x, 502, ERROR_CONNECT_FAILED, b"no server of this backend accepts connections")
            return
        account_retry(engine, x)
        x.retries += 1
        avoid = record
        fresh = False
    x.server = server
    server.exchange = x
    if server.state == SERVER_CONNECTING:
        conn_timeout(engine, server, x.backend.connect_timeout_ms)
        return
    send_head(engine, x)


cdef void forward_start(Engine* engine, Exchange* x) noexcept nogil:
    """The composed head is in x.request_head; prefix_length body bytes follow it in the client's input."""
    if x.backend.exchange_timeout_ms:
        timer_set(&engine.wheel, &x.timer, x.backend.exchange_timeout_ms)
    attempt(engine, x, NULL, False)


# ---- sending ---------------------------------------------------------------------------------------------------------------
cdef void send_head(Engine* engine, Exchange* x) noexcept nogil:
    """Sends what is left of the head and of the body bytes that came with it, in one call."""
    cdef Conn* server = x.server
    cdef Buf* head = x.request_head
    cdef Buf* input = x.client.input
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t put
    cdef uint32_t head_left, prefix_left
    cdef bint moved = False
    while True:
        head_left = x.request_head_length - x.request_head_sent
        prefix_left = x.prefix_length - x.prefix_sent
        if head_left == 0 and prefix_left == 0:
            break
        if not server.ready & READY_WRITE:
            wait_for(engine, server, x.backend.idle_timeout_ms, moved)
            return
        if prefix_left == 0:
            put = send(server.fd, head.data + x.request_head_sent, head_left, MSG_NOSIGNAL)
        else:
            parts[0].iov_base = head.data + x.request_head_sent
            parts[0].iov_len = head_left
            parts[1].iov_base = input.data + input.start + x.prefix_sent
            parts[1].iov_len = prefix_left
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = 2
            put = sendmsg(server.fd, &message, MSG_NOSIGNAL)
        if unlikely(put < 0):
            if errno == EINTR:
                continue
            server.ready &= ~READY_WRITE
            if errno != EAGAIN:
                # It may have answered before it closed: its bytes, or that there are none, decide (respond_read).
                server.ready |= READY_READ
                wait_for(engine, server, x.backend.response_timeout_ms, moved)
                run_later(engine, x.client)
                return
            continue
        moved = True
        if <size_t>put < <size_t>head_left + prefix_left:
            server.ready &= ~READY_WRITE
        if <size_t>put >= head_left:
            x.prefix_sent += <uint32_t>put - head_left
            x.request_head_sent = x.request_head_length
        else:
            x.request_head_sent += <uint32_t>put
    if x.request.state == DIRECTION_DONE:
        conn_timeout(engine, server, x.backend.response_timeout_ms)
        return
    x.body_since_us = engine.now_us
    relay_request(engine, x)


cdef void forward_continue(Engine* engine, Exchange* x) noexcept nogil:
    """Something happened on the server connection, or it may take more: connected, writable, or failed to connect."""
    cdef Conn* server = x.server
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    if server.state == SERVER_CONNECTING:
        if server.ready & READY_ERROR:
            getsockopt(server.fd, SOL_SOCKET, SO_ERROR, &error, &size)
            if error != 0:
                forward_lost(engine, x, 502, ERROR_CONNECT_FAILED, b"no server of this backend accepts connections")
                return
            server.ready &= ~READY_ERROR
        if not server.ready & READY_WRITE:
            return
        conn_set_state(engine, server, SERVER_BUSY)
        conn_timeout(engine, server, 0)
    if head_unsent(x):
        send_head(engine, x)
    elif x.request.state != DIRECTION_DONE or x.request.out.first != NULL:
        relay_request(engine, x)


cdef void forward_lost(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why) noexcept nogil:
    """The server connection died before the first response byte: retry where that is safe, else fail the exchange."""
    cdef Conn* server = x.server
    cdef const ServerRecord* record = x.server_record
    cdef bint connecting = server.state == SERVER_CONNECTING
    cdef bint untouched = x.request_head != NULL and x.request_head_sent == 0
    cdef bint reused = (server.flags & CONN_REUSED) != 0
    server_release(engine, x, False)
    if x.attempts < ATTEMPTS_MAX:
        if connecting and x.backend.server_count > 1:  # nothing was sent, not even of a body that could not be sent again
            account_retry(engine, x)
            x.retries += 1
            attempt(engine, x, record, False)
            return
        if reused and (untouched or (x.flags & X_REPLAY and x.flags & X_IDEMPOTENT)):
            account_retry(engine, x)
            x.retries += 1
            x.request_head_sent = 0
            x.prefix_sent = 0
            attempt(engine, x, record, True)
            return
    exchange_fail(engine, x, status, error, why)


cdef void pooled_event(Engine* engine, Conn* server) noexcept nogil:
    """A pooled connection that has anything to say is not reusable: a close, or bytes nobody asked for."""
    if server.ready & (READY_READ | READY_EOF | READY_ERROR):
        conn_close(engine, server, False)
