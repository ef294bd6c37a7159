"""See bequest.pxd. What a parcel looks like on the wire is written by parcel.pyx."""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, errno
from libc.stdlib cimport calloc, free

from bascule.engine.connection cimport conn_close, conn_register, conn_timeout, conn_unregister, run_later
from bascule.engine.handover cimport (
    HANDOVER_VERSION,
    PACKET_ANSWER,
    PARCEL_BYTES_MAX,
    PARCEL_MAX,
    PARCELS_MAX,
    RESULT_REFUSED,
    RESULT_TAKEN,
    Answer,
    AnswerPacket,
    Preamble,
)
from bascule.engine.parcel cimport SEND_BROKEN, SEND_FULL, SEND_LATER, SEND_SENT, parcel_send, pending_bytes
from bascule.engine.system cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    MSG_DONTWAIT,
    close,
    debug_assert,
    epoll_ctl,
    epoll_event,
    memcmp,
    recv,
)
from bascule.engine.timers cimport TIMER_IDLE, timer_cancel, timer_hasten, timer_set
from bascule.engine.types cimport (
    CLIENT_EXCHANGE,
    CLIENT_HEAD,
    CLIENT_IDLE,
    CLIENT_LINGER,
    CLIENT_TUNNEL,
    CONN_CLOSE_AFTER,
    CONN_SHARED,
    HEIR_GONE,
    HEIR_LEAVING,
    HEIR_OPEN,
    SERVER_GIVEN,
    SERVER_TUNNEL,
    SOURCE_HEIR,
    X_LOCAL,
    Exchange,
    Handover,
    Parcel,
)
from bascule.request.exchange cimport (
    clients_hasten,
    clients_relax,
    drain_delay_ms,
    exchange_end,
    exchange_fail,
    exchange_gone,
    exchange_withdraw,
)
from bascule.shared.statistics cimport ERROR_EXCHANGE_TIMEOUT

cdef enum:
    VISITS_MAX = 1024             # clients looked at in one turn's walk
    RETRY_MS = 20                 # after SEND_LATER, whose end no event tells
    CUT_AGAIN_MS = 250            # after the deadline: for answers that are still not read


# ---- heirs -------------------------------------------------------------------------------------------------------------
cdef int heir_poll(Engine* engine, Heir* heir, int operation) noexcept nogil:
    # Level-triggered: answers are rare, and what one turn leaves must be reported again.
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLRDHUP
    if heir.full:
        event.events |= EPOLLOUT
    event.data.ptr = heir
    return epoll_ctl(engine.epoll_fd, operation, heir.fd, &event)


cdef int bequest_open(Engine* engine, int fd) noexcept nogil:
    cdef Handover* h = &engine.handover
    cdef Heir* heir = <Heir*>calloc(1, sizeof(Heir))
    if heir == NULL:
        return -1
    heir.fd = fd
    heir.kind = SOURCE_HEIR
    heir.state = HEIR_OPEN
    if heir_poll(engine, heir, EPOLL_CTL_ADD) != 0:
        free(heir)
        return -1
    heir.next = h.heirs
    h.heirs = heir
    h.starved = True
    refresh(engine)
    return 0


cdef inline bint has_room(const Heir* heir) noexcept nogil:
    return heir.state == HEIR_OPEN and not heir.full and heir.underway < PARCELS_MAX


cdef Heir* next_heir(Engine* engine) noexcept nogil:
    """The next in turn that can take a parcel now; NULL when there is none."""
    cdef Handover* h = &engine.handover
    cdef Heir* heir = h.last.next if h.last != NULL else NULL
    cdef Heir* found = NULL
    while heir != NULL and found == NULL:
        if has_room(heir):
            found = heir
        heir = heir.next
    heir = h.heirs
    while heir != NULL and found == NULL:
        if has_room(heir):
            found = heir
        heir = heir.next
    return found


cdef void refresh(Engine* engine) noexcept nogil:
    """What follows from the heirs there are: whether connections are offered, and whether a worker that winds down must drain."""
    cdef Handover* h = &engine.handover
    cdef Heir* heir = h.heirs
    cdef bint giving = False
    cdef bint room = False
    cdef bint gone = False
    cdef bint draining
    while heir != NULL:
        giving = giving or heir.state == HEIR_OPEN
        room = room or has_room(heir)
        gone = gone or heir.state == HEIR_GONE
        heir = heir.next
    giving = giving and not h.ended
    engine.offers_max = PARCEL_MAX if giving and room else 0
    if giving and not room:
        h.starved = True
    elif giving and h.starved and h.cursor == NULL:
        h.starved = False
        h.cursor = engine.clients
    if not giving:
        h.cursor = NULL
    h.busy = giving or gone or engine.offered > 0
    draining = engine.winding_down and not giving
    if draining != engine.draining:
        engine.draining = draining
        if draining:
            clients_hasten(engine)
        else:
            clients_relax(engine)


