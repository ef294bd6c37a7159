"""The matcher: search of the trie for the matching entry of least rank (contract: match.pxd; records: layout.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.mman cimport munmap

from bascule.engine.system cimport unlikely
from bascule.routing.layout cimport (
    CAPTURES_MAX, DEPTH_MAX, EDGE_END, EDGE_MORE, ENTRY_REST, PREDICATE_HOST_REGEXP, ROUTES_HEADER, EdgeRecord,
    EntryRecord, NodeRecord, PredicateRecord,
)
from bascule.routing.pcre cimport SUBJECT_BYTES_MAX, PcreCode, pcre_compile, pcre_free, pcre_scratch_free, pcre_scratch_new
from bascule.routing.predicates cimport predicate_holds, segment_fits
from bascule.routing.verify cimport positions_locate, retired_locate, routes_locate
from bascule.routing.view cimport RouteView, literal_child, node_at
from bascule.shared.snapshot cimport (
    FRONTEND_WAITING, IMAGE_HEADER_SIZE, NO_INDEX, SECTION_FRONTENDS, FrontendRecord, ImageHeader, Section,
)


cdef enum:
    JIT_REGEXPS_MAX = 512         # compiling to machine code takes about 50 us each: beyond this many, PCRE2 interprets

cdef struct Regexp:               # of a delta; shared by the tables whose deltas have it
    PcreCode* code
    uint32_t references

cdef struct OpenBase:
    RouteBase face
    RouteView view
    uint8_t* referenced           # bits: frontends that entries of the base lead to

cdef struct OpenTable:
    RouteTable face
    OpenBase* base
    const uint8_t* retired        # NULL: none
    bint has_delta
    RouteView delta
    const uint32_t* positions
    Regexp** regexps              # delta.header.regexp_count of them

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


# ---- the table ----------------------------------------------------------------------------------------------------------------

cdef bint prepare_regexps(RouteView* view) noexcept nogil:
    view.regexps = <PcreCode**>calloc(view.header.regexp_count, sizeof(void*))
    view.decoded = <char*>malloc(SUBJECT_BYTES_MAX)
    view.scratch = pcre_scratch_new()
    return view.regexps != NULL and view.decoded != NULL and view.scratch != NULL


cdef inline PcreCode* compile_regexp(const RouteView* view, const PredicateRecord* record) noexcept nogil:
    return pcre_compile(view.strings + record.value, record.value_length, record.kind == PREDICATE_HOST_REGEXP,
                        view.header.regexp_count <= JIT_REGEXPS_MAX)


cdef bint compile_regexps(RouteView* view) noexcept nogil:
    cdef uint64_t i
    if view.header.regexp_count == 0:
        return True
    if not prepare_regexps(view):
        return False
    for i in range(view.predicate_count):
        if view.predicates[i].kind >= PREDICATE_HOST_REGEXP:
            view.regexps[view.predicates[i].regexp] = compile_regexp(view, view.predicates + i)
            if view.regexps[view.predicates[i].regexp] == NULL:
                return False
    return True


cdef bint same_regexp(const RouteView* a, const PredicateRecord* x, const RouteView* b, const PredicateRecord* y) noexcept nogil:
    return (y.kind >= PREDICATE_HOST_REGEXP and (x.kind == PREDICATE_HOST_REGEXP) == (y.kind == PREDICATE_HOST_REGEXP)
            and x.value_length == y.value_length
            and memcmp(a.strings + x.value, b.strings + y.value, x.value_length) == 0)


cdef Regexp* earlier_regexp(const RouteView* view, const PredicateRecord* record, const OpenTable* previous,
                            uint64_t* at) noexcept nogil:
    """The compiled form that an earlier delta has of it. From one delta to the next predicates keep their order, so the search goes
    on from `at`, where the last one was found."""
    cdef uint64_t i, count
    if previous == NULL or not previous.has_delta:
        return NULL
    count = previous.delta.predicate_count
    for i in range(at[0], at[0] + count):
        if same_regexp(view, record, &previous.delta, previous.delta.predicates + i % count):
            at[0] = i % count + 1
            return previous.regexps[previous.delta.predicates[i % count].regexp]
    return NULL


cdef bint delta_regexps(OpenTable* table, const OpenTable* previous) noexcept nogil:
    cdef RouteView* view = &table.delta
    cdef Regexp* regexp
    cdef uint64_t i, at = 0
    if view.header.regexp_count == 0:
        return True
    table.regexps = <Regexp**>calloc(view.header.regexp_count, sizeof(void*))
    if table.regexps == NULL or not prepare_regexps(view):
        return False
    for i in range(view.predicate_count):
        if view.predicates[i].kind < PREDICATE_HOST_REGEXP:
            continue
        regexp = earlier_regexp(view, view.predicates + i, previous, &at)
        if regexp == NULL:
            regexp = <Regexp*>calloc(1, sizeof(Regexp))
            if regexp == NULL:
                return False
            regexp.code = compile_regexp(view, view.predicates + i)
        regexp.references += 1
        table.regexps[view.predicates[i].regexp] = regexp
        view.regexps[view.predicates[i].regexp] = regexp.code
        if regexp.code == NULL:
            return False
    return True


cdef void close_view(RouteView* view, bint codes) noexcept nogil:
    cdef uint32_t i
    if view.regexps != NULL and codes:
        for i in range(view.header.regexp_count):
            pcre_free(view.regexps[i])
    free(view.regexps)
    free(view.decoded)
    pcre_scratch_free(view.scratch)


cdef RouteBase* route_base_open(const uint8_t* image, uint64_t size, uint32_t frontend_count) noexcept nogil:
    cdef OpenBase* base = <OpenBase*>calloc(1, sizeof(OpenBase))
    if base == NULL:
        return NULL
    base.face.image = image
    base.face.size = size
    base.face.references = 1
    if not routes_locate(image, size, frontend_count, &base.view, &base.referenced) or not compile_regexps(&base.view):
        route_base_release(&base.face)
        return NULL
    return &base.face


cdef void route_base_release(RouteBase* base) noexcept nogil:
    cdef OpenBase* opened = <OpenBase*>base
    if base == NULL:
        return
    base.references -= 1
    if base.references:
        return
    close_view(&opened.view, True)
    free(opened.referenced)
    if base.mapped:
        munmap(<void*>base.image, base.size)
    free(opened)


cdef inline bint bit(const uint8_t* bits, uint32_t number) noexcept nogil:
    return bits[number >> 3] >> (number & 7) & 1


cdef bint leads_somewhere(const OpenTable* table, const uint8_t* records, const uint8_t* delta_leads) noexcept nogil:
    """No entry that is not retired leads to a frontend without a backend."""
    cdef const ImageHeader* header = <const ImageHeader*>records
    cdef const FrontendRecord* frontends = <const FrontendRecord*>(records + header.sections[<int>SECTION_FRONTENDS].offset)
    cdef uint32_t bound = table.base.view.header.frontend_bound
    cdef uint32_t i
    for i in range(bound):
        if (frontends[i].flags & FRONTEND_WAITING and bit(table.base.referenced, i)
                and not (table.retired != NULL and bit(table.retired, i))):
            return False
    if table.has_delta:
        for i in range(table.delta.header.frontend_bound):
            if frontends[i].flags & FRONTEND_WAITING and bit(delta_leads, i):
                return False
    return True


cdef bint join_delta(OpenTable* table, const uint8_t* records, uint64_t size, uint32_t frontend_count,
                     const OpenTable* previous) noexcept nogil:
    cdef uint8_t* leads = NULL
    cdef bint sound
    if not retired_locate(records, size, table.base.view.header.frontend_bound, &table.retired):
        return False
    if (<const ImageHeader*>records).sections[<int>ROUTES_HEADER].size:
        if not routes_locate(records, size, frontend_count, &table.delta, &leads):
            return False
        table.has_delta = True
        table.positions = positions_locate(records, size, table.delta.header.entry_count, table.base.view.header.entry_count)
    sound = leads_somewhere(table, records, leads)
    free(leads)
    return sound and (not table.has_delta or (table.positions != NULL and delta_regexps(table, previous)))


cdef RouteTable* route_table_join(RouteBase* base, const uint8_t* records, uint64_t size, uint32_t frontend_count,
                                  const RouteTable* previous) noexcept nogil:
    cdef OpenTable* table
    if (<OpenBase*>base).view.header.frontend_bound > frontend_count:
        return NULL
    table = <OpenTable*>calloc(1, sizeof(OpenTable))
    if table == NULL:
        return NULL
    base.references += 1
    table.base = <OpenBase*>base
    if not join_delta(table, records, size, frontend_count, <const OpenTable*>previous):
        route_table_close(&table.face)
        return NULL
    return &table.face


cdef RouteTable* route_table_open(const uint8_t* image, uint64_t size, uint32_t frontend_count) noexcept nogil:
    cdef RouteBase* base = route_base_open(image, size, frontend_count)
    cdef OpenTable* table = <OpenTable*>calloc(1, sizeof(OpenTable)) if base != NULL else NULL
    if table == NULL:
        route_base_release(base)
        return NULL
    table.base = <OpenBase*>base
    if not leads_somewhere(table, image, NULL):
        route_table_close(&table.face)
        return NULL
    return &table.face


cdef RouteBase* route_table_base(const RouteTable* table) noexcept nogil:
    return &(<OpenTable*>table).base.face


cdef void route_table_close(RouteTable* table) noexcept nogil:
    cdef uint32_t i
    cdef OpenTable* opened = <OpenTable*>table
    if table == NULL:
        return
    if opened.regexps != NULL:
        for i in range(opened.delta.header.regexp_count):
            if opened.regexps[i] == NULL:
                continue
            opened.regexps[i].references -= 1
            if opened.regexps[i].references == 0:
                pcre_free(opened.regexps[i].code)
                free(opened.regexps[i])
    free(opened.regexps)
    close_view(&opened.delta, False)
    route_base_release(&opened.base.face)
    free(opened)


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
