"""Random sequences of edits, a plain model of what they mean, and what of two images must be equal."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from bascule.change.edits import Edit
from bascule.model.tree import Backend, ConcurrencyLimit, Frontend, Listener, RateLimit, Record, Server, Tree

from .images import NO_INDEX, read_image

BAD_ROUTES = ["PathPrefix(`a`)", "Host(`a.com`) && Host(`b.com`)", "Nonsense("]
GOOD_ROUTES = [
    "PathPrefix(`/`)",
    "PathPrefix(`/a`)",
    "PathPrefix(`/a/`)",
    "Path(`/a`)",
    "Path(`/a/b`) || Path(`/b`)",
    "Path(`/a/<x>`)",
    "Path(`/a/<y>`)",
    "Path(`/a/<int:n>`)",
    "Path(`/a/<path:rest>`)",
    "PathPrefix(`/v<int:n>`)",
    "Host(`a.com`)",
    "Host(`a.com`) && PathPrefix(`/a`)",
    "Host(`*.a.com`) && PathPrefix(`/a`)",
    "Host(`<t>.a.com`) && Path(`/a/<x>`)",
    "Host(`<t>.a.com`)",
    "Host(`*.a.com`)",
    "Method(`GET`)",
    "PathPrefix(`/a`) && Method(`GET`)",
    "PathPrefix(`/a`) && Method(`GET`) && Header(`X-A`, `1`)",
    "PathPrefix(`/a`) && Header(`X-A`, `1`) && Method(`GET`)",
    "PathPrefix(`/a`) && Header(`X-B`, `<b>/c`)",
    "PathPrefix(`/a`) && !Method(`POST`)",
    "Query(`q`, `1`) || ClientIP(`10.0.0.0/8`)",
    "PathRegexp(`^/a/[0-9]+$`)",
    "PathRegexp(`^/a/[0-9]+$`) && HostRegexp(`^a[.]`)",
]
REQUESTS: list[dict[str, Any]] = [
    {"method": method, "host": host, "path": path, "headers": headers, "query": query}
    for method in ("GET", "POST")
    for host in ("", "a.com", "x.a.com", "y.x.a.com")
    for path in ("/", "/a", "/a/", "/a/b", "/a/7", "/a/b/c", "/b", "/v12/x")
    for headers, query in (([], ""), ([("x-a", "1"), ("x-b", "z/c")], "q=1"))
]

IDS = st.sampled_from(["a", "b", "b.b", "c", "d", "e-1"])
URLS = st.sampled_from(["http://10.0.0.1:80", "http://10.0.0.2:80", "http://app:80", "http://app.two:80", "unix:///a"])
SERVERS = st.builds(
    Server,
    url=URLS,
    weight=st.integers(0, 5),
    version=st.sampled_from(["", "1.0", "2"]),
    state=st.sampled_from(["up", "down"]),
)
BACKENDS = st.builds(Backend, connect_timeout=st.sampled_from(["1s", "2s"]), max_idle_connections=st.integers(0, 3))
MIDDLEWARES = st.one_of(
    st.builds(RateLimit, requests=st.integers(1, 9), period=st.just("1s"), order=st.integers(-1, 1)),
    st.builds(ConcurrencyLimit, max=st.integers(1, 9), key=st.just("request.header.x"), order=st.integers(-1, 1)),
)
LISTENERS = st.builds(
    Listener,
    address=st.sampled_from(["0.0.0.0:1", "unix:///l"]),
    trusted_proxies=st.lists(st.sampled_from(["10.0.0.0/8", "::1", "192.168.0.0/16"]), max_size=2).map(tuple),
    header_timeout=st.sampled_from(["1s", "2s"]),
)


def frontends(routes: list[str]) -> st.SearchStrategy[Frontend]:
    """Frontends with one of these routes; their backend may not exist."""
    return st.builds(
        Frontend,
        route=st.sampled_from(routes),
        backend=IDS,
        priority=st.sampled_from([0, 0, 0, 1]),
        max_body_bytes=st.sampled_from([0, 5]),
    )


def edit_of(kind: str, records: st.SearchStrategy[Any], owners: st.SearchStrategy[str] | None = None) -> Any:
    """Edits of one kind; every third removes."""
    return st.builds(
        Edit,
        kind=st.just(kind),
        id=IDS,
        record=st.one_of(records, records, st.none()),
        owner=owners if owners is not None else st.just(""),
    )


EDITS = st.one_of(
    edit_of("frontend", frontends(GOOD_ROUTES)),
    edit_of("frontend", frontends(GOOD_ROUTES + BAD_ROUTES)),
    edit_of("backend", BACKENDS),
    edit_of("server", SERVERS, IDS),
    edit_of("server", SERVERS, IDS),
    edit_of("middleware", MIDDLEWARES, IDS),
    edit_of("listener", LISTENERS),
)


class Model:
    """What a tree is after edits, by the words of change/edits.py."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Record]] = {"listener": {}, "backend": {}, "frontend": {}}
        self.below: dict[str, dict[str, dict[str, Record]]] = {"server": {}, "middleware": {}}

    def apply(self, edit: Edit) -> None:
        """Put or remove."""
        if edit.kind in self.below:
            owned = self.below[edit.kind].setdefault(edit.owner, {})
            if edit.record is None:
                owned.pop(edit.id, None)
            else:
                owned[edit.id] = edit.record
            return
        if isinstance(edit.record, Frontend) and edit.record.route in BAD_ROUTES:
            return
        if edit.record is not None:
            self.records[edit.kind][edit.id] = edit.record
            return
        self.records[edit.kind].pop(edit.id, None)
        if edit.kind != "listener":
            self.below["server" if edit.kind == "backend" else "middleware"].pop(edit.id, None)

    def tree(self) -> Tree:
        """The whole tree; what waits for its owner is not in it."""
        return Tree(
            listeners=dict(self.records["listener"]),  # type: ignore[arg-type]
            backends={
                name: msgspec.structs.replace(record, servers=dict(self.below["server"].get(name, {})))
                for name, record in self.records["backend"].items()
            },
            frontends={
                name: msgspec.structs.replace(record, middlewares=dict(self.below["middleware"].get(name, {})))
                for name, record in self.records["frontend"].items()
            },
        )


def content(image: bytes) -> dict[str, Any]:
    """What an image says, without numbers of records, tombstones and the order of frontends and backends."""
    read = read_image(image)
    backend_ids = {index: row["id"] for index, row in enumerate(read.backends)}
    servers, middlewares = [dict(row) for row in read.servers], [dict(row) for row in read.middlewares]
    for row in servers:
        for name in ("address_offset", "backend"):
            del row[name]
    found: dict[str, Any] = {"listeners": [], "backends": {}, "frontends": {}}
    for source in read.listeners:
        row = dict(source)
        first, count = row.pop("first_network"), row.pop("network_count")
        found["listeners"].append((row, read.networks[first : first + count]))
    for source in read.backends:
        row = dict(source)
        first, count = row.pop("first_server"), row["server_count"]
        if row["id"]:
            found["backends"][row["id"]] = (row, servers[first : first + count])
    for source in read.frontends:
        row = dict(source)
        first, count = row.pop("first_middleware"), row["middleware_count"]
        row["backend"] = None if row["backend"] == NO_INDEX else backend_ids[row["backend"]]
        if not row["flags"] & 2:
            assert row["id"] not in found["frontends"]
            found["frontends"][row["id"]] = (row, middlewares[first : first + count])
    return found


def frontend_names(image: bytes) -> list[bytes]:
    """Ids by index."""
    return [row["id"] for row in read_image(image).frontends]