cdef void heir_drop(Engine* engine, Heir* heir) noexcept nogil:
    """Closes an heir; what it has not answered is ours again."""
    cdef Handover* h = &engine.handover
    cdef Parcel* parcel
    if heir.state == HEIR_GONE:
        return
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, heir.fd, NULL)
    close(heir.fd)
    heir.fd = -1
    heir.state = HEIR_GONE
    while heir.underway:
        parcel = &heir.parcels[heir.first]
        heir.first = (heir.first + 1) % PARCELS_MAX
        heir.underway -= 1
        h.taken_back += 1
        take_back(engine, parcel)
    h.starved = True
    refresh(engine)


cdef void heirs_bury(Engine* engine) noexcept nogil:
    cdef Handover* h = &engine.handover
    cdef Heir** at = &h.heirs
    cdef Heir* heir
    while at[0] != NULL:
        heir = at[0]
        if heir.state == HEIR_GONE:
            at[0] = heir.next
            if h.last == heir:
                h.last = NULL
            free(heir)
        else:
            at = &heir.next


# ---- what an heir answers ----------------------------------------------------------------------------------------------
cdef void came_back(Engine* engine, Conn* client) noexcept nogil:
    """An unanswered or refused connection is served here again; readiness is reported anew."""
    cdef Exchange* x = client.exchange
    cdef bint lost = conn_register(engine, client) != 0
    client.flags |= CONN_SHARED
    client.ready = 0
    if x != NULL:
        x.server.flags |= CONN_SHARED
        x.server.ready = 0
        lost = conn_register(engine, x.server) != 0 or lost
    reinstate(engine, client)
    if lost:
        if x != NULL:
            exchange_end(engine, x)
        else:
            conn_close(engine, client, False)


cdef void reinstate(Engine* engine, Conn* client) noexcept nogil:
    """Out of CLIENT_GIVEN; what happened meanwhile is looked at in this turn."""
    cdef Exchange* x = client.exchange
    if x != NULL:
        conn_set_state(engine, client, CLIENT_TUNNEL)
        if x.server.state == SERVER_GIVEN:
            conn_set_state(engine, x.server, SERVER_TUNNEL)
        if x.server.timer.deadline == TIMER_IDLE:
            conn_timeout(engine, x.server, x.tunnel_timeout_ms)
    else:
        conn_set_state(engine, client, CLIENT_IDLE)
        if client.timer.deadline == TIMER_IDLE:
            conn_timeout(engine, client, client.listener.record.keepalive_timeout_ms)
    run_later(engine, client)


cdef void take_back(Engine* engine, Parcel* parcel) noexcept nogil:
    cdef uint32_t i
    for i in range(parcel.count):
        came_back(engine, parcel.conns[i])


cdef void moved(Engine* engine, Conn* client, bint holdings_taken) noexcept nogil:
    """The heir has it: our descriptors go, the connection does not notice."""
    cdef Handover* h = &engine.handover
    if client.exchange != NULL:
        h.tunnels_given += 1
        exchange_withdraw(engine, client.exchange, not holdings_taken)
    else:
        h.idle_given += 1
    conn_close(engine, client, False)
    h.closed -= engine.draining


cdef void kept(Engine* engine, Conn* client) noexcept nogil:
    """The heir did not take this one: a worker that winds down closes it politely."""
    engine.handover.refused += 1
    came_back(engine, client)
    if engine.winding_down and client.state == CLIENT_IDLE:
        client.flags |= CONN_CLOSE_AFTER
        timer_hasten(&engine.wheel, &client.timer, drain_delay_ms(engine))
    elif engine.winding_down:
        client.flags |= CONN_CLOSE_AFTER


