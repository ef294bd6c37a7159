"""Opening, closing, reading and writing connections. See connection.pxd and types.pxd."""

from libc.errno cimport EAGAIN, EINTR, errno

from bascule.engine.memory cimport BUF_BYTES, slab_get, slab_put
from bascule.engine.system cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    MSG_MORE,
    MSG_NOSIGNAL,
    SO_LINGER,
    SOL_SOCKET,
    close,
    debug_assert,
    epoll_ctl,
    epoll_event,
    likely,
    memcpy,
    memset,
    msghdr,
    recv,
    send,
    sendmsg,
    setsockopt,
    unlikely,
)
from bascule.engine.timers cimport TIMER_CONNECTION, timer_cancel, timer_init, timer_set
from bascule.engine.types cimport (
    ADDRESS_ROWS,
    CLIENT_EXCHANGE,
    CLIENT_GIVEN,
    CLIENT_HEAD,
    CLIENT_IDLE,
    CLIENT_LINGER,
    CLIENT_TUNNEL,
    CONN_CLOSED,
    CONN_SHARED,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    READY_WRITE,
    SERVER_BUSY,
    SERVER_CONNECTING,
    SERVER_GIVEN,
    SERVER_POOLED,
    SERVER_TUNNEL,
    SOURCE_CLIENT,
)

cdef extern from *:
    """
    struct bascule_linger { int on; int seconds; };
    """
    cdef struct bascule_linger:
        int on
        int seconds


cdef Buf* buf_get(Engine* engine) noexcept nogil:
    cdef Buf* buf = <Buf*>slab_get(&engine.bufs)
    if buf != NULL:
        buf.next = NULL
        buf.start = 0
        buf.end = 0
    return buf


cdef void buf_free(Engine* engine, Buf** buf) noexcept nogil:
    if buf[0] != NULL:
        slab_put(&engine.bufs, buf[0])
        buf[0] = NULL


# ---- places ------------------------------------------------------------------------------------------------------------
cdef inline void unlink(Conn** head, Conn* conn) noexcept nogil:
    if conn.previous != NULL:
        conn.previous.next = conn.next
    else:
        debug_assert(head[0] == conn)
        head[0] = conn.next
    if conn.next != NULL:
        conn.next.previous = conn.previous
    conn.next = NULL
    conn.previous = NULL


cdef inline void link(Conn** head, Conn* conn) noexcept nogil:
    conn.previous = NULL
    conn.next = head[0]
    if head[0] != NULL:
        head[0].previous = conn
    head[0] = conn


cdef bint is_legal(uint8_t old, uint8_t new) noexcept nogil:
    """The table of types.pxd, ConnState."""
    if new == CONN_CLOSED:
        return old != CONN_CLOSED
    if old == CLIENT_IDLE:
        return new == CLIENT_HEAD or new == CLIENT_GIVEN
    if old == CLIENT_HEAD:
        return new == CLIENT_EXCHANGE or new == CLIENT_IDLE
    if old == CLIENT_EXCHANGE:
        return new == CLIENT_IDLE or new == CLIENT_TUNNEL or new == CLIENT_LINGER
    if old == CLIENT_TUNNEL:
        return new == CLIENT_GIVEN
    if old == CLIENT_GIVEN:
        return new == CLIENT_IDLE or new == CLIENT_TUNNEL
    if old == SERVER_CONNECTING:
        return new == SERVER_BUSY
    if old == SERVER_BUSY:
        return new == SERVER_POOLED or new == SERVER_TUNNEL
    if old == SERVER_POOLED:
        return new == SERVER_BUSY
    if old == SERVER_TUNNEL:
        return new == SERVER_GIVEN
    if old == SERVER_GIVEN:
        return new == SERVER_TUNNEL
    return False


cdef void conn_set_state(Engine* engine, Conn* conn, uint8_t state) noexcept nogil:
    """The only mover of a connection between states, and so between lists."""
    debug_assert(is_legal(conn.state, state))
    if conn.state == SERVER_POOLED:
        unlink(&conn.runtime.idle, conn)
        conn.runtime.idle_count -= 1
    elif state == SERVER_POOLED:
        link(&conn.runtime.idle, conn)
        conn.runtime.idle_count += 1
    conn.state = state


