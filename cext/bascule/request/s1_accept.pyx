"""See s1_accept.pxd.

Slots are level-triggered and one connection is accepted per report: the queue of one of many slots rarely holds more than one, and
an accept that only says EAGAIN costs as much as one that succeeds.
"""

from libc.errno cimport EBADF, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc

from bascule.engine.connection cimport conn_close, conn_open, conn_timeout
from bascule.engine.listeners cimport slot_poll
from bascule.engine.shed cimport shed_descriptor
from bascule.engine.system cimport (
    AF_INET,
    AF_INET6,
    EPOLL_CTL_DEL,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    accept4,
    close,
    epoll_ctl,
    memcpy,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    socklen_t,
    unlikely,
)
from bascule.engine.timers cimport timer_set
from bascule.engine.types cimport (
    ADDRESS_ROWS,
    CLIENT_IDLE,
    CONN_UNIX,
    READY_WRITE,
    SOURCE_CLIENT,
    Conn,
    ListenerRuntime,
    is_mapped_v4,
)
from bascule.shared.statistics cimport ERROR_OVERLOAD

cdef enum:
    RESUME_MS = 500               # pause after EMFILE: long enough for connections to end, short for those waiting


cdef void pause(Engine* engine, Slot* slot) noexcept nogil:
    # The queue stays in the kernel; polling it without a descriptor to spare would only spin. Taken out, not modified: the kernel
    # refuses to modify what was added with EPOLLEXCLUSIVE.
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, slot.fd, NULL)
    slot.paused = 1
    engine.accept_failures += 1
    timer_set(&engine.wheel, &engine.resume, RESUME_MS)


cdef void accept_resume(Engine* engine) noexcept nogil:
    cdef ListenerRuntime* listener = engine.listeners
    cdef Slot* slot
    while listener != NULL:
        slot = listener.slots
        while slot != NULL:
            if slot.paused:
                slot_poll(engine, slot)
                slot.paused = 0
            slot = slot.next
        listener = listener.next


cdef void keep_address(Conn* client, const sockaddr_storage* peer) noexcept nogil:
    cdef const sockaddr_in* v4 = <const sockaddr_in*>peer
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>peer
    if peer.ss_family == AF_INET:
        client.address[10] = client.address[11] = 0xFF
        memcpy(client.address + 12, &v4.sin_addr, 4)
        client.port = v4.sin_port
    elif peer.ss_family == AF_INET6:
        memcpy(client.address, &v6.sin6_addr, 16)
        client.port = v6.sin6_port
    else:
        client.flags |= CONN_UNIX


cdef bint count_address(Engine* engine, Conn* client, uint32_t maximum) noexcept nogil:
    """Counts the connection for its address (IPv6 by /64); False when the address has too many.

    A count-min sketch of two rows: bounded memory whatever addresses come; it may count too many for an address, by collision in both
    rows, never too few.
    """
    cdef uint32_t a = 2166136261
    cdef uint32_t b = 40503
    cdef uint32_t i
    cdef uint32_t length = 16 if is_mapped_v4(client.address) else 8
    cdef uint16_t* counts
    if engine.address_counts == NULL:
        engine.address_counts = <uint16_t*>calloc(2 * ADDRESS_ROWS, sizeof(uint16_t))
        if engine.address_counts == NULL:
            return True
    counts = engine.address_counts
    for i in range(length):
        a = (a ^ client.address[i]) * 16777619
        b = b * 31 + client.address[i] + (b >> 15)
    a = (a ^ (a >> 16)) & (ADDRESS_ROWS - 1)
    b = (b * <uint32_t>2654435761 ^ (b >> 13)) & (ADDRESS_ROWS - 1)
    if counts[a] >= maximum and counts[ADDRESS_ROWS + b] >= maximum:
        return False
    if counts[a] == 65535 or counts[ADDRESS_ROWS + b] == 65535:
        return False
    counts[a] += 1
    counts[ADDRESS_ROWS + b] += 1
    client.address_rows[0] = <uint16_t>a
    client.address_rows[1] = <uint16_t>b
    client.address_counted = 1
    return True


cdef void refuse(Engine* engine, ListenerRuntime* listener, Conn* client) noexcept nogil:
    listener.stats.errors[<uint32_t>ERROR_OVERLOAD] += 1
    conn_close(engine, client, False)


cdef void accept_ready(Engine* engine, Slot* slot) noexcept nogil:
    """Accepts one connection from the slot."""
    cdef sockaddr_storage peer
    cdef socklen_t size = sizeof(peer)
    cdef ListenerRuntime* listener = slot.listener
    cdef Conn* client
    cdef int fd = accept4(slot.fd, <sockaddr*>&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        # accept(2): errors of the connection, not of the socket, are to be treated like EAGAIN.
        if (errno == EMFILE or errno == ENFILE) and shed_descriptor(engine):
            return  # the slot is level-triggered: it is reported again at once
        if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM or errno == EINVAL or errno == EBADF:
            pause(engine, slot)
        return
    client = conn_open(engine, fd, SOURCE_CLIENT, CLIENT_IDLE)
    if unlikely(client == NULL):
        close(fd)
        engine.accept_failures += 1
        return
    client.listener = listener
    client.ready = READY_WRITE
    client.since_us = engine.now_us
    listener.connections += 1
    listener.stats.connections += 1
    listener.stats.connections_open += 1
    keep_address(client, &peer)
    if unlikely(listener.record.connections_max and listener.connections > listener.record.connections_max):
        refuse(engine, listener, client)
        return
    if listener.record.connections_per_address_max and not client.flags & CONN_UNIX:
        if not count_address(engine, client, listener.record.connections_per_address_max):
            refuse(engine, listener, client)
            return
    # A connection that never sends is held no longer than one that sends half a head.
    conn_timeout(engine, client, listener.record.header_timeout_ms)
