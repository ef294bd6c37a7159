import socket
import struct
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.change.compile import compile_snapshot
from bascule.change.compiled import CompiledSnapshot
from bascule.model.quantities import duration_ms, duration_ns, size_bytes
from bascule.model.tree import Backend, ConcurrencyLimit, Frontend, Listener, Rate, RateLimit, Server, Tree
from bascule.routing.match import Matcher
from bascule.shared.snapshot import verify

from .images import NO_INDEX, read_image
from .trees import patient, trees


class Slots:
    """Identity numbers, in order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def __call__(self, kind: str, name: str) -> int:
        return self.numbers.setdefault((kind, name), 100 + len(self.numbers))


def compile_tree(
    tree: Tree, addresses: Mapping[str, bytes] | None = None, slots: Slots | None = None
) -> CompiledSnapshot:
    return compile_snapshot(tree, revision=7, slot=slots or Slots(), addresses=addresses or {})


def sockaddr(host: str, port: int) -> bytes:
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + packed + bytes(4)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def shuffled(tree: Tree, draw: st.DataObject) -> Tree:
    def reorder(value: dict[str, object]) -> dict[str, object]:
        return {key: value[key] for key in draw.draw(st.permutations(list(value)))}

    backends = {
        name: msgspec.structs.replace(backend, servers=reorder(dict(backend.servers)))
        for name, backend in tree.backends.items()
    }
    return msgspec.structs.replace(
        tree,
        listeners=reorder(dict(tree.listeners)),
        backends=reorder(backends),
        frontends=reorder(dict(tree.frontends)),
    )


@patient
@given(trees(), st.data())
def test_same_tree_same_bytes_in_whatever_order(tree: Tree, data: st.DataObject) -> None:
    slots = Slots()
    first = compile_tree(tree, slots=slots)
    assert verify(first.image) == 7
    assert compile_tree(shuffled(tree, data), slots=slots).image == first.image


@patient
@given(trees())
def test_every_object_is_in_the_image(tree: Tree) -> None:
    slots = Slots()
    compiled = compile_tree(tree, slots=slots)
    image = read_image(compiled.image)
    assert [record["id"].decode() for record in image.listeners] == sorted(tree.listeners)
    for record in image.listeners:
        listener = tree.listeners[record["id"].decode()]
        assert record["stat_slot"] == slots("listener", record["id"].decode())
        assert record["header_timeout_ms"] == duration_ms(listener.header_timeout)
        assert record["keepalive_timeout_ms"] == 75_000
        assert record["head_bytes_max"] == size_bytes(listener.max_header_bytes)
        assert record["body_bytes_max"] == size_bytes(listener.max_body_bytes)
        assert record["network_count"] == len(listener.trusted_proxies)
    assert [record["id"].decode() for record in image.backends] == sorted(tree.backends)
    for index, record in enumerate(image.backends):
        name = record["id"].decode()
        backend = tree.backends[name]
        assert record["connect_timeout_ms"] == duration_ms(backend.connect_timeout)
        assert record["exchange_timeout_ms"] == duration_ms(backend.exchange_timeout)
        assert record["idle_connections_max"] == backend.max_idle_connections
        servers = image.servers[record["first_server"] : record["first_server"] + record["server_count"]]
        assert [server["id"].decode() for server in servers] == sorted(backend.servers)
        for server in servers:
            configured = backend.servers[server["id"].decode()]
            assert server["backend"] == index
            assert server["weight"] == configured.weight
            assert server["state"] == ["up", "draining", "down"].index(configured.state)
            assert server["version"].decode() == configured.version
            assert server["authority"].decode() == configured.url.removeprefix("http://")
            assert server["stat_slot"] == slots("server", f"{name}/{server['id'].decode()}")
            assert server["address_offset"] % 8 == 0
            assert bool(server["address"]) != ("app.internal" in configured.url)
    for record in image.frontends:
        frontend = tree.frontends[record["id"].decode()]
        assert image.backends[record["backend"]]["id"].decode() == frontend.backend
        assert record["priority"] == frontend.priority
        middlewares = image.middlewares[record["first_middleware"] :][: record["middleware_count"]]
        expected = sorted((middleware.order, name) for name, middleware in frontend.middlewares.items())
        assert [middleware["id"].decode() for middleware in middlewares] == [name for _, name in expected]


def one_server(url: str) -> Tree:
    return Tree(backends={"b": Backend(servers={"s": Server(url=url)})})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.1.2.3:80", sockaddr("10.1.2.3", 80)),
        ("http://[2001:db8::7]:65535", sockaddr("2001:db8::7", 65535)),
        ("unix:///run/app.sock", struct.pack("=H", socket.AF_UNIX) + b"/run/app.sock\0"),
    ],
)
def test_literal_addresses(url: str, expected: bytes) -> None:
    assert read_image(compile_tree(one_server(url)).image).servers[0]["address"] == expected


def test_names_are_taken_from_the_resolved_addresses() -> None:
    tree = one_server("http://app.internal:80")
    unresolved = compile_tree(tree)
    assert unresolved.unresolved == ("app.internal:80",)
    assert read_image(unresolved.image).servers[0]["address"] == b""
    resolved = compile_tree(tree, {"app.internal:80": sockaddr("10.0.0.9", 80)})
    assert resolved.unresolved == ()
    assert read_image(resolved.image).servers[0]["address"] == sockaddr("10.0.0.9", 80)


def test_networks_are_ipv6_with_ipv4_mapped() -> None:
    networks = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")
    listeners = {"a": Listener(address="127.0.0.1:1"), "b": Listener(address="unix:///x/y", trusted_proxies=networks)}
    image = read_image(compile_tree(Tree(listeners=listeners)).image)
    mapped = bytes(10) + b"\xff\xff"
    assert image.networks == [
        (mapped + bytes([10, 0, 0, 0]), 104),
        (mapped + bytes([192, 0, 2, 1]), 128),
        (socket.inet_pton(socket.AF_INET6, "2001:db8::"), 32),
    ]
    assert [(record["first_network"], record["network_count"], record["flags"]) for record in image.listeners] == [
        (0, 0, 0),
        (0, 3, 1),
    ]


def with_middlewares(**middlewares: RateLimit | ConcurrencyLimit) -> Tree:
    frontend = Frontend(route="PathPrefix(`/`)", backend="b", middlewares=middlewares)
    return Tree(backends={"b": Backend()}, frontends={"f": frontend})


def test_rates_become_intervals_and_tolerances() -> None:
    limit = RateLimit(
        limits=(Rate(requests=100, period="1s", burst=200), Rate(requests=1000, period="1m30s")),
        key=("client.ip", "request.header.X-Api-Key"),
    )
    tree = with_middlewares(zz=limit, aa=ConcurrencyLimit(max=5, key="global", order=1))
    first, second = read_image(compile_tree(tree).image).middlewares
    assert first["id"] == b"zz", "order comes before id"
    assert first["rates"] == [(10_000_000, 10_000_000 * 199, 100, 1), (90_000_000, 90_000_000 * 999, 1000, 90)]
    assert (first["type"], first["key_parts"], first["key_header"]) == (1, 5, b"x-api-key")
    assert (second["type"], second["key_parts"], second["concurrency_max"]) == (2, 8, 5)


def test_a_middleware_keeps_its_identity_whatever_is_around_it() -> None:
    limit = RateLimit(requests=1, period="1s")
    alone = read_image(compile_tree(with_middlewares(m=limit)).image).middlewares[0]
    among = read_image(compile_tree(with_middlewares(a=limit, m=RateLimit(requests=9, period="1h"))).image).middlewares
    assert among[1]["identity"] == alone["identity"] != among[0]["identity"]


@patient
@given(st.integers(1, 10**9), st.sampled_from(["1ms", "1s", "1m", "1h", "1d"]))
def test_intervals_never_become_zero(requests: int, period: str) -> None:
    tree = with_middlewares(m=RateLimit(requests=requests, period=period))
    ((interval_ns, tolerance_ns, _, period_s),) = read_image(compile_tree(tree).image).middlewares[0]["rates"]
    assert interval_ns == max(1, duration_ns(period) // requests)
    assert tolerance_ns == interval_ns * (requests - 1)
    assert period_s >= 1


def test_frontends_without_backend_wait_and_bad_routes_are_left_out() -> None:
    tree = Tree(
        backends={"b": Backend()},
        frontends={
            "bad": Frontend(route="PathPrefx(`/`)", backend="b"),
            "good": Frontend(route="PathPrefix(`/good`)", backend="b"),
            "waits": Frontend(route="PathPrefix(`/`)", backend="later"),
        },
    )
    compiled = compile_tree(tree)
    assert compiled.waiting == ("waits",)
    (rejected,) = compiled.rejected
    assert (rejected.frontend, rejected.expression) == ("bad", "PathPrefx(`/`)")
    assert rejected.remedy
    frontends = read_image(compiled.image).frontends
    assert [(record["backend"], record["flags"]) for record in frontends] == [(NO_INDEX, 1), (0, 0), (NO_INDEX, 1)]
    assert verify(compiled.image) == 7
    matcher = Matcher(compiled.image)
    assert matcher.match(path="/good/x").frontend == 1
    assert matcher.match(path="/other").frontend is None


def test_equal_routes_are_reported() -> None:
    route = Frontend(route="Host(`a.com`)", backend="b")
    compiled = compile_tree(Tree(backends={"b": Backend()}, frontends={"y": route, "x": route}))
    assert [(conflict.winner_id, conflict.loser_id) for conflict in compiled.conflicts] == [("x", "y")]


def test_identities_do_not_move_when_objects_come_and_go() -> None:
    slots = Slots()
    small = one_server("http://10.0.0.1:1")
    before = read_image(compile_tree(small, slots=slots).image).servers[0]["stat_slot"]
    backends = {"a": Backend(servers={"s": Server(url="http://10.0.0.1:1")}), **small.backends}
    grown = read_image(compile_tree(Tree(backends=backends), slots=slots).image)
    after = {server["backend"]: server["stat_slot"] for server in grown.servers}
    assert after[1] == before


@pytest.mark.parametrize(
    "tree",
    [
        one_server("http://10.0.0.1"),
        Tree(listeners={"a": Listener(address="127.0.0.1:1", trusted_proxies=("x",))}),
        with_middlewares(m=RateLimit(requests=1, period="1s", key="nonsense")),
        with_middlewares(m=RateLimit(limits=(Rate(requests=1, period="1s"),) * 5)),
    ],
)
def test_what_validation_refuses_is_an_error_not_a_bad_image(tree: Tree) -> None:
    with pytest.raises(ValueError, match=r"x|nonsense|10\.0\.0\.1|four"):
        compile_tree(tree)


def test_strings_stand_once_in_the_image() -> None:
    servers = {f"s{index}": Server(url="http://10.0.0.1:8080", version="the-same-version") for index in range(50)}
    image = compile_tree(Tree(backends={name: Backend(servers=servers) for name in "abc"})).image
    assert image.count(b"the-same-version") == 1
    assert image.count(b"10.0.0.1:8080") == 1