cdef int conn_register(Engine* engine, Conn* conn) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = conn
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, conn.fd, &event)


cdef void conn_unregister(Engine* engine, Conn* conn) noexcept nogil:
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, conn.fd, NULL)


cdef Conn* conn_open(Engine* engine, int fd, uint8_t kind, uint8_t state) noexcept nogil:
    """Wraps a non-blocking descriptor and registers it once, edge-triggered, for its whole life."""
    cdef Conn* conn = <Conn*>slab_get(&engine.conns)
    if unlikely(conn == NULL):
        return NULL
    memset(conn, 0, sizeof(Conn))
    conn.fd = fd
    conn.kind = kind
    conn.state = state
    timer_init(&conn.timer, TIMER_CONNECTION)
    if unlikely(conn_register(engine, conn) != 0):
        slab_put(&engine.conns, conn)
        return NULL
    if kind == SOURCE_CLIENT:
        link(&engine.clients, conn)
        engine.client_count += 1
    else:
        engine.server_count += 1
    return conn


cdef void conn_close(Engine* engine, Conn* conn, bint reset) noexcept nogil:
    """Closes the descriptor now; the object lives on the graveyard to the end of the turn, because events may still name it.

    `reset` sends RST instead of FIN, so that a cut response cannot look complete (RFC 9112 section 8).
    """
    cdef bascule_linger linger
    if conn.state == CONN_CLOSED:
        return
    if reset:
        linger.on = 1
        linger.seconds = 0
        setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger))
    timer_cancel(&engine.wheel, &conn.timer)
    conn_set_state(engine, conn, CONN_CLOSED)
    # The engine never keeps a second descriptor of a connection, so close() also takes it out of the epoll set, unless another
    # worker has one.
    if unlikely(conn.flags & CONN_SHARED):
        conn_unregister(engine, conn)
    close(conn.fd)
    conn.fd = -1
    buf_free(engine, &conn.input)
    if conn.kind == SOURCE_CLIENT:
        if unlikely(engine.handover.cursor == conn):
            engine.handover.cursor = conn.next
        unlink(&engine.clients, conn)
        engine.client_count -= 1
        engine.handover.closed += engine.draining
        if conn.listener != NULL:
            conn.listener.connections -= 1
            if conn.listener.stats != NULL:
                conn.listener.stats.connections_open -= 1
        if conn.address_counted and engine.address_counts != NULL:
            engine.address_counts[conn.address_rows[0]] -= 1
            engine.address_counts[ADDRESS_ROWS + conn.address_rows[1]] -= 1
    else:
        engine.server_count -= 1
        if conn.runtime != NULL:
            conn.runtime.connections -= 1
    conn.next = engine.graveyard
    engine.graveyard = conn


cdef void graveyard_bury(Engine* engine) noexcept nogil:
    """Frees what was closed in this turn; a connection still named by the run queue waits for the next."""
    cdef Conn* conn = engine.graveyard
    cdef Conn* next_
    engine.graveyard = NULL
    while conn != NULL:
        next_ = conn.next
        if conn.flags & CONN_QUEUED:
            conn.next = engine.graveyard
            engine.graveyard = conn
        else:
            slab_put(&engine.conns, conn)
        conn = next_


cdef void conn_timeout(Engine* engine, Conn* conn, uint32_t delay_ms) noexcept nogil:
    timer_set(&engine.wheel, &conn.timer, delay_ms)


# ---- bytes -------------------------------------------------------------------------------------------------------------
cdef int conn_read(Engine* engine, Conn* conn, char* to, uint32_t size) noexcept nogil:
    """Bytes read (> 0), READ_END, READ_AGAIN or READ_GONE.

    Edge-triggered: a short read proves the socket empty, so READY_READ is cleared without a further call that would only say EAGAIN;
    unless the peer has closed, when the end must still be read.
    """
    cdef ssize_t got
    while True:
        got = recv(conn.fd, to, size, 0)
        if got > 0:
            if got < size and not conn.ready & (READY_EOF | READY_ERROR):
                conn.ready &= ~READY_READ
            return <int>got
        if got == 0:
            conn.ready &= ~READY_READ
            conn.ready |= READY_EOF
            return READ_END
        if errno == EAGAIN:
            # The end and the error too: a failed send sets READY_ERROR although a half-closed peer may have no bytes for us yet,
            # and callers read as long as any of the three is set. A true end comes with an edge of its own.
            conn.ready &= ~(READY_READ | READY_EOF | READY_ERROR)
            return READ_AGAIN
        if errno != EINTR:
            conn.ready &= ~READY_READ
            conn.ready |= READY_ERROR
            return READ_GONE


