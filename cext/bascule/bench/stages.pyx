"""Single stages of a request, each repeated in a loop without the GIL. Docstrings: src/bascule/bench/stages.pyi.

Measures the engine's own functions on the engine's own structs, without sockets: the connections here have no descriptor, so
nothing that reads or writes may be called. Owner of everything: the Stages object, one thread.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from bascule.codec.head cimport HEAD_COMPLETE, Semantics, head_begin, head_feed, head_semantics, heads_bind
from bascule.codec.llhttp cimport llhttp_bind
from bascule.engine.connection cimport buf_free
from bascule.engine.listeners cimport listeners_adopt, listeners_destroy
from bascule.engine.memory cimport BUF_BYTES, BUF_RESERVE, Buf, slab_destroy, slab_get, slab_init, slab_put
from bascule.engine.system cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, memcpy, memset, mmap, munmap
from bascule.engine.timers cimport (
    TIMER_CONNECTION,
    Timer,
    timer_cancel,
    timer_init,
    timer_set,
    wheel_advance,
    wheel_init,
)
from bascule.engine.types cimport (
    CLIENT_EXCHANGE,
    DIRECTION_DONE,
    RUNTIME_PAGES,
    SCRATCH_BYTES,
    X_KEEP_CLIENT,
    Conn,
    Engine,
    Exchange,
    ServerRuntime,
)
from bascule.request.exchange cimport exchange_begin
from bascule.request.rewrite cimport request_compose
from bascule.request.s2_parse cimport RequestView, check_request, take_body
from bascule.request.s3_route cimport route
from bascule.request.s4_limit cimport LimitKeys, limit, limit_begin
from bascule.request.s5_balance cimport balance_pick
from bascule.request.s7_respond cimport compose as response_compose, decide_framing
from bascule.request.s9_account cimport account_begin, account_end, account_route, account_server
from bascule.routing.table cimport RouteTable, route_table_close, route_table_open
from bascule.shared.limits cimport limits_open
from bascule.shared.snapshot cimport ServerRecord, Snapshot, snapshot_open
from bascule.shared.statistics cimport statistics_open

import os

cdef extern from *:
    """
    /* Without it the compiler keeps one of many equal stores, and the loop measures nothing. */
    #define bascule_barrier() __asm__ volatile("" ::: "memory")
    """
    void barrier "bascule_barrier"() noexcept nogil

cdef enum:
    COMPOSE_BYTES = BUF_BYTES + 8192


cdef void* map_whole(int fd, uint64_t* size) except NULL:
    cdef void* mapped
    size[0] = os.fstat(fd).st_size
    mapped = mmap(NULL, size[0], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if mapped == MAP_FAILED:
        raise OSError("cannot map a region")
    return mapped


cdef void never(void* context, Timer* timer) noexcept nogil:
    (<uint64_t*>context)[0] += 1


cdef class Stages:
    cdef Engine* engine
    cdef Snapshot snapshot
    cdef Conn client
    cdef Exchange* x
    cdef RequestView view
    cdef bytes request
    cdef bytes response
    cdef bytes image
    cdef void* statistics
    cdef uint64_t statistics_size
    cdef void* limits
    cdef uint64_t limits_size
    cdef uint32_t limited_client

    def __init__(self, *, bytes request, bytes response, bytes image, int statistics_fd, int limits_fd):
        cdef const char* base = image
        cdef Engine* engine = <Engine*>calloc(1, sizeof(Engine))
        if engine == NULL or self.engine != NULL:
            raise MemoryError
        self.engine = engine
        self.request = request
        self.response = response
        self.image = image
        llhttp_bind()
        heads_bind()
        slab_init(&engine.conns, sizeof(Conn), 256, 0)
        slab_init(&engine.exchanges, sizeof(Exchange), 32, 0)
        slab_init(&engine.bufs, sizeof(Buf), 16, 0)
        wheel_init(&engine.wheel)
        engine.epoll_fd = engine.timer_fd = -1
        engine.runtimes = <ServerRuntime**>calloc(RUNTIME_PAGES, sizeof(ServerRuntime*))
        engine.scratch = <char*>calloc(1, BUF_RESERVE + SCRATCH_BYTES + BUF_RESERVE)
        engine.compose = <char*>calloc(1, COMPOSE_BYTES)
        engine.random_state[0] = 1
        engine.random_state[1] = 2
        engine.now_us = 1000000
        self.statistics = map_whole(statistics_fd, &self.statistics_size)
        self.limits = map_whole(limits_fd, &self.limits_size)
        if statistics_open(&engine.statistics, <uint8_t*>self.statistics, self.statistics_size, 0) != 0:
            raise ValueError("not a statistics region")
        if limits_open(&engine.limits, <uint8_t*>self.limits, self.limits_size, 0) != 0:
            raise ValueError("not a limits region")
        engine.limits_on = True
        if snapshot_open(&self.snapshot, <const uint8_t*>base, len(image)) != 0:
            raise ValueError("not a snapshot image")
        self.snapshot.routes = route_table_open(<const uint8_t*>base, len(image), self.snapshot.frontend_count)
        self.snapshot.references = 1
        engine.snapshot = &self.snapshot
        listeners_adopt(engine, &self.snapshot)
        self.begin()

    cdef begin(self):
        """A client in an exchange whose request is parsed, checked and routed: the state the later stages start from."""
        cdef const char* data = self.request
        memset(&self.client, 0, sizeof(Conn))
        self.client.fd = -1
        self.client.state = CLIENT_EXCHANGE
        self.client.listener = self.engine.listeners
        self.client.address[10] = self.client.address[11] = 0xFF
        self.client.address[12] = 127
        self.client.address[15] = 1
        timer_init(&self.client.timer, TIMER_CONNECTION)
        self.client.input = <Buf*>slab_get(&self.engine.bufs)
        self.client.input.start = 0
        self.client.input.end = <uint32_t>len(self.request)
        memcpy(self.client.input.data, data, len(self.request))
        self.x = exchange_begin(self.engine, &self.client)
        if not self.parse_once():
            raise ValueError("the request is not one this proxy forwards")
        take_body(self.x, &self.view)
        if not route(self.engine, self.x, &self.view) or balance_pick(self.engine, self.x, NULL) == NULL:
            raise ValueError("the request has no route to a server that is up")
        account_server(self.engine, self.x, balance_pick(self.engine, self.x, NULL))

    cdef bint parse_once(self) noexcept nogil:
        cdef Exchange* x = self.x
        cdef Buf* input = self.client.input
        head_begin(&x.request, &x.head, False)
        if head_feed(&x.request, &x.head, input.data, 0, input.end) != HEAD_COMPLETE:
            return False
        memset(&self.view, 0, sizeof(RequestView) - 256)
        return check_request(self.engine, x, &self.view)

    def parse(self, uint32_t calls):
        cdef uint32_t _i
        cdef bint ok = True
        with nogil:
            for _i in range(calls):
                ok = self.parse_once() and ok
        return bool(ok)

    def route(self, uint32_t calls):
        cdef uint32_t _i
        cdef bint ok = True
        with nogil:
            for _i in range(calls):
                ok = route(self.engine, self.x, &self.view) and ok
                self.snapshot.references -= 1
        return bool(ok)

    def limit(self, uint32_t calls):
        cdef uint32_t _i
        cdef bint ok = True
        cdef LimitKeys keys
        with nogil:
            for _i in range(calls):
                self.engine.now_us += 1000  # so that the bucket refills: the way of a request that is admitted
                limit_begin(self.engine, self.x, &self.view, &keys)
                ok = limit(self.engine, self.x, &keys) and ok
        return bool(ok)

    def limit_around(self, uint32_t calls, uint32_t clients, bint begun_before, uint32_t step_us):
        cdef uint32_t _i
        cdef uint32_t client = self.limited_client
        cdef uint32_t admitted = 0
        cdef LimitKeys keys
        with nogil:
            for _i in range(calls):
                self.engine.now_us += step_us
                client = client + 1 if client + 1 < clients else 0
                memcpy(self.x.client_ip + 12, &client, 4)
                if begun_before:
                    limit_begin(self.engine, self.x, &self.view, &keys)
                request_compose(self.engine, self.x, &self.view)
                if clients:
                    if not begun_before:
                        limit_begin(self.engine, self.x, &self.view, &keys)
                    admitted += limit(self.engine, self.x, &keys)
                buf_free(self.engine, &self.x.request_head)
        self.limited_client = client
        return admitted

    def balance(self, uint32_t calls):
        cdef uint32_t _i
        cdef const ServerRecord* picked = NULL
        with nogil:
            for _i in range(calls):
                picked = balance_pick(self.engine, self.x, NULL)
        return picked != NULL

    def compose(self, uint32_t calls):
        cdef uint32_t _i
        cdef uint32_t length = 0
        with nogil:
            for _i in range(calls):
                request_compose(self.engine, self.x, &self.view)
                length = self.x.request_head.end
                buf_free(self.engine, &self.x.request_head)
        return length

    def respond(self, uint32_t calls):
        cdef const char* data = self.response
        cdef uint32_t length = <uint32_t>len(self.response)
        cdef uint32_t composed = 0
        cdef uint32_t _i
        cdef Semantics s
        cdef Exchange* x = self.x
        cdef Buf* buf
        x.flags |= X_KEEP_CLIENT
        x.request.state = DIRECTION_DONE
        with nogil:
            buf = <Buf*>slab_get(&self.engine.bufs)
            memcpy(buf.data, data, length)
            for _i in range(calls):
                head_begin(&x.response, &x.head, True)
                if head_feed(&x.response, &x.head, buf.data, 0, length) != HEAD_COMPLETE:
                    break
                x.status = x.response.parser.status_code
                head_semantics(&x.head, False, True, &s)
                if not decide_framing(self.engine, x, &s, False):
                    break
                composed = response_compose(self.engine, x, &s)
            slab_put(&self.engine.bufs, buf)
            self.parse_once()
        return composed

    def account(self, uint32_t calls):
        cdef uint32_t _i
        cdef Exchange* x = self.x
        cdef const ServerRecord* server = x.server_record
        x.status = 200
        with nogil:
            for _i in range(calls):
                account_begin(self.engine, x)
                account_route(self.engine, x)
                x.stat_server = NULL
                account_server(self.engine, x, server)
                x.started_us = self.engine.now_us - 100 - (_i & 1023)
                account_end(self.engine, x)

    def rearm(self, uint32_t calls, uint32_t delay_ms):
        cdef uint32_t _i
        with nogil:
            for _i in range(calls):
                timer_set(&self.engine.wheel, &self.client.timer, delay_ms)
                barrier()
            timer_cancel(&self.engine.wheel, &self.client.timer)

    def expire(self, uint32_t timers, uint32_t delay_ms):
        cdef Timer* all_ = <Timer*>calloc(timers, sizeof(Timer))
        cdef uint64_t expired = 0
        cdef uint32_t i
        if all_ == NULL:
            raise MemoryError
        with nogil:
            for i in range(timers):
                timer_init(&all_[i], TIMER_CONNECTION)
                timer_set(&self.engine.wheel, &all_[i], 1 + i % delay_ms)
            self.engine.wheel.clock += delay_ms
            wheel_advance(&self.engine.wheel, self.engine.wheel.clock, never, &expired)
            for i in range(timers):
                timer_cancel(&self.engine.wheel, &all_[i])
        free(all_)
        return expired

    def slab(self, uint32_t calls):
        cdef uint32_t _i
        cdef void* found
        with nogil:
            for _i in range(calls):
                found = slab_get(&self.engine.exchanges)
                barrier()
                slab_put(&self.engine.exchanges, found)
                barrier()

    def __dealloc__(self):
        cdef uint32_t page
        if self.engine == NULL:
            return
        if self.snapshot.routes != NULL:
            route_table_close(<RouteTable*>self.snapshot.routes)
        listeners_destroy(self.engine)
        slab_destroy(&self.engine.conns)
        slab_destroy(&self.engine.exchanges)
        slab_destroy(&self.engine.bufs)
        if self.engine.runtimes != NULL:
            for page in range(RUNTIME_PAGES):
                free(self.engine.runtimes[page])
        free(self.engine.runtimes)
        free(self.engine.scratch)
        free(self.engine.compose)
        if self.statistics != NULL:
            munmap(self.statistics, self.statistics_size)
        if self.limits != NULL:
            munmap(self.limits, self.limits_size)
        free(self.engine)
