"""See pools.pxd."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy, memmove, memset

from bascule.change.encode cimport Authority, Encoder
from bascule.change.state cimport State, run_extend, tombstone
from bascule.change.tables cimport Table, table_add, table_at, table_free, table_init
from bascule.shared.snapshot cimport (
    NO_INDEX, SERVER_NAMED, BackendRecord, ListenerRecord, Network, ServerRecord, Str,
)


cdef inline BackendRecord* backend_at(State state, uint32_t index) noexcept:
    return <BackendRecord*>table_at(&state.backends, index)


cdef int compare_text(const char* a, uint32_t a_length, const char* b, uint32_t b_length) noexcept nogil:
    cdef int result = memcmp(a, b, min(a_length, b_length))
    return result if result else (a_length > b_length) - (a_length < b_length)


cdef void close_gap(Table* table, uint32_t record, uint32_t end) noexcept nogil:
    """Takes a record out of a run that ends at `end`; the last place becomes a tombstone."""
    memmove(table_at(table, record), table_at(table, record + 1), (end - record - 1) * table.record_size)
    tombstone(table, end - 1)


# ---- listeners: few, and nobody refers to them by number, so they are kept in order without tombstones


cdef int listener_put(State state, Encoder encoder, str id, listener) except -1:
    cdef Table* table = &state.listeners
    cdef ListenerRecord record
    cdef Network checked
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
    cdef ListenerRecord* place
    cdef uint32_t i = 0
    cdef int order = 1
    memset(&record, 0, sizeof(record))
    encoder.listener(&record, listener)
    for network in listener.trusted_proxies:
        encoder.network(&checked, network)
    while i < table.count:
        place = <ListenerRecord*>table_at(table, i)
        order = compare_text(text, <uint32_t>length, state.strings.texts.data + place.id.offset, place.id.length)
        if order <= 0:
            break
        i += 1
    if order != 0 or i == table.count:
        table_add(table, 1)
        memmove(table_at(table, i + 1), table_at(table, i), (table.count - 1 - i) * table.record_size)
        record.id = state.strings.place(text, <uint32_t>length, 1)
        record.stat_slot = encoder.number("listener", id)
    else:
        record.id = (<ListenerRecord*>table_at(table, i)).id
        record.stat_slot = (<ListenerRecord*>table_at(table, i)).stat_slot
    (<ListenerRecord*>table_at(table, i))[0] = record
    return lay_networks(state, encoder, i, listener.trusted_proxies)


cdef int listener_drop(State state, str id) except -1:
    cdef Table* table = &state.listeners
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
    cdef ListenerRecord* place
    cdef uint32_t i
    for i in range(table.count):
        place = <ListenerRecord*>table_at(table, i)
        if compare_text(text, <uint32_t>length, state.strings.texts.data + place.id.offset, place.id.length) == 0:
            memmove(place, place + 1, (table.count - 1 - i) * table.record_size)
            table.count -= 1
            return lay_networks(state, None, NO_INDEX, ())
    return 0


cdef int lay_networks(State state, Encoder encoder, uint32_t changed, tuple texts) except -1:
    """Writes the networks of all listeners anew, in their order; those of `changed` come from `texts`."""
    cdef Table old = state.networks
    cdef ListenerRecord* listener
    cdef uint32_t first, i
    table_init(&state.networks, sizeof(Network))
    try:
        for i in range(state.listeners.count):
            listener = <ListenerRecord*>table_at(&state.listeners, i)
            if i == changed:
                state.add_networks(encoder, listener, texts)
                continue
            first = listener.first_network
            listener.first_network = <uint32_t>state.networks.count
            if listener.network_count:
                memcpy(table_add(&state.networks, listener.network_count), table_at(&old, first),
                       listener.network_count * sizeof(Network))
    finally:
        table_free(&old)
    return 0


# ---- servers


cdef ServerRecord* server_place(State state, uint32_t backend, str id, bint* known) except NULL:
    """The server's record, or (not `known`) a zeroed one put where its id belongs."""
    cdef BackendRecord* record = backend_at(state, backend)
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
    cdef ServerRecord* server
    cdef uint32_t i
    cdef int order = 1
    for i in range(record.first_server, record.first_server + record.server_count):
        server = <ServerRecord*>table_at(&state.servers, i)
        order = compare_text(text, <uint32_t>length, state.strings.texts.data + server.id.offset, server.id.length)
        if order <= 0:
            break
    else:
        i = record.first_server + record.server_count
    known[0] = order == 0
    if known[0]:
        return <ServerRecord*>table_at(&state.servers, i)
    i -= record.first_server
    record.first_server = run_extend(&state.servers, record.first_server, record.server_count, &state.dead_records)
    server = <ServerRecord*>table_at(&state.servers, record.first_server + i)
    memmove(server + 1, server, (record.server_count - i) * sizeof(ServerRecord))
    memset(server, 0, sizeof(ServerRecord))
    record.server_count += 1
    server.backend = backend
    server.id = state.strings.place(text, <uint32_t>length, 1)
    state.live_servers += 1
    return server


cdef bint server_put(State state, Encoder encoder, addresses, uint32_t backend, str owner, str id, server) except -1:
    cdef Authority authority
    cdef ServerRecord* record
    cdef bint known = False
    encoder.authority(&authority, server.url)
    record = server_place(state, backend, id, &known)
    if not known:
        record.stat_slot = encoder.number("server", f"{owner}/{id}")
    if compare_text(authority.text, authority.length, state.strings.texts.data + record.authority.offset,
                    record.authority.length) != 0:
        record.authority = state.strings.place(authority.text, authority.length, 1)
        record.flags = SERVER_NAMED if authority.named else 0
        if authority.named:
            state.set_address(record, addresses.get(state.text(record.authority)))
        else:
            record.address = state.strings.place(<const char*>authority.sockaddr, authority.sockaddr_length, 8)
    encoder.server(record, server, state.strings)
    return record.address.length > 0


cdef int server_drop(State state, uint32_t backend, str id) except -1:
    cdef BackendRecord* record = backend_at(state, backend)
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(id, &length)
    cdef ServerRecord* server
    cdef uint32_t i
    for i in range(record.first_server, record.first_server + record.server_count):
        server = <ServerRecord*>table_at(&state.servers, i)
        if compare_text(text, <uint32_t>length, state.strings.texts.data + server.id.offset, server.id.length) == 0:
            close_gap(&state.servers, i, record.first_server + record.server_count)
            record.server_count -= 1
            state.live_servers -= 1
            state.dead_records += 1
            return 0
    return 0


cdef int servers_readdress(State state, dict changed) except -1:
    """Gives every server with one of these names its new address (None: none any more); how many there were."""
    cdef ServerRecord* record
    cdef dict placed = {}
    cdef Str none
    cdef int count = 0
    cdef uint32_t i
    none.offset = none.length = 0
    for i in range(state.servers.count):
        record = <ServerRecord*>table_at(&state.servers, i)
        if record.backend == NO_INDEX or not record.flags & SERVER_NAMED:
            continue
        authority = state.text(record.authority)
        if authority not in changed:
            continue
        count += 1
        if authority in placed:
            record.address = (<ServerRecord*>table_at(&state.servers, placed[authority])).address
        else:
            state.set_address(record, changed[authority])
            placed[authority] = i
    return count