cdef int output_append(Engine* engine, Output* output, const char* data, uint64_t length) noexcept nogil:
    """Copies bytes the sink did not take. IO_DONE or IO_NO_MEMORY."""
    cdef Buf* buf = output.last
    cdef uint64_t room
    while length > 0:
        if buf == NULL or buf.end == BUF_BYTES:
            buf = buf_get(engine)
            if unlikely(buf == NULL):
                return IO_NO_MEMORY
            if output.last == NULL:
                output.first = buf
            else:
                output.last.next = buf
            output.last = buf
        room = BUF_BYTES - buf.end
        if room > length:
            room = length
        memcpy(buf.data + buf.end, data, room)
        buf.end += <uint32_t>room
        data += room
        length -= room
    return IO_DONE


cdef void output_free(Engine* engine, Output* output) noexcept nogil:
    cdef Buf* buf = output.first
    cdef Buf* next_
    while buf != NULL:
        next_ = buf.next
        slab_put(&engine.bufs, buf)
        buf = next_
    output.first = NULL
    output.last = NULL


cdef int output_flush(Engine* engine, Conn* conn, Output* output) noexcept nogil:
    """Writes what waits: IO_DONE when nothing waits any more, IO_PENDING, or IO_CLOSED."""
    cdef Buf* buf
    cdef ssize_t put
    while output.first != NULL:
        if not conn.ready & READY_WRITE:
            return IO_PENDING
        buf = output.first
        put = send(conn.fd, buf.data + buf.start, buf.end - buf.start, MSG_NOSIGNAL)
        if put < 0:
            if errno == EINTR:
                continue
            conn.ready &= ~READY_WRITE
            if errno == EAGAIN:
                return IO_PENDING
            conn.ready |= READY_ERROR
            return IO_CLOSED
        buf.start += <uint32_t>put
        if buf.start < buf.end:
            conn.ready &= ~READY_WRITE
            return IO_PENDING
        output.first = buf.next
        if output.first == NULL:
            output.last = NULL
        slab_put(&engine.bufs, buf)
    return IO_DONE


cdef int conn_emit(Engine* engine, Conn* conn, Output* output, iovec* parts, uint32_t count, bint last) noexcept nogil:
    """Writes the parts in one system call; what the socket does not take is copied to `output`. Consumes `parts`.

    `last`: the caller closes the connection as soon as all is written, so the kernel may wait for the FIN and send one packet less.
    IO_DONE (all of it is in the kernel), IO_PENDING, IO_CLOSED or IO_NO_MEMORY.
    """
    cdef msghdr message
    cdef ssize_t put = 0
    cdef uint32_t i = 0
    cdef int flags = MSG_NOSIGNAL | MSG_MORE if last else MSG_NOSIGNAL
    if output.first == NULL and conn.ready & READY_WRITE:
        while True:
            if count == 1:
                put = send(conn.fd, parts[0].iov_base, parts[0].iov_len, flags)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = count
                put = sendmsg(conn.fd, &message, flags)
            if likely(put >= 0) or errno != EINTR:
                break
        if put < 0:
            conn.ready &= ~READY_WRITE
            if errno != EAGAIN:
                conn.ready |= READY_ERROR
                return IO_CLOSED
            put = 0
        while i < count and <size_t>put >= parts[i].iov_len:
            put -= <ssize_t>parts[i].iov_len
            i += 1
        if i == count:
            return IO_DONE
        conn.ready &= ~READY_WRITE
        if output_append(engine, output, <char*>parts[i].iov_base + put, parts[i].iov_len - put) != IO_DONE:
            return IO_NO_MEMORY
        i += 1
    while i < count:
        if output_append(engine, output, <char*>parts[i].iov_base, parts[i].iov_len) != IO_DONE:
            return IO_NO_MEMORY
        i += 1
    return IO_PENDING
