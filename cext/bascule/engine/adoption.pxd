"""A snapshot's images mapped, checked and opened: what a worker does with the descriptors it was sent.

The Snapshot made here has one reference, the caller's; exchange.pyx gives the last one back.
"""

from libc.stdint cimport uint64_t

from bascule.shared.snapshot cimport Snapshot


# SNAPSHOT_OK and `out`, or a SnapshotFault, or -errno of mmap(2). `base_fd` is -1 when the base was not sent: then it must be
# the one that `previous`, the snapshot in force, has. Only what is new is mapped and checked. No descriptor is kept.
cdef int snapshot_adopt(Snapshot** out, int records_fd, uint64_t records_size, int base_fd, uint64_t base_size,
                        const Snapshot* previous) noexcept nogil
