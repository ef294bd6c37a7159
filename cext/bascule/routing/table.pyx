"""Opens and closes routes (contract: table.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp
from posix.mman cimport munmap

from bascule.routing.layout cimport PREDICATE_HOST_REGEXP, ROUTES_HEADER, PredicateRecord
from bascule.routing.pcre cimport SUBJECT_BYTES_MAX, PcreCode, pcre_compile, pcre_free, pcre_scratch_free, pcre_scratch_new
from bascule.routing.verify cimport positions_locate, retired_locate, routes_locate
from bascule.routing.view cimport RouteView
from bascule.shared.snapshot cimport FRONTEND_WAITING, SECTION_FRONTENDS, FrontendRecord, ImageHeader


cdef enum:
    JIT_REGEXPS_MAX = 512         # compiling to machine code takes about 50 us each: beyond this many, PCRE2 interprets


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
