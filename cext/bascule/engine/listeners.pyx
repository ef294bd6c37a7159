"""See listeners.pxd."""

from libc.stdlib cimport calloc, free, malloc

from bascule.engine.system cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    close,
    epoll_ctl,
    epoll_event,
    memcmp,
    memcpy,
    memset,
)
from bascule.engine.types cimport SOURCE_SLOT
from bascule.shared.snapshot cimport LISTENER_UNIX, ListenerRecord, Network
from bascule.shared.statistics cimport StatBlock, statistics_block


cdef void set_defaults(Engine* engine, ListenerRuntime* listener) noexcept nogil:
    # A slot may be lent before the snapshot that names its listener is adopted.
    memset(&listener.record, 0, sizeof(ListenerRecord))
    listener.record.header_timeout_ms = 10000
    listener.record.keepalive_timeout_ms = 75000
    listener.record.body_timeout_ms = 30000
    listener.record.head_bytes_max = 16384
    listener.record.uri_bytes_max = 8192
    listener.stats = statistics_block(&engine.statistics, 0xFFFFFFFF)


cdef ListenerRuntime* listener_known(Engine* engine, const char* id, uint32_t length) noexcept nogil:
    cdef ListenerRuntime* listener = engine.listeners
    while listener != NULL:
        if listener.id_length == length and memcmp(listener.id, id, length) == 0:
            return listener
        listener = listener.next
    return NULL


cdef ListenerRuntime* listener_find(Engine* engine, const char* id, uint32_t length) noexcept nogil:
    cdef ListenerRuntime* listener = listener_known(engine, id, length)
    if listener != NULL:
        return listener
    if length > sizeof(listener.id):
        return NULL
    listener = <ListenerRuntime*>calloc(1, sizeof(ListenerRuntime))
    if listener == NULL:
        return NULL
    memcpy(listener.id, id, length)
    listener.id_length = length
    listener.rehearsal = id[0] == 42  # "*": no configured id begins so
    set_defaults(engine, listener)
    listener.next = engine.listeners
    engine.listeners = listener
    return listener


cdef int slot_poll(Engine* engine, Slot* slot) noexcept nogil:
    """Registers a slot's descriptor. 0, or -1 with errno."""
    cdef epoll_event event
    event.events = EPOLLIN
    # A Unix socket cannot be bound several times, so its one slot is polled by all workers: wake one of them.
    if slot.listener.record.flags & LISTENER_UNIX:
        event.events |= EPOLLEXCLUSIVE
    event.data.ptr = slot
    return epoll_ctl(engine.epoll_fd, EPOLL_CTL_ADD, slot.fd, &event)


cdef int listener_lend(Engine* engine, ListenerRuntime* listener, uint32_t number, int fd) noexcept nogil:
    cdef Slot* slot = listener.slots
    while slot != NULL:
        if slot.number == number:  # lent twice: the keeper repeats itself after a crash of the master
            close(fd)
            return 0
        slot = slot.next
    slot = <Slot*>calloc(1, sizeof(Slot))
    if slot == NULL:
        return -1
    slot.fd = fd
    slot.kind = SOURCE_SLOT
    slot.number = number
    slot.listener = listener
    if slot_poll(engine, slot) != 0:
        free(slot)
        return -1
    slot.next = listener.slots
    listener.slots = slot
    return 0


cdef void drop_slot(Engine* engine, Slot* slot) noexcept nogil:
    # EPOLL_CTL_DEL first: epoll reports a closed descriptor as long as any duplicate lives, and the keeper's does.
    epoll_ctl(engine.epoll_fd, EPOLL_CTL_DEL, slot.fd, NULL)
    close(slot.fd)
    free(slot)


cdef int listener_take_back(Engine* engine, ListenerRuntime* listener, uint32_t number) noexcept nogil:
    cdef Slot** at = &listener.slots
    cdef Slot* slot
    while at[0] != NULL:
        slot = at[0]
        if slot.number == number:
            at[0] = slot.next
            drop_slot(engine, slot)
            return 0
        at = &slot.next
    return -1


cdef void listeners_close(Engine* engine) noexcept nogil:
    """Gives up every slot; the queues live on in the keeper's descriptors."""
    cdef ListenerRuntime* listener = engine.listeners
    cdef Slot* slot
    while listener != NULL:
        while listener.slots != NULL:
            slot = listener.slots
            listener.slots = slot.next
            drop_slot(engine, slot)
        listener = listener.next


cdef void adopt_one(Engine* engine, ListenerRuntime* listener, const Snapshot* snapshot, const ListenerRecord* record) noexcept nogil:
    cdef Network* networks = NULL
    cdef StatBlock* stats
    listener.configured = True
    if record.network_count:
        networks = <Network*>malloc(record.network_count * sizeof(Network))
        if networks == NULL:
            return  # the old record stays in force: trusting fewer proxies is the safe side
        memcpy(networks, snapshot.networks + record.first_network, record.network_count * sizeof(Network))
    free(listener.networks)
    listener.networks = networks
    listener.network_count = record.network_count
    listener.record = record[0]
    stats = statistics_block(&engine.statistics, record.stat_slot)
    if stats != listener.stats:  # its open connections move with it
        listener.stats.connections_open -= listener.connections
        stats.connections_open += listener.connections
        listener.stats = stats


cdef bint listeners_adopt(Engine* engine, const Snapshot* snapshot) noexcept nogil:
    """True when a listener that the snapshot no longer names has open connections."""
    cdef ListenerRuntime* listener = engine.listeners
    cdef bint lapsed = False
    cdef const ListenerRecord* record
    cdef uint32_t i
    while listener != NULL:
        listener.lapsing = listener.configured
        listener.configured = False
        listener = listener.next
    for i in range(snapshot.listener_count):
        record = &snapshot.listeners[i]
        listener = listener_find(engine, snapshot.strings + record.id.offset, record.id.length)
        if listener != NULL:
            adopt_one(engine, listener, snapshot, record)
    listener = engine.listeners
    while listener != NULL:
        lapsed = lapsed or (listener.lapsing and not listener.configured and listener.connections > 0)
        listener = listener.next
    return lapsed


cdef void listeners_destroy(Engine* engine) noexcept nogil:
    cdef ListenerRuntime* listener
    listeners_close(engine)
    while engine.listeners != NULL:
        listener = engine.listeners
        engine.listeners = listener.next
        free(listener.networks)
        free(listener)
