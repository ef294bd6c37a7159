"""Connections and their bytes: open, close, read, write, queue. Knows nothing of HTTP."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.engine.memory cimport Buf
from bascule.engine.system cimport iovec
from bascule.engine.types cimport CONN_QUEUED, Conn, Engine, Output


cdef enum IoResult:
    IO_DONE = 0                   # everything asked for
    IO_PENDING = 1                # write: the rest waits in Output; read: nothing more now
    IO_CLOSED = -1                # the peer is gone
    IO_NO_MEMORY = -2             # out of buffers

cdef Conn* conn_open(Engine* engine, int fd, uint8_t kind, uint8_t state) noexcept nogil  # NULL: out of memory; fd untouched
cdef int conn_register(Engine* engine, Conn* conn) noexcept nogil  # in the epoll set, which reports all readiness anew; 0, or -1
cdef void conn_unregister(Engine* engine, Conn* conn) noexcept nogil
cdef void conn_close(Engine* engine, Conn* conn, bint reset) noexcept nogil
cdef void conn_set_state(Engine* engine, Conn* conn, uint8_t state) noexcept nogil
cdef void graveyard_bury(Engine* engine) noexcept nogil
cdef void conn_timeout(Engine* engine, Conn* conn, uint32_t delay_ms) noexcept nogil

cdef int conn_read(Engine* engine, Conn* conn, char* to, uint32_t size) noexcept nogil  # > 0, or READ_*
cdef int conn_emit(Engine* engine, Conn* conn, Output* output, iovec* parts, uint32_t count, bint last) noexcept nogil
cdef int output_flush(Engine* engine, Conn* conn, Output* output) noexcept nogil
cdef int output_append(Engine* engine, Output* output, const char* data, uint64_t length) noexcept nogil
cdef void output_free(Engine* engine, Output* output) noexcept nogil
cdef Buf* buf_get(Engine* engine) noexcept nogil
cdef void buf_free(Engine* engine, Buf** buf) noexcept nogil

cdef enum:
    READ_END = 0
    READ_AGAIN = -1
    READ_GONE = -2


cdef inline void run_later(Engine* engine, Conn* conn) noexcept nogil:
    """Puts a client on the run queue: its handler runs again in this turn."""
    if conn.flags & CONN_QUEUED:
        return
    conn.flags |= CONN_QUEUED
    conn.run_next = NULL
    if engine.run_last == NULL:
        engine.run_first = conn
    else:
        engine.run_last.run_next = conn
    engine.run_last = conn