cdef bint settle(Engine* engine, Heir* heir, const Preamble* preamble, const Answer* answer) noexcept nogil:
    """Applies an answer; False when it is none to the oldest parcel on its way."""
    cdef Parcel* parcel = &heir.parcels[heir.first]
    cdef uint32_t i
    if heir.underway == 0 or preamble.sequence != parcel.sequence or answer.count != parcel.count:
        return False
    for i in range(parcel.count):
        if answer.results[i] != RESULT_TAKEN and answer.results[i] != RESULT_REFUSED:
            return False
    heir.first = (heir.first + 1) % PARCELS_MAX
    heir.underway -= 1
    for i in range(parcel.count):
        if answer.results[i] == RESULT_TAKEN:
            moved(engine, parcel.conns[i], answer.holdings_taken)
        else:
            kept(engine, parcel.conns[i])
    return True


cdef bint heir_packet(Engine* engine, Heir* heir, const char* packet, ssize_t length) noexcept nogil:
    """False: it refuses, or makes no sense; then it is no heir any more."""
    cdef const Preamble* preamble = <const Preamble*>packet
    if length != sizeof(AnswerPacket):
        return False
    if memcmp(preamble.magic, b"BSCH", 4) != 0 or preamble.version != HANDOVER_VERSION or preamble.kind != PACKET_ANSWER:
        return False
    return settle(engine, heir, preamble, &(<const AnswerPacket*>packet).answer)


cdef void heir_event(Engine* engine, Heir* heir) noexcept nogil:
    cdef uint64_t aligned[64]
    cdef ssize_t got
    cdef bint reset = False
    if heir.state == HEIR_GONE:
        return
    if heir.full:
        heir.full = False
        heir_poll(engine, heir, EPOLL_CTL_MOD)
    while True:
        got = recv(heir.fd, aligned, sizeof(aligned), MSG_DONTWAIT)
        if got > 0:
            if not heir_packet(engine, heir, <const char*>aligned, got):
                heir_drop(engine, heir)
                return
            continue
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            break
        if got < 0 and errno == ECONNRESET and not reset:
            reset = True  # the kernel says so once, and then hands out what the heir answered before it died
            continue
        heir_drop(engine, heir)
        return
    if heir.state == HEIR_LEAVING and heir.underway == 0:
        heir_drop(engine, heir)
        return
    refresh(engine)


# ---- parcels -----------------------------------------------------------------------------------------------------------
cdef void walk(Engine* engine) noexcept nogil:
    """Offers connections that are at rest, until a parcel is full or the turn has had its share."""
    cdef Handover* h = &engine.handover
    cdef uint32_t visits = 0
    cdef uint64_t bytes_ = 0
    cdef Conn* client
    while h.cursor != NULL and engine.offered < engine.offers_max and visits < VISITS_MAX and bytes_ < PARCEL_BYTES_MAX:
        client = h.cursor
        h.cursor = client.next
        visits += 1
        if client.flags & CONN_CLOSE_AFTER:
            continue
        if client.state == CLIENT_HEAD:
            # All its bytes are still in the input: the heir reads the head from its beginning.
            exchange_withdraw(engine, client.exchange, True)
            conn_set_state(engine, client, CLIENT_IDLE)
        if client.state == CLIENT_IDLE or client.state == CLIENT_TUNNEL:
            bytes_ += pending_bytes(client)
            offer(engine, client)


cdef void post(Engine* engine) noexcept nogil:
    """Sends what was offered, or serves it on."""
    cdef Handover* h = &engine.handover
    cdef Heir* heir = next_heir(engine)
    cdef Parcel* parcel
    cdef uint32_t i
    cdef int result = SEND_LATER
    if engine.offered == PARCEL_MAX:
        h.starved = True  # more exchanges may have ended in this turn than there was room for
    if heir != NULL and engine.offers_max:
        result = parcel_send(engine, heir.fd, h.sequence, h.offered, engine.offered)
    if result != SEND_SENT:
        for i in range(engine.offered):
            reinstate(engine, h.offered[i])
        engine.offered = 0
        if heir != NULL:
            not_sent(engine, heir, result)
        return
    parcel = &heir.parcels[(heir.first + heir.underway) % PARCELS_MAX]
    heir.underway += 1
    h.last = heir
    parcel.sequence = h.sequence
    parcel.count = engine.offered
    h.sequence += 1
    for i in range(engine.offered):
        parcel.conns[i] = h.offered[i]
        conn_unregister(engine, h.offered[i])
        if h.offered[i].exchange != NULL:
            conn_unregister(engine, h.offered[i].exchange.server)
            conn_set_state(engine, h.offered[i].exchange.server, SERVER_GIVEN)
    engine.offered = 0


