"""A parcel as the giver writes it: connections to one packet (handover.pxd), and the packet to the socket."""

from libc.stdint cimport uint32_t, uint64_t

from bascule.engine.types cimport Conn, Engine


cdef enum SendResult:
    SEND_SENT = 0
    SEND_FULL = 1                 # the socket takes no more until it is writable
    SEND_LATER = 2                # too many descriptors on their way, or no memory or descriptor for the payload
    SEND_BROKEN = 3               # nobody reads there

# Clients are CLIENT_GIVEN, tunnels with their server. Changes nothing but Engine.scratch. A SendResult.
cdef int parcel_send(Engine* engine, int fd, uint32_t sequence, Conn** clients, uint32_t count) noexcept nogil
cdef uint64_t pending_bytes(const Conn* client) noexcept nogil    # that go with it, all but names
