"""See shed.pxd. The wheel knows who has been idle longest: of connections with one timeout, who is due next."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.engine.connection cimport conn_close
from bascule.engine.memory cimport Buf
from bascule.engine.system cimport likely
from bascule.engine.timers cimport TIMER_CONNECTION, TIMER_IDLE, WHEEL_SLOTS, Timer, wheel_hang
from bascule.engine.types cimport (
    CLIENT_HEAD,
    CLIENT_IDLE,
    READY_READ,
    SERVER_POOLED,
    SOURCE_CLIENT,
    SOURCE_SERVER,
    Conn,
    Exchange,
)
from bascule.request.exchange cimport exchange_reply
from bascule.shared.statistics cimport (
    ERROR_OVERLOAD, EVENT_SHED_CLIENT, EVENT_SHED_REQUEST, EVENT_SHED_SERVER, statistics_event,
)


cdef enum:
    WALKS = 4                     # see shed_slot
    REST_TICKS = 16               # between two walks that found nobody
    GRACE_US = 1000000

cdef extern from *:
    """
    #define bascule_shed_conn(t) ((struct __pyx_t_7bascule_6engine_5types_Conn *)((char *)(t) - \\
        offsetof(struct __pyx_t_7bascule_6engine_5types_Conn, timer)))
    """
    Conn* conn_of "bascule_shed_conn"(Timer* timer) noexcept nogil


cdef uint64_t shed_used(const Engine* engine) noexcept nogil:
    return ((<uint64_t>engine.client_count + engine.server_count) * CONNECTION_BYTES + engine.exchanges.live * sizeof(Exchange)
            + engine.bufs.live * sizeof(Buf))


cdef void shed_budget(Engine* engine, uint64_t bytes) noexcept nogil:
    engine.bufs.live_max = bytes // sizeof(Buf)
    engine.shed.begin = bytes // 4 * 3
    engine.shed.refuse = bytes // 8 * 7


cdef bint shed_refuses(Engine* engine) noexcept nogil:
    if likely(shed_used(engine) < engine.shed.refuse):
        return False
    statistics_event(&engine.statistics, EVENT_SHED_REQUEST, 1)
    return True


cdef inline bint is_idle(const Engine* engine, const Conn* conn) noexcept nogil:
    """Nothing under way, and nothing known to have arrived that would begin it; a new client has a moment for its request."""
    if conn.state == CLIENT_IDLE and conn.served == 0 and engine.now_us - conn.since_us < GRACE_US:
        return False
    return (conn.state == CLIENT_IDLE or conn.state == SERVER_POOLED) and not conn.ready & READY_READ


cdef void shed_head(Engine* engine, Conn* client) noexcept nogil:
    statistics_event(&engine.statistics, EVENT_SHED_REQUEST, 1)
    exchange_reply(engine, client.exchange, 503, ERROR_OVERLOAD, b"out of memory for further requests", b"Retry-After: 1\r\n", 16)


cdef uint32_t shed_slot(Engine* engine, uint64_t tick, uint32_t walk) noexcept nogil:
    """Closes the idle connections of a slot as long as memory is short; returns how many timers it looked at.

    The first walk takes clients due at just this tick, the second those of later rounds too, the third servers, the fourth heads that
    have not come whole: each holds a buffer for as little as a byte (slowloris).
    """
    cdef Timer* head = &engine.wheel.heads[tick & (WHEEL_SLOTS - 1)]
    cdef Timer* timer = head.next
    cdef Timer* last = head.previous
    cdef Timer* next_
    cdef Conn* conn
    cdef uint32_t visited = 1
    while timer != head and shed_used(engine) >= engine.shed.begin:
        next_ = timer.next if timer != last else head  # what is hung anew joins behind the last one
        visited += 1
        if timer.hung < timer.deadline and timer.deadline != TIMER_IDLE:
            wheel_hang(&engine.wheel, timer)  # used since it was hung: its turn comes later
        elif timer.kind == TIMER_CONNECTION and timer.deadline != TIMER_IDLE:
            conn = conn_of(timer)
            if walk == 3:
                if conn.state == CLIENT_HEAD:
                    shed_head(engine, conn)
            elif is_idle(engine, conn) and (conn.kind == SOURCE_SERVER) == (walk == 2) and (walk > 0 or timer.hung == tick):
                statistics_event(&engine.statistics, EVENT_SHED_SERVER if walk == 2 else EVENT_SHED_CLIENT, 1)
                conn_close(engine, conn, False)
        timer = next_
    return visited


cdef void shed_idle(Engine* engine) noexcept nogil:
    """Spread over as many turns as it takes."""
    cdef uint32_t visited = 0
    if engine.wheel.clock < engine.shed.rest_tick:
        return
    while visited < SHED_VISITS and shed_used(engine) >= engine.shed.begin:
        if engine.shed.walked >= WALKS * WHEEL_SLOTS:
            engine.shed.walked = 0
            engine.shed.rest_tick = engine.wheel.clock + REST_TICKS
            return
        visited += shed_slot(
            engine, engine.wheel.now + 1 + (engine.shed.walked & (WHEEL_SLOTS - 1)), engine.shed.walked // WHEEL_SLOTS)
        engine.shed.walked += 1
    if shed_used(engine) < engine.shed.begin:
        engine.shed.walked = 0


cdef Conn* longest_idle(Engine* engine, uint64_t tick, uint8_t kind) noexcept nogil:
    """The first idle connection of a slot of the wheel that is due at its time, NULL if it has none."""
    cdef Timer* head = &engine.wheel.heads[tick & (WHEEL_SLOTS - 1)]
    cdef Timer* timer = head.next
    cdef Timer* last = head.previous
    cdef Timer* next_
    cdef Conn* conn
    while timer != head:
        next_ = timer.next if timer != last else head
        if timer.hung < timer.deadline and timer.deadline != TIMER_IDLE:
            wheel_hang(&engine.wheel, timer)  # as in shed_slot
        elif timer.kind == TIMER_CONNECTION and timer.deadline != TIMER_IDLE:
            conn = conn_of(timer)
            if conn.kind == kind and is_idle(engine, conn):
                return conn
        timer = next_
    return NULL


cdef bint shed_descriptor(Engine* engine) noexcept nogil:
    cdef uint8_t kind = SOURCE_CLIENT
    cdef uint64_t i
    cdef Conn* conn
    for i in range(2 * WHEEL_SLOTS):
        if i == WHEEL_SLOTS:
            kind = SOURCE_SERVER
        conn = longest_idle(engine, engine.wheel.now + 1 + i, kind)
        if conn != NULL:
            statistics_event(&engine.statistics, EVENT_SHED_CLIENT if kind == SOURCE_CLIENT else EVENT_SHED_SERVER, 1)
            conn_close(engine, conn, False)
            return True
    return False
