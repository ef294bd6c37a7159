"""The snapshot compiler: whole trees, and one edit after another. Docstrings: src/bascule/change/compile.pyi.

A whole tree gives a State (change/state.pxd) and a table of all routes. Edits (change/editing.pxd) change the State in place and
keep routes aside; publishing them is a copy of the State's sections. When too much has gathered aside or been left behind, the
State is folded into one without garbage, which says the same in the very bytes that a whole tree would give.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

from bascule.change.editing cimport Editing
from bascule.change.encode cimport Encoder
from bascule.change.sources cimport load_sources, pack_sources
from bascule.change.state cimport RECORD_PARTS, SOURCE_REJECTED, FrontendSource, State
from bascule.change.tables cimport table_at
from bascule.routing.clauses cimport Clauses
from bascule.routing.delta cimport BaseFrontends
from bascule.routing.layout cimport ROUTES_RETIRED
from bascule.routing.ranking cimport Ranking
from bascule.routing.trie cimport RouteTableSections, build_routes
from bascule.routing.verify cimport routes_locate
from bascule.routing.view cimport RouteView
from bascule.shared.seal cimport Part, SealedImage, adopt_image, pack_image, seal_image
from bascule.shared.snapshot cimport (
    FRONTEND_WAITING, IMAGE_RECORDS, IMAGE_ROUTES, IMAGE_WHOLE, NO_INDEX, SERVER_NAMED, FrontendRecord, ImageHeader, ServerRecord,
)

import os

from bascule.change.compiled import CompiledSnapshot, KeptImages

cdef enum:
    PARTS_MAX = 24


cdef uint32_t add_sections(Part* parts, uint32_t count, dict sections) except? 0xFFFFFFFF:
    """Appends byte sections, which the dict keeps alive; how many parts there are then."""
    for number in sorted(sections):
        parts[count].number = number
        parts[count].data = <const char*><bytes>sections[number]
        parts[count].size = len(<bytes>sections[number])
        count += 1
    return count


cdef ImageHeader new_header(uint32_t kind, uint64_t revision, uint64_t store_revision, uint64_t store_identity) noexcept:
    cdef ImageHeader header
    memset(&header, 0, sizeof(header))
    header.kind = kind
    header.revision = revision
    header.store_revision = store_revision
    header.store_identity = store_identity
    return header


cdef list conflicts_of(State state, pairs):
    """[(winner, loser)] as indices, to Conflicts, each once."""
    cdef FrontendRecord* winner
    cdef FrontendRecord* loser
    if not pairs:
        return []
    from bascule.routing.conflict import Conflict  # imports dataclasses: 20 ms of CPU

    found = []
    for first, second in dict.fromkeys(pairs):
        winner = <FrontendRecord*>table_at(&state.frontends, <uint32_t>first)
        loser = <FrontendRecord*>table_at(&state.frontends, <uint32_t>second)
        found.append(Conflict(first, second, state.text(winner.id), state.text(loser.id)))
    return found


def compile_snapshot(tree, *, uint64_t revision, slot, addresses, uint64_t store_revision=0, uint64_t store_identity=0):
    cdef State state = State()
    cdef Clauses clauses = Clauses()
    cdef ImageHeader header = new_header(IMAGE_WHOLE, revision, store_revision, store_identity)
    cdef Part[PARTS_MAX] parts
    cdef RouteTableSections routes
    cdef uint32_t count
    unresolved, waiting = [], []
    state.fill(Encoder(slot), tree, addresses, unresolved, waiting)
    rejected = state.route(clauses)
    routes = build_routes(clauses, False)
    state.record_parts(parts)
    count = add_sections(parts, RECORD_PARTS, routes.sections)
    return CompiledSnapshot(
        image=pack_image(&header, parts, count),
        revision=revision,
        conflicts=tuple(conflicts_of(state, routes.conflicts)),
        waiting=tuple(waiting),
        rejected=tuple(rejected),
        unresolved=tuple(sorted(set(unresolved))),
        listeners=state.listeners.count,
        backends=state.live_backends,
        servers=state.live_servers,
        frontends=state.live_frontends,
    )


@cython.internal
cdef class BaseView:
    """The newest routes base, mapped: conflicts of edited routes are looked up in it."""

    cdef RouteView view
    cdef void* mapped
    cdef uint64_t size

    def __cinit__(self, SealedImage image):
        self.mapped = NULL
        self.size = image.size
        cdef void* mapped = mmap(NULL, image.size, PROT_READ, MAP_SHARED, image.fd, 0)
        if mapped == MAP_FAILED:
            raise OSError(errno, os.strerror(errno), "the memfd of a snapshot")
        self.mapped = mapped
        if not routes_locate(<const uint8_t*>mapped, image.size, NO_INDEX, &self.view, NULL):
            raise ValueError("the compiler's own routes base does not hold together")

    def __dealloc__(self):
        if self.mapped != NULL:
            munmap(self.mapped, self.size)


cdef class SnapshotCompiler:
    cdef Encoder encoder
    cdef dict addresses
    cdef dict orphans
    cdef State state              # None: nothing compiled yet, or an error on the way
    cdef Editing editing          # None: no edit since the last full compilation
    cdef SealedImage records      # the newest; what an unloaded State is read from
    cdef SealedImage base
    cdef Ranking ranking
    cdef BaseView base_view       # None until an edit needs it
    cdef uint32_t base_bound      # frontends that the base knows

    def __cinit__(self, slot):
        self.encoder = Encoder(slot)
        self.orphans = {}
        self.addresses = {}

    # ---- everything

    def full(self, tree, *, uint64_t revision, addresses, uint64_t store_revision=0, uint64_t store_identity=0):
        cdef State state = State()
        self.state = None
        self.editing = None
        self.orphans = {}
        self.addresses = dict(addresses)
        unresolved, waiting = [], []
        state.fill(self.encoder, tree, self.addresses, unresolved, waiting)
        rejected, conflicts = self.seal_all(state, revision, store_revision, store_identity)
        compiled = self.result(state, revision, True, rejected, conflicts, waiting, unresolved, ())
        self.state = state
        state.unload()
        return compiled

    def fold(self, *, uint64_t revision, uint64_t store_revision=0, uint64_t store_identity=0):
        cdef State state
        self.load()
        state = self.state
        self.state = None         # an error on the way leaves nothing that could be relied on
        state = state.folded()
        rejected, conflicts = self.seal_all(state, revision, store_revision, store_identity)
        self.state = state
        self.editing = None
        return self.result(state, revision, True, rejected, conflicts, self.waiting, self.unresolved, ())

    cdef tuple seal_all(self, State state, uint64_t revision, uint64_t store_revision, uint64_t store_identity):
        """Compiles all routes to a new base, and seals both images; (rejected, conflicts)."""
        cdef Clauses clauses = Clauses()
        cdef ImageHeader header = new_header(IMAGE_ROUTES, revision, 0, 0)
        cdef Part[PARTS_MAX] parts
        cdef RouteTableSections routes
        cdef uint32_t count
        rejected = state.route(clauses)
        routes = build_routes(clauses, True)
        count = add_sections(parts, 0, routes.sections)
        self.base_view = None
        self.base = seal_image(&header, parts, count)
        self.ranking = routes.ranking
        self.base_bound = clauses.frontend_bound
        self.records = self.seal_records(state, {}, revision, store_revision, store_identity)
        return rejected, conflicts_of(state, routes.conflicts)

    cdef SealedImage seal_records(self, State state, dict sections, uint64_t revision, uint64_t store_revision,
                                  uint64_t store_identity):
        cdef ImageHeader header = new_header(IMAGE_RECORDS, revision, store_revision, store_identity)
        cdef Part[PARTS_MAX] parts
        header.base_sequence = self.base.revision
        header.base_size = self.base.size
        header.base_checksum = self.base.checksum
        state.record_parts(parts)
        return seal_image(&header, parts, add_sections(parts, RECORD_PARTS, sections))

    cdef object result(self, State state, uint64_t revision, bint full, rejected, conflicts, waiting, unresolved, refused):
        return CompiledSnapshot(
            records=self.records,
            base=self.base if full else None,
            full=full,
            revision=revision,
            conflicts=tuple(conflicts),
            waiting=tuple(waiting),
            rejected=tuple(rejected),
            rejected_edits=tuple(refused),
            unresolved=tuple(sorted(set(unresolved))),
            listeners=state.listeners.count,
            backends=state.live_backends,
            servers=state.live_servers,
            frontends=state.live_frontends,
        )

    # ---- kept, and gone on from

    @property
    def clean(self):
        return self.state is not None and self.editing is None and not any(self.orphans.values())

    def keep(self):
        if not self.clean:
            return None
        return KeptImages(self.records.duplicate(), self.base.duplicate(), pack_sources(self.state, self.ranking, self.base_bound),
                          dict(self.addresses))

    def restore(self, kept):
        cdef State state = State()
        cdef Ranking ranking = Ranking()
        self.state = None
        self.editing = None
        self.base_view = None
        self.orphans = {}
        self.addresses = dict(kept.addresses)
        self.records = adopt_image(os.dup(kept.records))
        self.base = adopt_image(os.dup(kept.base))
        self.base_bound = load_sources(kept.sources, state, ranking)
        self.ranking = ranking
        self.state = state
        return self.result(state, self.records.revision, True, (), (), (), (), ())

    # ---- edits

    cdef int load(self) except -1:
        if self.state is None:
            raise ValueError("nothing has been compiled that could be edited: compile a whole tree first")
        if self.state.backends.data == NULL and self.state.strings.texts.data == NULL:
            self.state.load(self.records)
        return 0

    cdef int begin(self) except -1:
        self.load()
        if self.editing is None:
            self.state.index()
            self.editing = Editing(self.state, self.encoder, self.addresses, self.base_bound, self.orphans)
        self.editing.begin()
        return 0

    def apply(self, edits, *, uint64_t revision, uint64_t store_revision=0, uint64_t store_identity=0, bint fold=True):
        cdef State state
        cdef Editing editing
        self.begin()
        state, editing = self.state, self.editing
        self.state = None         # an error on the way leaves nothing that could be relied on
        for edit in edits:
            editing.edit(edit.kind, edit.id, edit.record, edit.owner)
        if fold and (editing.routes_due() or state.garbage_due()):
            return self.apply_folded(state, editing, revision, store_revision, store_identity)
        sections, conflicts = self.changed_routes(state, editing)
        self.records = self.seal_records(state, sections, revision, store_revision, store_identity)
        self.state = state
        return self.edited(state, editing, revision, False, editing.rejected, conflicts)

    cdef object apply_folded(self, State state, Editing editing, uint64_t revision, uint64_t store_revision,
                             uint64_t store_identity):
        cdef State folded = state.folded()
        rejected, conflicts = self.seal_all(folded, revision, store_revision, store_identity)
        touched = {state.text((<FrontendRecord*>table_at(&state.frontends, <uint32_t>index)).id) for index in editing.touched}
        compiled = self.edited(state, editing, revision, True, [*editing.rejected, *rejected],
                               [found for found in conflicts if found.winner_id in touched or found.loser_id in touched])
        self.state = folded
        self.editing = None
        return compiled

    cdef object edited(self, State state, Editing editing, uint64_t revision, bint full, rejected, conflicts):
        cdef FrontendRecord* record
        waiting = set()
        for index in editing.waited:
            record = <FrontendRecord*>table_at(&state.frontends, <uint32_t>index)
            if record.flags == FRONTEND_WAITING:
                waiting.add(state.text(record.id))
        return self.result(state, revision, full, rejected, conflicts, sorted(waiting), editing.unresolved,
                           editing.rejected_edits)

    cdef tuple changed_routes(self, State state, Editing editing):
        """Sections 8..17 of a records image, and the conflicts of the frontends whose routes were edited."""
        cdef BaseFrontends base = editing.base_frontends()
        sections, pairs = editing.delta.build(self.ranking, &base)
        pairs = [pair for pair in pairs if pair[0] in editing.touched or pair[1] in editing.touched]
        if editing.touched and self.base_view is None:
            self.base_view = BaseView(self.base)
        for index in sorted(editing.touched):
            pairs += editing.delta.conflicts_with_base(index, &self.base_view.view, &base)
        if editing.retired_count:
            sections[ROUTES_RETIRED] = (<const char*>editing.retired)[:self.base_bound // 8 + 1]
        takers = {}               # of several equals the least id takes the requests, in whatever table it is
        for conflict in conflicts_of(state, pairs):
            known = takers.get(conflict.loser)
            if known is None or conflict.winner_id < known.winner_id:
                takers[conflict.loser] = conflict
        return sections, list(takers.values())

    @property
    def fold_due(self):
        return self.state is not None and self.editing is not None and (
            self.editing.routes_due() or self.state.garbage_due())

    def set_addresses(self, addresses):
        self.begin()
        changed = {name: address for name, address in addresses.items() if self.addresses.get(name) != address}
        changed.update((name, None) for name in self.addresses if name not in addresses)
        self.addresses.clear()
        self.addresses.update(addresses)
        return self.editing.readdress(changed) if changed else 0

    # ---- what waits

    @property
    def unresolved(self):
        cdef ServerRecord* record
        cdef uint32_t i
        cdef set found = set()
        self.load()
        for i in range(self.state.servers.count):
            record = <ServerRecord*>table_at(&self.state.servers, i)
            if record.flags & SERVER_NAMED and record.address.length == 0:
                found.add(self.state.text(record.authority))
        return tuple(sorted(found))

    @property
    def waiting(self):
        cdef FrontendRecord* record
        cdef uint32_t i
        cdef list found = []
        self.load()
        for i in range(self.state.frontends.count):
            record = <FrontendRecord*>table_at(&self.state.frontends, i)
            if record.flags == FRONTEND_WAITING and not (<FrontendSource*>table_at(&self.state.sources, i)).flags & SOURCE_REJECTED:
                found.append(self.state.text(record.id))
        return tuple(sorted(found))
