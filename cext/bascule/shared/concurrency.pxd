"""How many exchanges of one key are under way on the whole host; keys are limits_hash's, the table is limits.pxd's.

acquire returns a handle >= 0 to be released exactly once, or -1 when the key is at its maximum. When the table has no room for one
more key, the request is admitted uncounted: a full table must not turn away those who are within their limits.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from bascule.shared.limits cimport LimitTable


cdef int64_t limits_acquire(LimitTable* table, uint64_t key, uint32_t concurrency_max) noexcept nogil
cdef void limits_release(LimitTable* table, int64_t handle) noexcept nogil
# An admission that goes on in another worker: the taker notes it as its own before the giver forgets it, and the entry keeps
# its count. A worker that dies in between has released what it noted: one request too many may pass, no key is locked.
cdef bint limits_note(LimitTable* table, int64_t handle) noexcept nogil    # False: it is no handle of this table
cdef void limits_forget(LimitTable* table, int64_t handle) noexcept nogil
cdef void release_all(LimitTable* table) noexcept nogil        # what a dead worker of the same number held
