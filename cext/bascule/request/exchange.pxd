"""The life of an exchange: begin, local reply, failure, end.

    exchange_begin -> stages 2..8 -> exchange_end
                         |-> exchange_reply  (an answer of our own: 4xx, 5xx)      -> exchange_end
                         |-> exchange_fail   (reply if nothing was sent yet, else cut) -> exchange_end
                         |-> exchange_gone   (the client went away: 499)           -> exchange_end

After exchange_reply, _fail, _gone or _end the exchange may be freed: callers return at once. The client's next request is not
parsed from inside: it is put on the run queue.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.engine.types cimport Conn, Engine, Exchange
from bascule.shared.snapshot cimport Snapshot


cdef Exchange* exchange_begin(Engine* engine, Conn* client) noexcept nogil    # NULL: out of memory
cdef void exchange_reply(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why,
                         const char* headers, uint32_t headers_length) noexcept nogil
cdef void exchange_fail(Engine* engine, Exchange* x, uint32_t status, uint8_t error, const char* why) noexcept nogil
cdef void exchange_gone(Engine* engine, Exchange* x) noexcept nogil
cdef void exchange_end(Engine* engine, Exchange* x) noexcept nogil
# Ends it without accounting it, because it goes on in another worker, or begins there; the client stays open. `release`: give the
# concurrency holdings back; else another worker has noted them.
cdef void exchange_withdraw(Engine* engine, Exchange* x, bint release) noexcept nogil
cdef bint exchange_end_if_done(Engine* engine, Exchange* x) noexcept nogil
cdef void server_release(Engine* engine, Exchange* x, bint reusable) noexcept nogil
cdef void forget_replay(Engine* engine, Exchange* x) noexcept nogil
cdef void snapshot_pin(Exchange* x, Snapshot* snapshot) noexcept nogil
cdef void snapshot_unpin(Engine* engine, Snapshot* snapshot) noexcept nogil
cdef bint client_leaves(Engine* engine, Conn* client) noexcept nogil  # the answer that is composed now says close
cdef void client_idle(Engine* engine, Conn* client) noexcept nogil
cdef void clients_hasten(Engine* engine) noexcept nogil
cdef void clients_relax(Engine* engine) noexcept nogil
cdef uint32_t drain_delay_ms(Engine* engine) noexcept nogil
