"""Random configuration trees that are in order."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bascule.model.tree import (
    Backend,
    ConcurrencyLimit,
    Frontend,
    Listener,
    Rate,
    RateLimit,
    Server,
    Settings,
    Tree,
)

patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""For tests over trees: a busy machine is no failure."""

IDS = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda text: text not in {".", ".."})
DURATIONS = st.one_of(
    st.integers(1, 90_000).map(lambda number: f"{number}ms"),
    st.integers(1, 3600).map(lambda number: f"{number}s"),
    st.just("1m30s"),
)
PORTS = st.integers(1, 65535)
HOSTS = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda a: f"[{a}]"), st.just("app.internal"))
URLS = st.one_of(
    st.builds(lambda host, port: f"http://{host}:{port}", HOSTS, PORTS),
    st.text("abc/", min_size=1, max_size=20).map(lambda path: f"unix:///run/{path}x"),
)
SIZES = st.one_of(st.integers(2048, 16384), st.sampled_from(["2KiB", "8KiB", "16KiB"]))
KEYS = st.one_of(
    st.sampled_from(["client.ip", "request.host", "request.header.X-Key", "global"]),
    st.lists(st.sampled_from(["client.ip", "request.host", "request.header.x"]), min_size=1, unique=True).map(tuple),
)
RATES = st.builds(Rate, requests=st.integers(1, 10_000), period=DURATIONS, burst=st.none() | st.integers(1, 10_000))
MIDDLEWARES = st.one_of(
    st.builds(
        RateLimit,
        requests=st.integers(1, 10_000),
        period=DURATIONS,
        burst=st.none() | st.integers(1, 10_000),
        key=KEYS,
        order=st.integers(-5, 5),
    ),
    st.builds(RateLimit, limits=st.lists(RATES, min_size=1, max_size=4).map(tuple), key=KEYS),
    st.builds(ConcurrencyLimit, max=st.integers(1, 1000), key=KEYS, order=st.integers(-5, 5)),
)
SERVERS = st.builds(
    Server,
    url=URLS,
    weight=st.integers(0, 1000),
    version=st.text(max_size=10),
    state=st.sampled_from(["up", "draining", "down"]),
)
BACKENDS = st.builds(
    Backend,
    connect_timeout=DURATIONS,
    exchange_timeout=st.just("0s") | DURATIONS,
    max_idle_connections=st.integers(0, 1000),
    servers=st.dictionaries(IDS, SERVERS, max_size=3),
)
NETWORKS = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.sampled_from(["10.0.0.0/8", "2001:db8::/32"])
)


@st.composite
def listeners(draw: st.DrawFn) -> dict[str, Listener]:
    """Listeners with different addresses."""
    ports = draw(st.lists(PORTS, max_size=3, unique=True))
    return {
        draw(IDS): Listener(
            address=f"127.0.0.1:{port}",
            trusted_proxies=tuple(draw(st.lists(NETWORKS, max_size=3))),
            header_timeout=draw(DURATIONS),
            max_uri_bytes=2048,
            max_header_bytes=draw(SIZES),
            max_body_bytes=draw(st.integers(0, 1 << 40)),
        )
        for port in ports
    }


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree that validation finds nothing wrong with."""
    backends = draw(st.dictionaries(IDS, BACKENDS, min_size=1, max_size=4))
    frontends = draw(
        st.dictionaries(
            IDS,
            st.builds(
                Frontend,
                route=st.sampled_from(["PathPrefix(`/`)", "PathPrefix(`/a`)", "Host(`a.com`) && Path(`/x`)"]),
                backend=st.sampled_from(sorted(backends)),
                priority=st.integers(-1000, 1000),
                middlewares=st.dictionaries(IDS, MIDDLEWARES, max_size=3),
            ),
            max_size=4,
        )
    )
    return Tree(
        listeners=draw(listeners()),
        backends=backends,
        frontends=frontends,
        settings=Settings(workers=draw(st.integers(0, 8)), drain_timeout=draw(DURATIONS)),
    )
