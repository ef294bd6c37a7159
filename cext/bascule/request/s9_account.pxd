"""Stage 9, account: counters, histograms, the access log. Always runs, last.

May do: write the worker's own statistics segment and log buffer. May fail with: nothing (a full log is counted as lost lines).
"""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Engine, Exchange
from bascule.shared.snapshot cimport ServerRecord


cdef void account_begin(Engine* engine, Exchange* x) noexcept nogil
cdef void account_route(Engine* engine, Exchange* x) noexcept nogil
cdef void account_server(Engine* engine, Exchange* x, const ServerRecord* server) noexcept nogil
cdef void account_retry(Engine* engine, Exchange* x) noexcept nogil
cdef void account_end(Engine* engine, Exchange* x) noexcept nogil
cdef void account_withdraw(Engine* engine, Exchange* x) noexcept nogil    # no longer in flight here, and not counted as ended
cdef void log_request_line(Exchange* x, const char* data, uint32_t length) noexcept nogil
cdef void access_log_flush(Engine* engine) noexcept nogil