cdef void not_sent(Engine* engine, Heir* heir, int why) noexcept nogil:
    engine.handover.starved = True
    if why == SEND_BROKEN:
        # Its last answers may wait to be read: they come first, then its end.
        if heir.underway:
            heir.state = HEIR_LEAVING
        else:
            heir_drop(engine, heir)
        return
    heir.full = True
    if why == SEND_FULL:
        heir_poll(engine, heir, EPOLL_CTL_MOD)
    else:
        timer_set(&engine.wheel, &engine.handover.retry, RETRY_MS)


cdef void bequest_retry(Engine* engine) noexcept nogil:
    cdef Heir* heir = engine.handover.heirs
    while heir != NULL:
        if heir.state == HEIR_OPEN and heir.full:
            heir.full = False
            heir_poll(engine, heir, EPOLL_CTL_MOD)
        heir = heir.next
    refresh(engine)


cdef void bequest_step(Engine* engine) noexcept nogil:
    heirs_bury(engine)
    if engine.offers_max:
        walk(engine)
    if engine.offered:
        post(engine)
    refresh(engine)


# ---- resting, draining, deadline ---------------------------------------------------------------------------------------
cdef void wind_down(Engine* engine, uint64_t deadline_ms) noexcept nogil:
    cdef Handover* h = &engine.handover
    engine.winding_down = True
    engine.drain_deadline_us = engine.now_us + deadline_ms * 1000
    h.ended = False
    h.starved = True
    timer_set(&engine.wheel, &h.deadline, <uint32_t>min(deadline_ms, <uint64_t>0x7FFFFFFF) + 1)
    if engine.draining:
        clients_hasten(engine)
    refresh(engine)


cdef void wind_up(Engine* engine) noexcept nogil:
    cdef Handover* h = &engine.handover
    cdef Heir* heir = h.heirs
    cdef Heir* next_
    engine.winding_down = False
    h.ended = False
    timer_cancel(&engine.wheel, &h.deadline)
    while heir != NULL:
        next_ = heir.next
        if heir.state == HEIR_OPEN:
            heir.state = HEIR_LEAVING
            if heir.underway == 0:
                heir_drop(engine, heir)
        heir = next_
    clients_relax(engine)
    refresh(engine)


cdef void cut(Engine* engine, Conn* client) noexcept nogil:
    """What the deadline does to one client; an answer can still be said when none was begun."""
    cdef Exchange* x = client.exchange
    cdef bint second = client.state == CLIENT_EXCHANGE and x.flags & X_LOCAL
    if client.state == CLIENT_LINGER:  # it has its answer
        conn_close(engine, client, False)
        return
    if not second:
        engine.handover.cut += 1
        engine.handover.closed -= 1  # every close of a draining engine counts there
    if client.state == CLIENT_TUNNEL:
        exchange_end(engine, x)
    elif second:
        exchange_gone(engine, x)
    elif client.state == CLIENT_EXCHANGE:
        exchange_fail(engine, x, 504, ERROR_EXCHANGE_TIMEOUT, b"the exchange was not over when its worker had to end")
    else:
        if client.state == CLIENT_HEAD:
            exchange_withdraw(engine, x, True)
        conn_close(engine, client, False)


cdef void bequest_deadline(Engine* engine) noexcept nogil:
    """Cuts what is left. What is on its way to an heir is not: its answer, or the heir's death, comes first."""
    cdef Conn* client = engine.clients
    cdef Conn* next_
    engine.handover.ended = True
    refresh(engine)
    while client != NULL:
        next_ = client.next
        if client.state != CLIENT_GIVEN:
            cut(engine, client)
        client = next_
    if engine.client_count:
        timer_set(&engine.wheel, &engine.handover.deadline, CUT_AGAIN_MS)


cdef void bequest_close(Engine* engine) noexcept nogil:
    cdef Handover* h = &engine.handover
    cdef Conn* client = engine.clients
    cdef Conn* next_
    while client != NULL:
        next_ = client.next
        if client.state == CLIENT_GIVEN:
            if client.exchange != NULL:
                exchange_withdraw(engine, client.exchange, True)
            conn_close(engine, client, False)
        client = next_
    while h.heirs != NULL:
        debug_assert(engine.offered == 0)
        h.heirs.underway = 0
        heir_drop(engine, h.heirs)
        heirs_bury(engine)
    timer_cancel(&engine.wheel, &h.retry)
    timer_cancel(&engine.wheel, &h.deadline)
