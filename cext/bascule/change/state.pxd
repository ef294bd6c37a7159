"""What a snapshot says, as growing records: filled from a tree, changed by edits, written to images.

Owner: one SnapshotCompiler (or one call of compile_snapshot). Records are those of the image (shared/snapshot.pxd), so writing an
image is copying. An index of a backend or frontend keeps its meaning until `folded` makes a State without garbage.

A run (the servers of a backend, the middlewares of a frontend) stands in one piece and in order. It grows into a tombstone behind
it, or moves to the end of its table with room for half as many more.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from bascule.change.encode cimport Encoder
from bascule.change.tables cimport Strings, Table, TextIndex
from bascule.routing.clauses cimport Clauses
from bascule.shared.seal cimport Part, SealedImage
from bascule.shared.snapshot cimport (
    BackendRecord, FrontendRecord, ListenerRecord, MiddlewareRecord, ServerRecord, Str,
)


cdef enum:
    RECORD_PARTS = 7              # strings and six tables: what `record_parts` fills

cdef enum SourceFlag:
    SOURCE_IN_BASE = 1            # the base has this very route of this frontend
    SOURCE_REJECTED = 2           # it cannot be compiled
    SOURCE_IN_DELTA = 4

cdef struct FrontendSource:       # what the records do not say of a frontend; texts are in State.texts
    Str route
    Str backend
    uint32_t flags                # SourceFlag

cdef class State:
    cdef Strings strings
    cdef Table listeners
    cdef Table backends
    cdef Table servers
    cdef Table frontends
    cdef Table middlewares
    cdef Table networks
    cdef Table sources            # FrontendSource, parallel to frontends
    cdef Table users              # uint32, parallel to backends: how many frontends lead to it
    cdef Strings texts
    cdef TextIndex backend_index
    cdef TextIndex frontend_index
    cdef bint indexed
    cdef uint64_t dead_records    # tombstones of all kinds
    cdef uint64_t live_backends
    cdef uint64_t live_servers
    cdef uint64_t live_frontends
    cdef uint64_t clean_bytes     # of strings and texts, when there was no garbage

    cdef int fill(self, Encoder encoder, tree, addresses, list unresolved, list waiting) except -1
    cdef int add_listener(self, Encoder encoder, str listener_id, listener) except -1
    cdef int add_networks(self, Encoder encoder, ListenerRecord* record, tuple texts) except -1
    cdef int fill_backends(self, Encoder encoder, dict backends, addresses, list unresolved) except -1
    cdef int fill_servers(self, Encoder encoder, str backend_id, dict servers, uint32_t backend, TextIndex* authorities,
                          addresses, list unresolved) except -1
    cdef int fill_frontends(self, Encoder encoder, dict frontends, list waiting) except -1
    cdef int set_address(self, ServerRecord* record, bytes sockaddr) except -1
    cdef list route(self, Clauses clauses)                   # all that can be; RejectedRoutes
    cdef void record_parts(self, Part* parts) noexcept
    cdef int load(self, SealedImage image) except -1         # records and strings from an image; sources and texts stay
    cdef void unload(self) noexcept                          # ... and away again, until they are needed
    cdef int index(self) except -1
    cdef State folded(self)
    cdef int fold_servers(self, State target, const BackendRecord* old, uint32_t backend, TextIndex* authorities) except -1
    cdef int fold_frontend(self, State target, uint32_t old, const uint32_t* backends) except -1
    cdef bint garbage_due(self) noexcept
    cdef str text(self, Str text)                            # of strings
    cdef str source_text(self, Str text)                     # of texts

# Room for one more record behind a run of `count`; where the run starts then. `dead` grows by the tombstones that it makes.
cdef uint32_t run_extend(Table* table, uint32_t first, uint32_t count, uint64_t* dead) except? 0xFFFFFFFF
cdef void tombstone(Table* table, uint32_t record) noexcept nogil
