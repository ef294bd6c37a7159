"""A parcel as the taker reads it: received, and every length and enumeration checked (handover.pxd)."""

from libc.stdint cimport uint8_t, uint32_t

from bascule.engine.handover cimport ParcelHeader, Preamble, Record
from bascule.engine.types cimport Conn, Engine


cdef struct Delivery:
    # One received packet being looked at. Owner: testator_event's stack.
    const Preamble* preamble
    const ParcelHeader* header
    const Record* records
    const char* payload           # inline
    int file                      # or the memfd it is in, -1
    bint same_statistics          # the region is ours too: numbers of objects mean the same here
    bint same_limits
    int descriptors[253]          # DESCRIPTORS_MAX; -1: has found its place
    uint32_t descriptor_count
    Conn* taken[100]              # PARCEL_MAX
    uint32_t taken_count

# A packet into Engine.scratch, its descriptors into `d`. Its length; 0 at the end; -1 nothing now; -2 too long to be one of ours.
cdef ssize_t delivery_receive(Engine* engine, int fd, Delivery* d) noexcept nogil
cdef bint is_parcel(Delivery* d, const char* data, ssize_t length) noexcept nogil    # holds together as a whole; fills `d`
cdef bint is_record(const Engine* engine, const Delivery* d, const Record* r) noexcept nogil    # every number of it can be used
cdef bint is_stream(int fd) noexcept nogil
cdef bint read_payload(const Delivery* d, uint32_t at, char* to, uint32_t length) noexcept nogil
