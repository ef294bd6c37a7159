"""The engine as the worker's Python sees it. Docstrings: src/bascule/engine/engine.pyi."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from bascule.codec.head cimport heads_bind
from bascule.codec.llhttp cimport llhttp_bind
from bascule.engine.adoption cimport snapshot_adopt
from bascule.engine.bequest cimport bequest_close, bequest_open, wind_down, wind_up
from bascule.engine.connection cimport conn_close, graveyard_bury
from bascule.engine.handover cimport AnswerPacket, ParcelHeader, Preamble, Record
from bascule.engine.inheritance cimport inheritance_close, inheritance_open
from bascule.engine.listeners cimport (
    listener_find,
    listener_lend,
    listener_take_back,
    listeners_adopt,
    listeners_close,
    listeners_destroy,
)
from bascule.engine.loop cimport engine_arm, engine_clock, engine_turn
from bascule.engine.memory cimport BUF_BYTES, BUF_RESERVE, Buf, slab_destroy, slab_init
from bascule.engine.shed cimport shed_budget, shed_used
from bascule.engine.system cimport (
    CLOCK_MONOTONIC,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLLET,
    EPOLLIN,
    EPOLLRDHUP,
    MAP_FAILED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    TFD_CLOEXEC,
    TFD_NONBLOCK,
    F_DUPFD_CLOEXEC,
    F_GETFL,
    F_SETFL,
    O_NONBLOCK,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    fcntl,
    getrandom,
    mmap,
    munmap,
    timerfd_create,
)
from bascule.engine.timers cimport TIMER_BEQUEST, TIMER_DEADLINE, TIMER_IDLE, TIMER_RESUME, timer_cancel, timer_init, wheel_init
from bascule.engine.types cimport (
    LOG_FILE,
    LOG_PIPE,
    LOG_SOCKET,
    RUNTIME_PAGE,
    RUNTIME_PAGES,
    SCRATCH_BYTES,
    SOURCE_FOREIGN,
    SOURCE_TIMER,
    AccessLog,
    Conn,
    Engine as CEngine,
    Exchange,
    ListenerRuntime,
    ServerRuntime,
    Slot,
)
from bascule.request.exchange cimport clients_hasten, exchange_gone, snapshot_unpin
from bascule.request.s9_account cimport access_log_flush
from bascule.shared.limits cimport limits_open
from bascule.shared.snapshot cimport SNAPSHOT_UNKNOWN_BASE, Snapshot
from bascule.shared.statistics cimport statistics_open
from bascule.shared.verdicts cimport verdicts_open

import os
import stat

from bascule.shared.snapshot import describe

cdef enum:
    COMPOSE_BYTES = BUF_BYTES + 8192


# The sizes that every version of the program must see (handover.pxd).
assert (sizeof(Preamble), sizeof(ParcelHeader), sizeof(Record), sizeof(AnswerPacket)) == (16, 32, 200, 124)


class EngineError(RuntimeError):
    """The engine cannot start or adopt; the message says why."""


class UnknownBaseError(EngineError):
    """The snapshot names a routes base that this engine does not have: send it both."""


cdef object map_region(int fd, str what, uint8_t** base, uint64_t* size):
    cdef void* mapped
    size[0] = os.fstat(fd).st_size
    mapped = mmap(NULL, size[0], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if mapped == MAP_FAILED:
        raise EngineError(f"cannot map the {what} region: {os.strerror(errno)}")
    base[0] = <uint8_t*>mapped


cdef uint64_t identity_of(int fd):
    """Tells one region from another, in every process that has it."""
    status = os.fstat(fd)
    return (<uint64_t>status.st_ino ^ (<uint64_t>status.st_dev << 44)) or 1


cdef uint32_t log_kind(int mode):
    if stat.S_ISREG(mode):
        return LOG_FILE
    return LOG_SOCKET if stat.S_ISSOCK(mode) else LOG_PIPE


cdef class Engine:
    cdef CEngine* c
    cdef uint8_t* statistics_base
    cdef uint64_t statistics_size
    cdef uint8_t* limits_base
    cdef uint64_t limits_size
    cdef uint8_t* verdicts_base
    cdef uint64_t verdicts_size

    def __cinit__(self):
        self.c = <CEngine*>calloc(1, sizeof(CEngine))
        if self.c == NULL:
            raise MemoryError
        self.c.epoll_fd = -1
        self.c.timer_fd = -1

    def __init__(self, *, int worker, int statistics_fd, int limits_fd=-1, int verdicts_fd=-1,
                 uint64_t memory_bytes=536870912,
                 int access_log_fd=-1):
        cdef CEngine* c = self.c
        cdef int result
        if c.epoll_fd >= 0:
            raise EngineError("already started")
        llhttp_bind()
        heads_bind()
        c.worker = <uint32_t>worker
        c.statistics_identity = identity_of(statistics_fd)
        map_region(statistics_fd, "statistics", &self.statistics_base, &self.statistics_size)
        result = statistics_open(&c.statistics, self.statistics_base, self.statistics_size, c.worker)
        if result != 0:
            raise EngineError(f"the statistics region is not one this version knows (error {result})")
        if limits_fd >= 0:
            map_region(limits_fd, "limits", &self.limits_base, &self.limits_size)
            result = limits_open(&c.limits, self.limits_base, self.limits_size, c.worker)
            if result != 0:
                raise EngineError(f"the limits region is not one this version knows (error {result})")
            c.limits_on = True
            c.limits_identity = identity_of(limits_fd)
        if verdicts_fd >= 0:
            map_region(verdicts_fd, "verdicts", &self.verdicts_base, &self.verdicts_size)
            if not verdicts_open(&c.verdicts, self.verdicts_base, self.verdicts_size):
                raise EngineError("the verdicts region is not one this version knows")
        self.start(memory_bytes)
        if access_log_fd >= 0:
            self.log_to(access_log_fd)

    cdef start(self, uint64_t memory_bytes):
        cdef CEngine* c = self.c
        cdef epoll_event event
        slab_init(&c.conns, sizeof(Conn), 256, 0)
        slab_init(&c.exchanges, sizeof(Exchange), 32, 0)
        slab_init(&c.bufs, sizeof(Buf), 16, 0)
        shed_budget(c, memory_bytes)
        wheel_init(&c.wheel)
        timer_init(&c.resume, TIMER_RESUME)
        timer_init(&c.handover.retry, TIMER_BEQUEST)
        timer_init(&c.handover.deadline, TIMER_DEADLINE)
        c.runtimes = <ServerRuntime**>calloc(RUNTIME_PAGES, sizeof(ServerRuntime*))
        c.scratch = <char*>calloc(1, BUF_RESERVE + SCRATCH_BYTES + BUF_RESERVE)
        c.compose = <char*>calloc(1, COMPOSE_BYTES)
        if c.runtimes == NULL or c.scratch == NULL or c.compose == NULL:
            raise MemoryError
        if getrandom(c.random_state, sizeof(c.random_state), 0) != sizeof(c.random_state):
            raise EngineError("getrandom gave no seed")
        c.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        c.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if c.epoll_fd < 0 or c.timer_fd < 0:
            raise EngineError(f"cannot start: {os.strerror(errno)}")
        c.timer_kind = SOURCE_TIMER
        c.foreign.kind = SOURCE_FOREIGN
        c.armed_tick = TIMER_IDLE
        event.events = EPOLLIN
        event.data.ptr = &c.timer_fd
        epoll_ctl(c.epoll_fd, EPOLL_CTL_ADD, c.timer_fd, &event)
        engine_clock(c)
        c.start_us = c.now_us
        c.wheel.clock = 0

    def fileno(self):
        return self.c.epoll_fd

    def turn(self, uint32_t patience_ms=0):
        if self.c.epoll_fd < 0:
            return
        with nogil:
            engine_turn(self.c, patience_ms)

    def watch(self, int fd):
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLRDHUP | EPOLLET
        event.data.ptr = &self.c.foreign
        if epoll_ctl(self.c.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))

    # ---- configuration -----------------------------------------------------------------------------------------------------
    def adopt(self, int fd, int base_fd=-1):
        cdef CEngine* c = self.c
        cdef uint64_t size = os.fstat(fd).st_size
        cdef uint64_t base_size = os.fstat(base_fd).st_size if base_fd >= 0 else 0
        cdef Snapshot* snapshot = NULL
        cdef Snapshot* old = c.snapshot
        cdef bint lapsed
        cdef int result
        with nogil:
            result = snapshot_adopt(&snapshot, fd, size, base_fd, base_size, old)
        if result < 0:
            raise EngineError(f"cannot map the snapshot: {os.strerror(-result)}")
        if result == SNAPSHOT_UNKNOWN_BASE and base_fd < 0:
            raise UnknownBaseError(f"snapshot refused: {describe(result)}")
        if result != 0:
            raise EngineError(f"snapshot refused: {describe(result)}")
        # Order: listeners first, so that a request accepted with new bounds never meets the old snapshot's absence.
        lapsed = listeners_adopt(c, snapshot)
        if lapsed:
            engine_clock(c)
            clients_hasten(c)
            engine_arm(c)
        c.snapshot = snapshot
        c.snapshots += 1
        if old != NULL:
            snapshot_unpin(c, old)
        return snapshot.revision

    def lend(self, str listener_id, int slot, int fd):
        cdef bytes name = listener_id.encode()
        cdef ListenerRuntime* listener
        if self.c.snapshot == NULL:
            raise EngineError("no snapshot adopted yet: nothing could be served")
        listener = listener_find(self.c, name, <uint32_t>len(name))
        if listener == NULL:
            raise EngineError(f"listener {listener_id}: id too long, or out of memory")
        if listener_lend(self.c, listener, <uint32_t>slot, fd) != 0:
            raise OSError(errno, os.strerror(errno), f"listener {listener_id} slot {slot}")

    def take_back(self, str listener_id, int slot):
        cdef bytes name = listener_id.encode()
        cdef ListenerRuntime* listener = listener_find(self.c, name, <uint32_t>len(name))
        return listener != NULL and listener_take_back(self.c, listener, <uint32_t>slot) == 0

    def limit_memory(self, uint64_t memory_bytes):
        shed_budget(self.c, memory_bytes)

    def log_to(self, int fd):
        cdef AccessLog* log
        cdef uint64_t lost = 0
        access_log_flush(self.c)
        if self.c.access_log != NULL:
            lost = self.c.access_log.lost
            close(self.c.access_log.fd)
            free(self.c.access_log)
            self.c.access_log = NULL
        if fd < 0:
            return
        log = <AccessLog*>calloc(1, sizeof(AccessLog))
        if log == NULL:
            raise MemoryError
        log.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)
        if log.fd < 0:
            free(log)
            raise OSError(errno, os.strerror(errno))
        log.kind = log_kind(os.fstat(fd).st_mode)
        log.lost = lost
        self.c.access_log = log

    # ---- endings -------------------------------------------------------------------------------------------------------------
    cdef object own_socket(self, int fd):
        """Makes a descriptor of a handover non-blocking, or closes it."""
        cdef int flags = fcntl(fd, F_GETFL)
        if self.c.epoll_fd < 0:
            close(fd)
            raise EngineError("the engine is closed")
        if flags < 0 or fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0:
            close(fd)
            raise OSError(errno, os.strerror(errno))
        engine_clock(self.c)

    def bequeath(self, int fd):
        cdef int error
        self.own_socket(fd)
        if bequest_open(self.c, fd) != 0:
            error = errno
            close(fd)
            raise OSError(error, os.strerror(error))
        engine_arm(self.c)

    def inherit(self, int fd):
        cdef int error
        self.own_socket(fd)
        if inheritance_open(self.c, fd) != 0:
            error = errno
            close(fd)
            raise OSError(error, os.strerror(error))

    cdef object give_up(self, uint64_t deadline_ms):
        listeners_close(self.c)
        engine_clock(self.c)
        wind_down(self.c, deadline_ms)
        engine_arm(self.c)

    def rest(self, uint64_t deadline_ms):
        self.c.resting = True
        self.give_up(deadline_ms)
        self.close_pools()

    def resume(self):
        if self.c.leaving or not self.c.resting:
            return
        engine_clock(self.c)
        self.c.resting = False
        wind_up(self.c)
        engine_arm(self.c)

    def drain(self, uint64_t deadline_ms):
        self.c.leaving = True
        self.give_up(deadline_ms)

    @property
    def resting(self):
        return bool(self.c.resting)

    @property
    def drained(self):
        return self.c.leaving and self.c.client_count == 0

    cdef object close_pools(self):
        cdef CEngine* c = self.c
        cdef uint32_t page, i
        for page in range(RUNTIME_PAGES):
            if c.runtimes[page] == NULL:
                continue
            for i in range(RUNTIME_PAGE):
                while c.runtimes[page][i].idle != NULL:
                    conn_close(c, c.runtimes[page][i].idle, False)

    def close(self):
        cdef CEngine* c = self.c
        cdef uint32_t page
        if c == NULL or c.epoll_fd < 0:
            return
        engine_clock(c)
        bequest_close(c)
        inheritance_close(c)
        timer_cancel(&c.wheel, &c.resume)
        while c.clients != NULL:
            if c.clients.exchange != NULL:
                exchange_gone(c, c.clients.exchange)
            else:
                conn_close(c, c.clients, False)
        self.close_pools()
        for page in range(RUNTIME_PAGES):
            free(c.runtimes[page])
            c.runtimes[page] = NULL
        while c.run_first != NULL:
            c.run_first.flags = 0
            c.run_first = c.run_first.run_next
        c.run_last = NULL
        graveyard_bury(c)
        listeners_destroy(c)
        if c.snapshot != NULL:
            snapshot_unpin(c, c.snapshot)
            c.snapshot = NULL
        self.log_to(-1)
        close(c.timer_fd)
        close(c.epoll_fd)
        c.epoll_fd = -1

    def __dealloc__(self):
        cdef CEngine* c = self.c
        if c == NULL:
            return
        if c.epoll_fd >= 0:
            self.close()
        slab_destroy(&c.conns)
        slab_destroy(&c.exchanges)
        slab_destroy(&c.bufs)
        free(c.runtimes)
        free(c.scratch)
        free(c.compose)
        free(c.address_counts)
        if self.statistics_base != NULL:
            munmap(self.statistics_base, self.statistics_size)
        if self.limits_base != NULL:
            munmap(self.limits_base, self.limits_size)
        if self.verdicts_base != NULL:
            munmap(self.verdicts_base, self.verdicts_size)
        free(c)

    # ---- what is going on ------------------------------------------------------------------------------------------------------
    def state(self):
        cdef CEngine* c = self.c
        cdef uint32_t slots = 0
        cdef ListenerRuntime* listener = c.listeners
        cdef Slot* slot
        while listener != NULL:
            slot = listener.slots
            while slot != NULL:
                slots += 1
                slot = slot.next
            listener = listener.next
        return {
            "revision": c.snapshot.revision if c.snapshot != NULL else None,
            "snapshots": c.snapshots,
            "slots": slots,
            "clients": c.client_count,
            "servers": c.server_count,
            "exchanges": c.exchange_count,
            "draining": bool(c.draining),
            "resting": bool(c.resting),
            "in_flight": c.exchange_count,
            "handed_over_idle": c.handover.idle_given,
            "handed_over_tunnels": c.handover.tunnels_given,
            "inherited": c.handover.inherited,
            "refused": c.handover.refused,
            "taken_back": c.handover.taken_back,
            "drained_closed": c.handover.closed,
            "cut_at_deadline": c.handover.cut,
            "accept_failures": c.accept_failures,
            "memory_bytes": shed_used(c),
            "log_lines_lost": c.access_log.lost if c.access_log != NULL else 0,
        }

    def live_objects(self):
        cdef CEngine* c = self.c
        return {
            "connections": c.conns.live,
            "exchanges": c.exchanges.live,
            "buffers": c.bufs.live,
            "timers": c.wheel.count,
            "chunks": c.conns.chunks + c.exchanges.chunks + c.bufs.chunks,
        }
