"""The matcher: search of the trie for the matching entry of least rank (contract: match.pxd; records: layout.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, memset

from bascule.engine.system cimport unlikely
from bascule.routing.layout cimport (
    CAPTURES_MAX, DEPTH_MAX, EDGE_END, EDGE_MORE, ENTRY_REST, EdgeRecord, EntryRecord, NodeRecord,
)
from bascule.routing.predicates cimport predicate_holds, segment_fits
from bascule.routing.table cimport (
    OpenTable, RouteBase, RouteTable, bit, route_base_open, route_base_release, route_table_close, route_table_join,
    route_table_open,
)
from bascule.routing.view cimport RouteView, literal_child, node_at
from bascule.shared.snapshot cimport IMAGE_HEADER_SIZE, NO_INDEX, SECTION_FRONTENDS, FrontendRecord, ImageHeader, Section


cdef struct Search:               # one call of route_match, on its stack
    const RouteView* view
    const uint8_t* retired
    const RouteRequest* request
    const char* path_end
    const char* host_start
    uint32_t best_rank            # NO_INDEX: nothing yet
    uint32_t best_count
    const EntryRecord* best
    Slice[16] captures            # of the way from the root to here
    Slice[16] best_captures


# ---- the search ---------------------------------------------------------------------------------------------------------------

cdef void try_entries(Search* search, const EntryRecord* entry, uint32_t count, const char* rest,
                      uint32_t captured) noexcept nogil:
    """Takes the first entry of a group whose predicates hold, unless something better has been found already."""
    cdef const RouteView* view = search.view
    cdef const EntryRecord* end = entry + count
    cdef const uint32_t* refs
    cdef uint32_t i, total
    while entry < end and entry.rank < search.best_rank:
        if unlikely(search.retired != NULL) and bit(search.retired, entry.frontend):
            entry += 1
            continue
        total = captured
        if entry.flags & ENTRY_REST and rest != NULL and total < CAPTURES_MAX:
            search.captures[total].data = rest
            search.captures[total].length = <uint32_t>(search.path_end - rest)
            total += 1
        refs = view.refs + entry.refs
        i = 0
        while i < entry.predicate_count and reference_holds(search, refs[i], &total):
            i += 1
        if i == entry.predicate_count:
            search.best_rank = entry.rank
            search.best = entry
            search.best_count = total
            memcpy(search.best_captures, search.captures, total * sizeof(Slice))
            return
        entry += 1


cdef inline bint reference_holds(Search* search, uint32_t ref, uint32_t* captured) noexcept nogil:
    cdef uint32_t before = captured[0]
    cdef int result = predicate_holds(search.view, search.view.predicates + (ref >> 1), search.request, search.captures, captured)
    if ref & 1:
        captured[0] = before
        return result == 0
    return result > 0


cdef void search_path(Search* search, const NodeRecord* node, const char* at, uint32_t captured, uint32_t depth) noexcept nogil:
    """Looks below a path node. `at` is the start of the next segment, NULL when there is none.

    A node is left at once when nothing below it can beat what has been found, so the order of the visits only decides the time.
    """
    cdef const RouteView* view = search.view
    cdef const EntryRecord* entries
    cdef const NodeRecord* child
    cdef const char* stop
    if node.min_rank >= search.best_rank or depth > DEPTH_MAX:
        return
    entries = <const EntryRecord*>(<const char*>(node + 1) + ((node.label_length + 7) & ~7))
    if at == NULL:
        try_entries(search, entries, node.end_count, NULL, captured)
    else:
        stop = <const char*>memchr(at, c'/', search.path_end - at) if at < search.path_end else NULL
        if stop == NULL:
            stop = search.path_end
        if node.child_count:
            child = literal_child(view, node, at, stop - at)
            if child != NULL:
                search_path(search, child, stop + 1 if stop < search.path_end else NULL, captured, depth + 1)
        if node.first_edge != NO_INDEX:
            follow_edges(search, node, at, stop, captured, depth)
        try_entries(search, entries + node.end_count, node.more_count, at, captured)
    try_entries(search, entries + node.end_count + node.more_count, node.any_count, at, captured)


cdef inline int edge_fits(const RouteView* view, const EdgeRecord* edge, const char* start, const char* stop,
                          Slice* value) noexcept nogil:
    return segment_fits(edge.kind, view.strings + edge.prefix, edge.prefix_length, view.strings + edge.suffix,
                        edge.suffix_length, start, stop, value)


cdef void follow_edges(Search* search, const NodeRecord* node, const char* at, const char* stop, uint32_t captured,
                       uint32_t depth) noexcept nogil:
    cdef const RouteView* view = search.view
    cdef const EdgeRecord* edge = view.edges + node.first_edge
    cdef Slice* value = &search.captures[captured]
    if captured >= CAPTURES_MAX:
        return
    while edge.min_rank < search.best_rank:
        if edge.kind < EDGE_END and edge_fits(view, edge, at, stop, value):
            search_path(search, node_at(view, edge.node), stop + 1 if stop < search.path_end else NULL, captured + 1, depth + 1)
        if edge.last:
            return
        edge += 1


cdef inline const char* first_segment(const RouteRequest* request) noexcept nogil:
    return request.path.data + 1 if request.path.length and request.path.data[0] == c'/' else NULL


cdef void search_host(Search* search, const NodeRecord* node, const char* stop, uint32_t captured, uint32_t depth) noexcept nogil:
    """Looks below a node of the host patterns. The labels left are those up to `stop`; NULL when there is none."""
    cdef const RouteView* view = search.view
    cdef const NodeRecord* child
    cdef const EdgeRecord* edge
    cdef const char* start = stop
    cdef const char* next_stop
    if node.min_rank >= search.best_rank or depth > DEPTH_MAX or captured >= CAPTURES_MAX:
        return
    if stop != NULL:
        while start > search.host_start and (start - 1)[0] != c'.':
            start -= 1
        next_stop = start - 1 if start > search.host_start else NULL
        if node.child_count:
            child = literal_child(view, node, start, stop - start)
            if child != NULL:
                search_host(search, child, next_stop, captured, depth + 1)
    if node.first_edge == NO_INDEX:
        return
    edge = view.edges + node.first_edge
    while edge.min_rank < search.best_rank:
        child = node_at(view, edge.node)
        if edge.kind == EDGE_END:
            if stop == NULL:
                search_path(search, child, first_segment(search.request), captured, depth + 1)
        elif stop == NULL:
            pass
        elif edge.kind == EDGE_MORE:
            if stop > search.host_start:
                search.captures[captured].data = search.host_start
                search.captures[captured].length = <uint32_t>(stop - search.host_start)
                search_path(search, child, first_segment(search.request), captured + 1, depth + 1)
        elif edge_fits(view, edge, start, stop, &search.captures[captured]):
            search_host(search, child, next_stop, captured + 1, depth + 1)
        if edge.last:
            return
        edge += 1


cdef void search_view(Search* search, const RouteView* view) noexcept nogil:
    cdef const RouteRequest* request = search.request
    cdef const NodeRecord* hosts
    cdef const NodeRecord* host
    cdef uint32_t host_length = request.host.length
    search.view = view
    if host_length:
        hosts = node_at(view, view.header.exact_hosts)
        if hosts.child_count:
            host = literal_child(view, hosts, request.host.data, host_length)
            if host != NULL:
                search_path(search, host, first_segment(request), 0, 1)
        if request.host.data[0] != c'[':
            search_host(search, node_at(view, view.header.pattern_hosts), request.host.data + host_length, 0, 0)
    search_path(search, node_at(view, view.header.any_host), first_segment(request), 0, 0)


cdef void route_match(const RouteTable* face, const RouteRequest* request, RouteMatch* match) noexcept nogil:
    cdef const OpenTable* table = <const OpenTable*>face
    cdef const EntryRecord* changed = NULL
    cdef Search search
    cdef RouteRequest dotless
    if request.host.length > 1 and request.host.data[request.host.length - 1] == c'.':
        dotless = request[0]      # "a.com." is the absolute form of "a.com" (RFC 1034 section 3.1)
        dotless.host.length -= 1
        request = &dotless
    search.request = request
    search.path_end = request.path.data + request.path.length
    search.host_start = request.host.data
    search.best_rank = NO_INDEX
    search.best = NULL
    search.best_count = 0
    search.retired = NULL
    if unlikely(table.has_delta):
        search_view(&search, &table.delta)
        changed = search.best
        if changed != NULL:
            search.best_rank = table.positions[search.best_rank]
            search.best = NULL    # what it captured stays until something of the base is better
    search.retired = table.retired
    search_view(&search, &table.base.view)
    if search.best == NULL and changed != NULL:
        search.best = changed
        search.view = &table.delta
    fill(&search, match)


cdef inline void fill(const Search* search, RouteMatch* match) noexcept nogil:
    cdef const EntryRecord* entry = search.best
    cdef const uint32_t* names
    cdef uint32_t i
    match.frontend = NO_INDEX
    match.param_count = 0
    if entry == NULL:
        return
    match.frontend = entry.frontend
    names = search.view.refs + entry.refs + entry.predicate_count
    for i in range(min(<uint32_t>entry.param_count, search.best_count)):
        if names[2 * i + 1]:
            match.params[match.param_count].name.data = search.view.strings + names[2 * i]
            match.params[match.param_count].name.length = names[2 * i + 1]
            match.params[match.param_count].value = search.best_captures[i]
            match.param_count += 1


# ---- the Python face ----------------------------------------------------------------------------------------------------------

cdef bytes octets(object text):
    return text if isinstance(text, bytes) else text.encode()


cdef Slice slice_of(bytes text) noexcept:
    cdef Slice out
    out.data = text
    out.length = <uint32_t>len(text)
    return out


cdef class Matcher:
    """Matches requests against images; for tests and explanations (the engine calls route_match itself)."""
    cdef bytes image
    cdef bytes base
    cdef RouteTable* table

    def __cinit__(self, bytes image not None, bytes base=None):
        cdef const ImageHeader* header = <const ImageHeader*><const char*>image
        cdef const Section* section
        cdef RouteBase* routes
        cdef uint32_t frontends
        if len(image) < IMAGE_HEADER_SIZE or (base is not None and len(base) < IMAGE_HEADER_SIZE):
            raise ValueError("image shorter than its header")
        section = &header.sections[<int>SECTION_FRONTENDS]
        if section.offset > <uint64_t>len(image) or section.size > <uint64_t>len(image) - section.offset:
            raise ValueError("the frontends lie outside the image")
        frontends = <uint32_t>min(section.size // sizeof(FrontendRecord), NO_INDEX)
        self.image = image
        self.base = base
        if base is None:
            self.table = route_table_open(<const uint8_t*><const char*>image, len(image), frontends)
        else:
            routes = route_base_open(<const uint8_t*><const char*>base, len(base), frontends)
            if routes != NULL:
                self.table = route_table_join(routes, <const uint8_t*><const char*>image, len(image), frontends, NULL)
                route_base_release(routes)
        if self.table == NULL:
            raise ValueError("the routing sections of the image are damaged or their regexps cannot be compiled here")

    def __dealloc__(self):
        route_table_close(self.table)

    def match(self, *, method="GET", host="", path="/", query="", headers=(), client_ip=None):
        cdef RouteRequest request
        cdef RouteMatch match
        cdef list fields = [(octets(name), octets(value)) for name, value in headers]
        cdef HeaderSlice* slices = <HeaderSlice*>malloc((len(fields) + 1) * sizeof(HeaderSlice))
        cdef uint32_t i
        cdef bytes address
        cdef bytes method_ = octets(method), host_ = octets(host), path_ = octets(path), query_ = octets(query)
        if slices == NULL:
            raise MemoryError
        try:
            for i in range(len(fields)):
                slices[i].name = slice_of(fields[i][0])
                slices[i].value = slice_of(fields[i][1])
            memset(&request, 0, sizeof(request))
            request.method = slice_of(method_)
            request.host = slice_of(host_)
            request.path = slice_of(path_)
            request.query = slice_of(query_)
            request.headers = slices
            request.header_count = <uint32_t>len(fields)
            if client_ip is not None:
                address = packed_ip(client_ip)
                memcpy(request.client_ip, <const char*>address, 16)
            route_match(self.table, &request, &match)
        finally:
            free(slices)
        return self.result(&match)

    cdef object result(self, const RouteMatch* match):
        from bascule.routing.result import Match  # imports typing: 6 ms of CPU that no worker needs

        params = {}
        cdef uint32_t i
        for i in range(match.param_count):
            name = match.params[i].name.data[:match.params[i].name.length]
            params[name.decode("utf-8", "replace")] = match.params[i].value.data[:match.params[i].value.length]
        return Match(None if match.frontend == NO_INDEX else match.frontend, params)

    def match_many(self, list requests not None, uint32_t rounds=1):
        """(CPU seconds a match, number matched): times (host, path) pairs, `rounds` times over, without Python between."""
        cdef uint64_t count = len(requests), found = 0, i
        cdef RouteRequest* prepared = <RouteRequest*>calloc(count + 1, sizeof(RouteRequest))
        cdef RouteMatch match
        cdef double start
        if prepared == NULL:
            raise MemoryError
        keep = [(octets(host), octets(path)) for host, path in requests]
        for i in range(count):
            prepared[i].host = slice_of(keep[i][0])
            prepared[i].path = slice_of(keep[i][1])
            prepared[i].method = slice_of(b"GET")
        start = thread_cpu_s()
        with nogil:
            for _ in range(rounds):
                for i in range(count):
                    route_match(self.table, prepared + i, &match)
                    found += match.frontend != NO_INDEX
        start = thread_cpu_s() - start
        free(prepared)
        return start / max(count * rounds, 1), found


cdef bytes packed_ip(object text):
    import ipaddress  # 3 ms of CPU that no worker needs

    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* time)
    int CLOCK_THREAD_CPUTIME_ID


cdef double thread_cpu_s() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return now.tv_sec + now.tv_nsec * 1e-9
