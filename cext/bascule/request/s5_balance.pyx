"""Smooth weighted round robin (as in nginx, 2012): each pick raises every candidate by its weight and lowers the winner by the
sum, so that the picks of a heavy server are spread out. A verdict (shared/verdicts.pxd) takes from a weight, with one load.
Weights live in ServerRuntime, keyed by identity: a snapshot does not reset them.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc

from bascule.engine.system cimport likely, unlikely
from bascule.engine.types cimport RUNTIME_PAGE, RUNTIME_PAGES
from bascule.shared.snapshot cimport SERVER_STARTING, SERVER_UP
from bascule.shared.verdicts cimport VERDICT_READY, VERDICT_SET, VERDICT_SHARE, VERDICT_SHARE_FULL, verdict_word


cdef ServerRuntime* server_runtime(Engine* engine, const ServerRecord* server) noexcept nogil:
    """This worker's state of the server; allocated a page at a time when first needed. NULL: out of memory."""
    cdef uint32_t page = server.stat_slot // RUNTIME_PAGE
    if unlikely(page >= RUNTIME_PAGES):
        page = RUNTIME_PAGES - 1
    if unlikely(engine.runtimes[page] == NULL):
        engine.runtimes[page] = <ServerRuntime*>calloc(RUNTIME_PAGE, sizeof(ServerRuntime))
        if engine.runtimes[page] == NULL:
            return NULL
    return &engine.runtimes[page][server.stat_slot % RUNTIME_PAGE]


cdef inline uint32_t share_of(const Engine* engine, const ServerRecord* server) noexcept nogil:
    """What the server weighs now, in 64ths of the configured unit: its weight by its verdict. 0: it takes nothing."""
    cdef uint32_t word = verdict_word(&engine.verdicts, server.stat_slot)
    if server.address.length == 0:
        return 0
    if unlikely(server.state != SERVER_UP) and not (server.state == SERVER_STARTING and word & VERDICT_READY):
        return 0
    if likely(not word & VERDICT_SET):
        return server.weight * <uint32_t>VERDICT_SHARE_FULL
    return server.weight * min(word & VERDICT_SHARE, <uint32_t>VERDICT_SHARE_FULL)


cdef const ServerRecord* balance_pick(Engine* engine, Exchange* x, const ServerRecord* avoid) noexcept nogil:
    """The server for this exchange, other than `avoid` where there is a choice; NULL when none is up."""
    cdef const ServerRecord* servers = x.snapshot.servers + x.backend.first_server
    cdef const ServerRecord* best = NULL
    cdef ServerRuntime* runtime
    cdef ServerRuntime* best_runtime = NULL
    cdef int32_t total = 0
    cdef uint32_t i, weight
    if likely(x.backend.server_count == 1):
        return servers if share_of(engine, servers) and servers != avoid else NULL
    for i in range(x.backend.server_count):
        weight = share_of(engine, &servers[i])
        if weight == 0 or &servers[i] == avoid:
            continue
        runtime = server_runtime(engine, &servers[i])
        if runtime == NULL:
            continue
        runtime.wrr_current += <int32_t>weight
        total += <int32_t>weight
        if best == NULL or runtime.wrr_current > best_runtime.wrr_current:
            best = &servers[i]
            best_runtime = runtime
    if best != NULL:
        best_runtime.wrr_current -= total
    return best
