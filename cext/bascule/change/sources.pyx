"""See sources.pxd."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from bascule.change.state cimport FrontendSource, State
from bascule.change.tables cimport table_load
from bascule.routing.ranking cimport Ranking, RankRun


cdef struct KeptHeader:
    uint64_t sources              # FrontendSources: one for each frontend of the records
    uint64_t text_bytes
    uint64_t runs
    uint64_t ranked               # clauses of the base
    uint64_t live_backends
    uint64_t live_servers
    uint64_t live_frontends
    uint64_t clean_bytes
    uint32_t base_bound
    uint32_t reserved


cdef inline uint64_t up(uint64_t size) noexcept nogil:
    return (size + 7) & ~<uint64_t>7


cdef uint64_t size_of(const KeptHeader* header) noexcept nogil:
    """0 when a count is beyond all reason."""
    if header.sources >> 32 or header.text_bytes >> 32 or header.runs >> 32 or header.ranked >> 32:
        return 0
    return (sizeof(KeptHeader) + up(header.sources * sizeof(FrontendSource)) + up(header.text_bytes)
            + up(header.runs * sizeof(RankRun)) + up(header.ranked * sizeof(uint32_t)))


cdef inline void put(char* at, const void* data, uint64_t size) noexcept nogil:
    if size:  # what is empty may be NULL, which memcpy does not take
        memcpy(at, data, size)


cdef bytes pack_sources(State state, Ranking ranking, uint32_t base_bound):
    cdef KeptHeader header
    cdef bytes packed
    cdef char* at
    memset(&header, 0, sizeof(header))
    header.sources, header.text_bytes = state.sources.count, state.texts.texts.used
    header.runs, header.ranked = ranking.run_count, ranking.count
    header.live_backends, header.live_servers = state.live_backends, state.live_servers
    header.live_frontends, header.clean_bytes = state.live_frontends, state.clean_bytes
    header.base_bound = base_bound
    packed = PyBytes_FromStringAndSize(NULL, size_of(&header))
    at = PyBytes_AS_STRING(packed)
    memset(at, 0, len(packed))
    memcpy(at, &header, sizeof(header))
    at += sizeof(KeptHeader)
    put(at, state.sources.data, header.sources * sizeof(FrontendSource))
    at += up(header.sources * sizeof(FrontendSource))
    put(at, state.texts.texts.data, header.text_bytes)
    at += up(header.text_bytes)
    put(at, ranking.runs, header.runs * sizeof(RankRun))
    at += up(header.runs * sizeof(RankRun))
    put(at, ranking.frontends, header.ranked * sizeof(uint32_t))
    return packed


cdef uint32_t load_sources(object packed, State state, Ranking ranking) except? 0xFFFFFFFF:
    # Not a typed memoryview: that imports `collections`, in every master at its start.
    cdef Py_buffer view
    PyObject_GetBuffer(packed, &view, PyBUF_SIMPLE)
    try:
        return load_from(<const char*>view.buf, <uint64_t>view.len, state, ranking)
    finally:
        PyBuffer_Release(&view)


cdef uint32_t load_from(const char* at, uint64_t size, State state, Ranking ranking) except? 0xFFFFFFFF:
    cdef KeptHeader header
    cdef const char* runs
    if size < sizeof(KeptHeader):
        raise ValueError("the kept sources are cut off")
    memcpy(&header, at, sizeof(header))
    if size_of(&header) != size:
        raise ValueError("the kept sources have another size than they say")
    at += sizeof(KeptHeader)
    table_load(&state.sources, at, header.sources * sizeof(FrontendSource))
    at += up(header.sources * sizeof(FrontendSource))
    state.texts.load(at, header.text_bytes)
    runs = at + up(header.text_bytes)
    ranking.load(<const RankRun*>runs, header.runs, <const uint32_t*>(runs + up(header.runs * sizeof(RankRun))), header.ranked)
    state.live_backends, state.live_servers = header.live_backends, header.live_servers
    state.live_frontends, state.clean_bytes = header.live_frontends, header.clean_bytes
    return header.base_bound
