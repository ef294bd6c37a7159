"""See exchange.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport strlen

from bascule.codec.head cimport head_begin
from bascule.engine.bequest cimport offer
from bascule.engine.connection cimport (
    IO_CLOSED,
    IO_NO_MEMORY,
    buf_free,
    conn_close,
    conn_emit,
    conn_set_state,
    conn_timeout,
    output_free,
    run_later,
)
from bascule.engine.memory cimport Buf, slab_get, slab_put
from bascule.engine.system cimport SHUT_WR, debug_assert, iovec, memset, munmap, shutdown, unlikely
from bascule.engine.timers cimport TIMER_EXCHANGE, timer_cancel, timer_hasten, timer_init
from bascule.engine.types cimport (
    CLIENT_EXCHANGE,
    CLIENT_HEAD,
    CLIENT_IDLE,
    CLIENT_LINGER,
    CONN_CLOSE_AFTER,
    CONN_CLOSED,
    DIRECTION_DONE,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    SERVER_BUSY,
    SERVER_POOLED,
    X_CLIENT_10,
    X_CUT,
    X_ENDED,
    X_HEAD_METHOD,
    X_INHERITED,
    X_KEEP_CLIENT,
    X_KEEP_SERVER,
    X_LOCAL,
    X_REPLAY,
    X_STARTED,
    X_TUNNEL,
    Direction,
    output_empty,
)
from bascule.request.s9_account cimport account_begin, account_end, account_withdraw
from bascule.routing.table cimport RouteTable, route_table_close
from bascule.shared.concurrency cimport limits_forget, limits_release
from bascule.shared.statistics cimport ERROR_CLIENT_GONE

cdef enum:
    LINGER_MS = 2000              # how long a client may go on sending after its answer
    DRAIN_WINDOW_MS = 4000        # idle clients of a draining worker are closed spread over this


cdef extern from *:
    """
    #define bascule_exchange_prefix offsetof(struct __pyx_t_7bascule_6engine_5types_Exchange, head)
    """
    size_t EXCHANGE_PREFIX "bascule_exchange_prefix"


cdef Exchange* exchange_begin(Engine* engine, Conn* client) noexcept nogil:
    """An exchange for the request whose first byte has come; the client is in CLIENT_HEAD."""
    cdef Exchange* x = <Exchange*>slab_get(&engine.exchanges)
    if unlikely(x == NULL):
        return NULL
    memset(x, 0, EXCHANGE_PREFIX)
    timer_init(&x.timer, TIMER_EXCHANGE)
    x.client = client
    x.started_us = engine.now_us
    x.request.bufs = &engine.bufs
    x.response.bufs = &engine.bufs
    client.exchange = x
    head_begin(&x.request, &x.head, False)
    account_begin(engine, x)
    return x


cdef void snapshot_pin(Exchange* x, Snapshot* snapshot) noexcept nogil:
    snapshot.references += 1
    x.snapshot = snapshot


cdef void snapshot_unpin(Engine* engine, Snapshot* snapshot) noexcept nogil:
    snapshot.references -= 1
    if snapshot.references == 0:
        route_table_close(<RouteTable*>snapshot.routes)
        munmap(<void*>snapshot.base, snapshot.size)
        free(snapshot)
        engine.snapshots -= 1


cdef void forget_replay(Engine* engine, Exchange* x) noexcept nogil:
    """The request can no longer be sent again: gives back the composed head and the body bytes that left with it."""
    cdef Buf* input = x.client.input
    x.flags &= ~X_REPLAY
    buf_free(engine, &x.request_head)
    if input != NULL:
        input.start += x.prefix_length
        if input.start == input.end:
            buf_free(engine, &x.client.input)
    x.prefix_length = x.prefix_sent = 0
    x.request_head_length = x.request_head_sent = 0


# ---- endings -----------------------------------------------------------------------------------------------------------
cdef void server_release(Engine* engine, Exchange* x, bint reusable) noexcept nogil:
    """Back to its pool, or closed. Anything unread or any end seen means closed."""
    cdef Conn* server = x.server
    if server == NULL:
        return
    x.server = NULL
    server.exchange = NULL
    if reusable and server.state == SERVER_BUSY and not server.ready & (READY_READ | READY_EOF | READY_ERROR) \
            and server.input == NULL and server.epoch == server.runtime.epoch \
            and server.runtime.idle_count < x.backend.idle_connections_max and not engine.winding_down:
        server.served += 1
        conn_set_state(engine, server, SERVER_POOLED)
        conn_timeout(engine, server, x.backend.keepalive_timeout_ms)
        return
    conn_close(engine, server, False)


cdef void direction_free(Engine* engine, Direction* direction) noexcept nogil:
    output_free(engine, &direction.out)
    buf_free(engine, &direction.trailers)


cdef bint request_is_over(Exchange* x) noexcept nogil:
    return x.request.state == DIRECTION_DONE and output_empty(&x.request.out) and not x.request.sink_closed


cdef inline bint must_go(const Engine* engine, const Conn* client) noexcept nogil:
    return engine.draining or not client.listener.configured or client.flags & CONN_CLOSE_AFTER


cdef void client_idle(Engine* engine, Conn* client) noexcept nogil:
    """Between two requests: no buffer, no exchange. Bytes of a pipelined request already here run next, in the heir if there is one."""
    if client.input != NULL:
        if client.input.start == client.input.end:
            buf_free(engine, &client.input)
        else:
            run_later(engine, client)
    if client.ready & (READY_READ | READY_EOF | READY_ERROR):
        run_later(engine, client)
    conn_timeout(engine, client,
                 drain_delay_ms(engine) if must_go(engine, client)
                 else client.listener.record.keepalive_timeout_ms)
    if unlikely(engine.offered < engine.offers_max) and not client.flags & CONN_CLOSE_AFTER:
        offer(engine, client)


cdef bint client_leaves(Engine* engine, Conn* client) noexcept nogil:
    """Whether an answer is to be a client's last here. Not while a further request has come already: who pipelines it could not know."""
    if not must_go(engine, client):
        return False
    return not client.ready & READY_READ and (client.input == NULL or client.input.start == client.input.end)


