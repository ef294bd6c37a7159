"""See s3_route.pxd."""

from libc.stdint cimport uint32_t
from libc.stdio cimport snprintf

from bascule.engine.system cimport memcpy, unlikely
from bascule.engine.types cimport HEADERS_MAX
from bascule.request.exchange cimport exchange_reply, snapshot_pin
from bascule.request.s9_account cimport account_route
from bascule.routing.match cimport HeaderSlice, RouteMatch, RouteRequest, RouteTable, route_match
from bascule.shared.snapshot cimport NO_INDEX, Snapshot
from bascule.shared.statistics cimport ERROR_NO_ROUTE, ERROR_TOO_LARGE


cdef void rehearse(Engine* engine, Exchange* x, const Snapshot* snapshot, uint32_t frontend) noexcept nogil:
    """Answers a request of the self-test with the frontend that it would have gone to: its index, and its id."""
    cdef char name[128]
    snprintf(name, sizeof(name), b"%u %.*s", <unsigned>frontend, <int>snapshot.frontends[frontend].id.length,
             snapshot.strings + snapshot.frontends[frontend].id.offset)
    exchange_reply(engine, x, 200, 0, name, NULL, 0)


cdef bint route(Engine* engine, Exchange* x, RequestView* view) noexcept nogil:
    """From here to its end the exchange lives by the snapshot current now."""
    cdef RouteRequest request
    cdef RouteMatch match
    cdef HeaderSlice headers[HEADERS_MAX]
    cdef uint32_t i
    cdef Snapshot* snapshot = engine.snapshot
    for i in range(x.head.count):
        headers[i].name.data = x.head.base + x.head.headers[i].name
        headers[i].name.length = x.head.headers[i].name_length
        headers[i].value.data = x.head.base + x.head.headers[i].value
        headers[i].value.length = x.head.headers[i].value_length
    request.host = view.host
    request.path = view.route_path
    request.query = view.query
    request.method = view.method
    request.headers = headers
    request.header_count = x.head.count
    memcpy(request.client_ip, x.client_ip, 16)
    route_match(<RouteTable*>snapshot.routes, &request, &match)
    if unlikely(match.frontend == NO_INDEX):
        exchange_reply(engine, x, 404, ERROR_NO_ROUTE, b"no route matches this request", NULL, 0)
        return False
    if unlikely(x.client.listener.rehearsal):
        rehearse(engine, x, snapshot, match.frontend)
        return False
    snapshot_pin(x, snapshot)
    x.frontend = &snapshot.frontends[match.frontend]
    x.backend = &snapshot.backends[x.frontend.backend]
    account_route(engine, x)
    if x.frontend.body_bytes_max:
        x.body_bytes_max = x.frontend.body_bytes_max
        if view.semantics.content_length > x.body_bytes_max:
            exchange_reply(engine, x, 413, ERROR_TOO_LARGE, b"the request body is larger than this frontend allows", NULL, 0)
            return False
    return True
