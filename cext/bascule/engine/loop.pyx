"""See loop.pxd. Which state is handled by which stage is written here and nowhere else."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.engine.bequest cimport bequest_deadline, bequest_retry, bequest_step, heir_event
from bascule.engine.connection cimport conn_close, graveyard_bury, output_flush, buf_free, IO_CLOSED
from bascule.engine.inheritance cimport testator_event
from bascule.engine.shed cimport shed_idle, shed_refuses, shed_used
from bascule.engine.system cimport (
    CLOCK_MONOTONIC,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    TFD_TIMER_ABSTIME,
    clock_gettime,
    epoll_event,
    epoll_wait,
    itimerspec,
    likely,
    memset,
    prefetch,
    read,
    timerfd_settime,
    timespec,
    unlikely,
)
from bascule.engine.timers cimport (
    TICK_MS,
    TIMER_BEQUEST,
    TIMER_CONNECTION,
    TIMER_DEADLINE,
    TIMER_EXCHANGE,
    TIMER_IDLE,
    TIMER_RESUME,
    Timer,
    wheel_advance,
    wheel_next,
)
from bascule.engine.types cimport (
    CLIENT_EXCHANGE,
    CLIENT_GIVEN,
    CLIENT_HEAD,
    CLIENT_IDLE,
    CLIENT_LINGER,
    CLIENT_TUNNEL,
    CONN_CLOSED,
    CONN_QUEUED,
    DIRECTION_DONE,
    DIRECTION_HEAD,
    EVENTS_MAX,
    READY_EOF,
    READY_ERROR,
    READY_READ,
    READY_WRITE,
    SERVER_CONNECTING,
    SERVER_GIVEN,
    SERVER_POOLED,
    SOURCE_CLIENT,
    SOURCE_FOREIGN,
    SOURCE_HEIR,
    SOURCE_SERVER,
    SOURCE_SLOT,
    SOURCE_TESTATOR,
    SOURCE_TIMER,
    TURNS_MAX,
    TURN_US,
    X_KEEP_CLIENT,
    Conn,
    Exchange,
    Heir,
    Slot,
    Source,
    Testator,
    head_unsent,
    output_empty,
)
from bascule.request.exchange cimport exchange_end, exchange_fail, exchange_gone, exchange_reply
from bascule.request.rewrite cimport request_compose
from bascule.request.s1_accept cimport accept_ready, accept_resume
from bascule.request.s2_parse cimport RequestView, client_linger, client_read
from bascule.request.s3_route cimport route
from bascule.request.s4_limit cimport LimitKeys, limit, limit_begin
from bascule.request.s6_forward cimport forward_continue, forward_lost, forward_start, pooled_event
from bascule.request.s7_respond cimport respond_read
from bascule.request.s8_relay cimport relay_response, relay_tunnel
from bascule.request.s9_account cimport access_log_flush
from bascule.shared.statistics cimport (
    ERROR_CLIENT_SLOW,
    ERROR_CONNECT_TIMEOUT,
    ERROR_EXCHANGE_TIMEOUT,
    ERROR_OVERLOAD,
    ERROR_REQUEST_TIMEOUT,
    ERROR_RESPONSE_CUT,
    ERROR_RESPONSE_TIMEOUT,
)

cdef extern from *:
    """
    #define bascule_conn_of(t) ((struct __pyx_t_7bascule_6engine_5types_Conn *)((char *)(t) - \\
        offsetof(struct __pyx_t_7bascule_6engine_5types_Conn, timer)))
    #define bascule_exchange_of(t) ((struct __pyx_t_7bascule_6engine_5types_Exchange *)((char *)(t) - \\
        offsetof(struct __pyx_t_7bascule_6engine_5types_Exchange, timer)))
    """
    Conn* conn_of "bascule_conn_of"(Timer* timer) noexcept nogil
    Exchange* exchange_of "bascule_exchange_of"(Timer* timer) noexcept nogil


cdef void engine_clock(Engine* engine) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    engine.now_us = <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000
    engine.wheel.clock = (engine.now_us - engine.start_us) // (TICK_MS * 1000)


# ---- the stages of a request, in their order -----------------------------------------------------------------------------
cdef void request_ready(Engine* engine, Exchange* x, RequestView* view) noexcept nogil:
    """s3 route -> s4 limit, around composing -> s5 balance and s6 forward."""
    cdef Conn* client = x.client
    cdef LimitKeys keys
    if unlikely(shed_refuses(engine)):
        x.flags &= ~X_KEEP_CLIENT
        exchange_reply(engine, x, 503, ERROR_OVERLOAD, b"out of memory for further requests", b"Retry-After: 1\r\n", 16)
        return
    if not route(engine, x, view):
        return
    limit_begin(engine, x, view, &keys)
    if unlikely(request_compose(engine, x, view) != 0):
        exchange_fail(engine, x, 503, ERROR_OVERLOAD, b"out of buffers")
        return
    if not limit(engine, x, &keys):
        return
    if client.input.start == client.input.end:
        buf_free(engine, &client.input)
    forward_start(engine, x)


# ---- events --------------------------------------------------------------------------------------------------------------
cdef void exchange_event(Engine* engine, Exchange* x) noexcept nogil:
    """Something happened on either side of an exchange: each direction moves as far as it can."""
    cdef Conn* client = x.client
    if client.ready & READY_ERROR:
        exchange_gone(engine, x)
        return
    if client.state == CLIENT_TUNNEL:
        relay_tunnel(engine, x)
        return
    if x.server != NULL:
        if x.server.state == SERVER_CONNECTING or x.request.state != DIRECTION_DONE or x.request.out.first != NULL \
                or head_unsent(x):
            forward_continue(engine, x)
            if client.exchange != x:
                return
        if x.server != NULL and x.server.state == SERVER_CONNECTING:
            return
    if x.response.state != DIRECTION_HEAD:
        relay_response(engine, x)
        return
    if not output_empty(&x.response.out) and output_flush(engine, client, &x.response.out) == IO_CLOSED:
        exchange_gone(engine, x)
        return
    if x.server != NULL:
        respond_read(engine, x)


cdef void client_event(Engine* engine, Conn* client) noexcept nogil:
    if client.state == CLIENT_IDLE or client.state == CLIENT_HEAD:
        client_read(engine, client, request_ready)
    elif client.state == CLIENT_EXCHANGE or client.state == CLIENT_TUNNEL:
        exchange_event(engine, client.exchange)
    elif client.state == CLIENT_LINGER:
        client_linger(engine, client)


cdef void server_event(Engine* engine, Conn* server) noexcept nogil:
    if server.state == SERVER_POOLED:
        pooled_event(engine, server)
    elif server.exchange != NULL:
        exchange_event(engine, server.exchange)


cdef inline uint8_t readiness(uint32_t events) noexcept nogil:
    cdef uint8_t ready = 0
    if events & EPOLLIN:
        ready |= READY_READ
    if events & EPOLLOUT:
        ready |= READY_WRITE
    if unlikely(events & (EPOLLRDHUP | EPOLLHUP)):
        ready |= READY_EOF | READY_READ
    if unlikely(events & EPOLLERR):
        ready |= READY_ERROR | READY_READ
    return ready


cdef inline void note(const epoll_event* event) noexcept nogil:
    """Keeps what an event says before any event of the batch is handled.

    Order: a pooled connection whose close or unasked-for bytes are later in the batch must be known as dead before a request
    earlier in the batch takes it.
    """
    cdef Source* source = <Source*>event.data.ptr
    if source.kind == SOURCE_CLIENT or source.kind == SOURCE_SERVER:
        (<Conn*>source).ready |= readiness(event.events)
        prefetch((<Conn*>source).exchange)  # of many connections most exchanges are cold; here the misses overlap


cdef void dispatch(Engine* engine, const epoll_event* event) noexcept nogil:
    cdef Source* source = <Source*>event.data.ptr
    cdef Conn* conn
    cdef uint64_t expirations
    if source.kind == SOURCE_SLOT:
        if source.fd >= 0:
            accept_ready(engine, <Slot*>source)
        return
    if unlikely(source.kind >= SOURCE_FOREIGN):
        if source.kind == SOURCE_HEIR:
            heir_event(engine, <Heir*>source)
        elif source.kind == SOURCE_TESTATOR:
            testator_event(engine, <Testator*>source)
        else:
            engine.summoned = True
        return
    if source.kind == SOURCE_TIMER:
        read(engine.timer_fd, &expirations, 8)
        engine.armed_tick = TIMER_IDLE
        return
    conn = <Conn*>source
    if conn.state == CONN_CLOSED:  # closed earlier in this batch
        return
    if conn.kind == SOURCE_CLIENT:
        client_event(engine, conn)
    else:
        server_event(engine, conn)


cdef void run_queue(Engine* engine) noexcept nogil:
    """Clients with work left: pipelined requests, long bodies. One pass: what they queue again runs after the next events."""
    cdef Conn* last = engine.run_last
    cdef Conn* conn
    while engine.run_first != NULL:
        conn = engine.run_first
        engine.run_first = conn.run_next
        if engine.run_first == NULL:
            engine.run_last = NULL
        conn.flags &= ~CONN_QUEUED
        if conn.state != CONN_CLOSED:
            client_event(engine, conn)
        if conn == last:
            return


# ---- deadlines -------------------------------------------------------------------------------------------------------------
cdef void client_late(Engine* engine, Conn* client) noexcept nogil:
    cdef Exchange* x = client.exchange
    if client.state == CLIENT_GIVEN:
        return  # the heir has its time; armed anew if it comes back
    if client.state == CLIENT_IDLE or client.state == CLIENT_LINGER:
        conn_close(engine, client, False)
    elif client.state == CLIENT_HEAD:
        exchange_fail(engine, x, 408, ERROR_REQUEST_TIMEOUT, b"the request head did not arrive in time")
    elif x.request.state != DIRECTION_DONE and output_empty(&x.response.out):
        exchange_fail(engine, x, 408, ERROR_CLIENT_SLOW, b"the request body did not arrive in time")
    else:
        x.error = ERROR_CLIENT_SLOW
        exchange_fail(engine, x, 408, ERROR_CLIENT_SLOW, b"the response was not read in time")


cdef void server_late(Engine* engine, Conn* server) noexcept nogil:
    cdef Exchange* x = server.exchange
    if server.state == SERVER_GIVEN:
        return
    if server.state == SERVER_POOLED:
        conn_close(engine, server, False)
    elif server.state == SERVER_CONNECTING:
        forward_lost(engine, x, 504, ERROR_CONNECT_TIMEOUT, b"the server did not accept the connection in time")
    elif x == NULL:
        conn_close(engine, server, False)
    elif x.client.state == CLIENT_TUNNEL:
        exchange_end(engine, x)
    elif x.response.state == DIRECTION_HEAD:
        exchange_fail(engine, x, 504, ERROR_RESPONSE_TIMEOUT, b"the server did not answer in time")
    else:
        exchange_fail(engine, x, 504, ERROR_RESPONSE_CUT, b"the server fell silent inside its response")


cdef void expired(void* context, Timer* timer) noexcept nogil:
    cdef Engine* engine = <Engine*>context
    cdef Conn* conn
    if timer.kind == TIMER_CONNECTION:
        conn = conn_of(timer)
        if conn.kind == SOURCE_CLIENT:
            client_late(engine, conn)
        else:
            server_late(engine, conn)
    elif timer.kind == TIMER_EXCHANGE:
        exchange_fail(engine, exchange_of(timer), 504, ERROR_EXCHANGE_TIMEOUT, b"the exchange took too long")
    elif timer.kind == TIMER_RESUME:
        accept_resume(engine)
    elif timer.kind == TIMER_BEQUEST:
        bequest_retry(engine)
    elif timer.kind == TIMER_DEADLINE:
        bequest_deadline(engine)


cdef inline bint work_left(const Engine* engine) noexcept nogil:
    """Whether there is something to do that no event will say."""
    return engine.run_first != NULL or (engine.offers_max and engine.handover.cursor != NULL)


cdef void engine_arm(Engine* engine) noexcept nogil:
    """The timer descriptor wakes the engine for the next occupied slot; re-armed only when that comes sooner."""
    cdef uint64_t next_ = wheel_next(&engine.wheel)
    cdef itimerspec at
    cdef uint64_t due_us
    if unlikely(work_left(engine)):
        next_ = 0  # work is left but uvloop wants its turn: wake at once
    if likely(next_ >= engine.armed_tick):
        return
    memset(&at, 0, sizeof(at))
    due_us = engine.start_us + next_ * TICK_MS * 1000
    at.it_value.tv_sec = <long>(due_us // 1000000)
    at.it_value.tv_nsec = <long>(due_us % 1000000) * 1000
    timerfd_settime(engine.timer_fd, TFD_TIMER_ABSTIME, &at, NULL)
    engine.armed_tick = next_


# ---- the turn --------------------------------------------------------------------------------------------------------------
cdef inline int next_wait(const Engine* engine, int count, uint64_t began_us, uint32_t patience_ms, bint busy) noexcept nogil:
    """How long the next epoll_wait of this turn may wait, ms; -1: leave to uvloop."""
    if patience_ms == 0:
        return 0
    if engine.summoned or engine.now_us - began_us >= TURN_US:
        return -1
    if work_left(engine) or count == EVENTS_MAX:
        return 0
    return <int>patience_ms if busy or engine.exchange_count > 0 else -1


cdef void engine_turn(Engine* engine, uint32_t patience_ms) noexcept nogil:
    """Handles events until none is ready (or comes within the patience), at most TURNS_MAX batches, then returns to uvloop."""
    cdef epoll_event events[EVENTS_MAX]
    cdef uint64_t began_us = 0
    cdef bint busy = False
    cdef int wait_ms = 0
    cdef int turn, count, i
    engine.summoned = False
    for turn in range(TURNS_MAX):
        count = epoll_wait(engine.epoll_fd, events, EVENTS_MAX, wait_ms)
        engine_clock(engine)
        if turn == 0:
            began_us = engine.now_us
            busy = began_us - engine.left_us < <uint64_t>patience_ms * 1000
        for i in range(count):
            note(&events[i])
        for i in range(count):
            dispatch(engine, &events[i])
        run_queue(engine)
        # Order: deadlines after events, so that what has arrived in time counts although the worker slept or was stopped.
        wheel_advance(&engine.wheel, engine.wheel.clock, expired, engine)
        if unlikely(shed_used(engine) >= engine.shed.begin):
            shed_idle(engine)
        if unlikely(engine.handover.busy):
            bequest_step(engine)
        graveyard_bury(engine)
        if count <= 0 and not work_left(engine):
            break
        wait_ms = next_wait(engine, count, began_us, patience_ms, busy)
        if wait_ms < 0:
            break
    engine.left_us = engine.now_us
    access_log_flush(engine)
    engine_arm(engine)
