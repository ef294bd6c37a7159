"""The giver's side of handing connections over (handover.pxd): which, when, to whom, and what comes back.

    a walk over the clients, or an exchange that ended
        -> offer             CLIENT_GIVEN, in Handover.offered
        -> end of the turn   one parcel: sent, out of the epoll set, kept in Heir.parcels
        -> the answer        TAKEN: closed here, it lives on there. REFUSED: it is this worker's again, and closed politely when that rests
           no answer         the heir died: all of the parcel is this worker's again, and is offered to the next heir

One parcel a turn, so that handing ten thousand connections over delays a live exchange by that of a hundred. While the kernel or
the heirs take no more, connections are served on as before. With the last heir gone, a worker that winds down drains.
"""

from libc.stdint cimport uint32_t, uint64_t

from bascule.engine.connection cimport conn_set_state
from bascule.engine.types cimport CLIENT_GIVEN, Conn, Engine, Heir


cdef int bequest_open(Engine* engine, int fd) noexcept nogil        # a further heir; 0, or -1 with errno and fd untouched
cdef void bequest_step(Engine* engine) noexcept nogil               # at the end of a turn while Handover.busy
cdef void heir_event(Engine* engine, Heir* heir) noexcept nogil
cdef void bequest_retry(Engine* engine) noexcept nogil              # TIMER_BEQUEST
cdef void bequest_deadline(Engine* engine) noexcept nogil           # TIMER_DEADLINE
cdef void wind_down(Engine* engine, uint64_t deadline_ms) noexcept nogil   # resting or leaving was set: give, or drain
cdef void wind_up(Engine* engine) noexcept nogil                    # serve again; heirs leave when they have answered
cdef void bequest_close(Engine* engine) noexcept nogil              # the engine ends: what is on its way goes on in the heirs


cdef inline void offer(Engine* engine, Conn* client) noexcept nogil:
    """Keeps a client for the next parcel. It must be idle or a tunnel, and there must be room: offered < offers_max."""
    conn_set_state(engine, client, CLIENT_GIVEN)
    engine.handover.offered[engine.offered] = client
    engine.offered += 1