cdef uint32_t drain_delay_ms(Engine* engine) noexcept nogil:
    """How long an idle client that must go is kept: spread, so that the reconnects do not come all at once.

    Half of the time that is left to a draining engine; DRAIN_WINDOW_MS when only its listener is gone.
    """
    cdef uint64_t window_ms = DRAIN_WINDOW_MS
    cdef uint64_t left_us
    if engine.draining:
        left_us = engine.drain_deadline_us - engine.now_us if engine.drain_deadline_us > engine.now_us else 0
        if left_us // 2000 < window_ms:
            window_ms = left_us // 2000
    engine.random_state[0] = engine.random_state[0] * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
    return <uint32_t>(window_ms // 4 + (engine.random_state[0] >> 33) % (window_ms * 3 // 4 + 1)) + 1


cdef void clients_hasten(Engine* engine) noexcept nogil:
    """Gives every idle client that must go its time: all while draining, else those whose listener is not configured any more."""
    cdef Conn* client = engine.clients
    while client != NULL:
        if client.state == CLIENT_IDLE and (engine.draining or not client.listener.configured):
            timer_hasten(&engine.wheel, &client.timer, drain_delay_ms(engine))
        client = client.next


cdef void clients_relax(Engine* engine) noexcept nogil:
    """The opposite: idle clients have their whole time again."""
    cdef Conn* client = engine.clients
    while client != NULL:
        client.flags &= ~CONN_CLOSE_AFTER
        if client.state == CLIENT_IDLE and client.listener.configured:
            conn_timeout(engine, client, client.listener.record.keepalive_timeout_ms)
        client = client.next


cdef void client_next(Engine* engine, Conn* client, bint keep, bint request_over) noexcept nogil:
    if keep and request_over:
        conn_set_state(engine, client, CLIENT_IDLE)
        client_idle(engine, client)
        return
    # Closing with unread bytes in the socket makes the kernel send RST, which may destroy the answer on its way
    # (RFC 9112 section 9.6): stop sending first, and let the client finish.
    if not request_over or client.ready & READY_READ or (client.input != NULL and client.input.start < client.input.end):
        buf_free(engine, &client.input)
        conn_set_state(engine, client, CLIENT_LINGER)
        shutdown(client.fd, SHUT_WR)
        client.since_us = engine.now_us
        conn_timeout(engine, client, LINGER_MS)
        run_later(engine, client)
        return
    conn_close(engine, client, False)


cdef inline void exchange_free(Engine* engine, Exchange* x) noexcept nogil:
    timer_cancel(&engine.wheel, &x.timer)
    direction_free(engine, &x.request)
    direction_free(engine, &x.response)
    buf_free(engine, &x.request_head)
    if x.snapshot != NULL:
        snapshot_unpin(engine, x.snapshot)
    elif unlikely(x.flags & X_INHERITED):
        free(x.names)
    x.client.exchange = NULL
    slab_put(&engine.exchanges, x)


cdef void exchange_withdraw(Engine* engine, Exchange* x, bint release) noexcept nogil:
    cdef uint32_t i
    x.flags |= X_ENDED
    server_release(engine, x, False)
    account_withdraw(engine, x)
    for i in range(x.limit_count):
        if release:
            limits_release(&engine.limits, x.limit_handles[i])
        else:
            limits_forget(&engine.limits, x.limit_handles[i])
    exchange_free(engine, x)


cdef void exchange_end(Engine* engine, Exchange* x) noexcept nogil:
    """The one way out. Accounts, gives everything back, and sends both connections on their way."""
    cdef Conn* client = x.client
    # Sent or not, the body bytes that came with the head are this request's: they must not be read as the next one.
    forget_replay(engine, x)
    cdef bint request_over = request_is_over(x)
    cdef bint keep = x.flags & X_KEEP_CLIENT and not x.flags & X_CUT  # while draining, responses said close when composed
    cdef bint cut = (x.flags & X_CUT) != 0
    cdef bint tunnel = (x.flags & X_TUNNEL) != 0
    cdef uint32_t i
    debug_assert(not x.flags & X_ENDED)
    x.flags |= X_ENDED
    server_release(engine, x, x.flags & X_KEEP_SERVER and request_over and x.response.state == DIRECTION_DONE)
    account_end(engine, x)
    for i in range(x.limit_count):
        limits_release(&engine.limits, x.limit_handles[i])
    exchange_free(engine, x)
    if client.state == CONN_CLOSED:
        return
    client.served += 1
    if cut or tunnel or client.ready & READY_ERROR:
        conn_close(engine, client, cut)
        return
    client_next(engine, client, keep, request_over)


cdef bint exchange_end_if_done(Engine* engine, Exchange* x) noexcept nogil:
    """Ends the exchange when its response is complete and in the kernel; True if it ended."""
    if x.response.state == DIRECTION_DONE and output_empty(&x.response.out):
        exchange_end(engine, x)
        return True
    return False


cdef void exchange_gone(Engine* engine, Exchange* x) noexcept nogil:
    """The client is gone: nothing more can be sent to it. 499, and the server is told by a close."""
    if not x.flags & X_STARTED:
        x.status = 499
    x.error = ERROR_CLIENT_GONE
    x.flags &= ~(X_KEEP_SERVER | X_KEEP_CLIENT)
    x.client.ready |= READY_ERROR
    exchange_end(engine, x)


cdef void exchange_fail(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why) noexcept nogil:
    """An error answer if the client has seen nothing yet; otherwise the response is cut so that it cannot look complete."""
    if not x.flags & X_STARTED:
        exchange_reply(engine, x, status, error, why, NULL, 0)
        return
    x.error = error
    x.flags |= X_CUT
    x.flags &= ~X_KEEP_SERVER
    exchange_end(engine, x)


# ---- answers of our own --------------------------------------------------------------------------------------------------
cdef const char* reason_phrase(uint32_t status) noexcept nogil:
    if status == 200: return b"OK"
    if status == 400: return b"Bad Request"
    if status == 404: return b"Not Found"
    if status == 405: return b"Method Not Allowed"
    if status == 408: return b"Request Timeout"
    if status == 413: return b"Content Too Large"
    if status == 414: return b"URI Too Long"
    if status == 417: return b"Expectation Failed"
    if status == 421: return b"Misdirected Request"
    if status == 429: return b"Too Many Requests"
    if status == 431: return b"Request Header Fields Too Large"
    if status == 501: return b"Not Implemented"
    if status == 502: return b"Bad Gateway"
    if status == 503: return b"Service Unavailable"
    if status == 504: return b"Gateway Timeout"
    if status == 505: return b"HTTP Version Not Supported"
    return b"Error"


cdef void exchange_reply(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why,
                         const char* headers, uint32_t headers_length) noexcept nogil:
    """Answers in the server's stead: text/plain, one sentence. `headers`: further complete lines, or NULL.

    The connection is kept only if the request was sound and wholly read.
    """
    cdef Conn* client = x.client
    cdef iovec part
    cdef char* out = engine.compose
    cdef const char* reason = reason_phrase(status)
    cdef int body_length = <int>(strlen(why) + strlen(reason)) + 3
    cdef const char* connection = b"Connection: close\r\n"
    cdef const char* extra = headers
    cdef int n, result
    if extra == NULL:
        extra = b""
    if client.state == CLIENT_HEAD:
        conn_set_state(engine, client, CLIENT_EXCHANGE)
    if x.server != NULL:
        x.flags &= ~X_KEEP_SERVER
        server_release(engine, x, False)
    if not request_is_over(x) or status == 400 or client_leaves(engine, client):
        x.flags &= ~X_KEEP_CLIENT
    if x.flags & X_KEEP_CLIENT:
        connection = b""
        if x.flags & X_CLIENT_10:
            connection = b"Connection: keep-alive\r\n"
    x.status = <uint16_t>status
    x.error = error
    x.flags |= X_LOCAL | X_STARTED
    n = snprintf(
        out, 4096,
        b"HTTP/1.1 %u %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%s%.*s\r\n",
        <unsigned>status, reason, body_length, connection, <int>headers_length, extra)
    if not x.flags & X_HEAD_METHOD:
        n += snprintf(out + n, 4096, b"%s: %s\n", reason, why)
    x.response.state = DIRECTION_DONE
    x.bytes_out += <uint64_t>n
    part.iov_base = out
    part.iov_len = <size_t>n
    result = conn_emit(engine, client, &x.response.out, &part, 1, not x.flags & X_KEEP_CLIENT)
    if result == IO_CLOSED or result == IO_NO_MEMORY:
        x.flags &= ~X_KEEP_CLIENT
        client.ready |= READY_ERROR
        exchange_end(engine, x)
        return
    if not exchange_end_if_done(engine, x):
        conn_timeout(engine, client, client.listener.record.body_timeout_ms)
