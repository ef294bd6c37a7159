"""The tree of `bascule proxy` at a start, read with as little CPU as can be: 10,000 routes in 4 ms instead of 80.

`store.proxy` makes the tree of msgspec structs and says everything that is wrong; importing what it needs costs 30 ms.
This one takes only what is plainly in order and makes plain objects with the same fields, which the compiler reads in
the same way. Whatever it is not sure of, it leaves to `store.proxy`. Both give the same image.

The classes here (and PlainFrontend) are the only mirror of the records' defaults in model.tree: a field that is added
there is added here too, and tests/store/test_proxy.py compares all of them, both ways.
"""

from __future__ import annotations

from bascule.change.address import id_valid, literal_sockaddr, url_valid
from bascule.store.proxy_names import address_id, listen_address, prefix_id, server_url
from bascule.store.routes_file import PlainFrontend, read_plain_routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.model.tree import Tree


class PlainListener:
    """model.tree.Listener with the defaults of all fields but `address`."""

    __slots__ = ("address",)
    protocol = "http"
    trusted_proxies = ()
    header_timeout = "10s"
    keepalive_timeout = "75s"
    body_timeout = "30s"
    body_rate_min = 0
    max_header_bytes = "16KiB"
    max_uri_bytes = "8KiB"
    max_body_bytes = 0
    max_connections = 0
    max_connections_per_address = 0

    def __init__(self, address: str) -> None:
        """See the class."""
        self.address = address


class PlainServer:
    """model.tree.Server with the defaults of all fields but `url`."""

    __slots__ = ("url",)
    weight = 1
    version = ""
    state = "up"

    def __init__(self, url: str) -> None:
        """See the class."""
        self.url = url


class PlainBackend:
    """model.tree.Backend with the defaults of all fields but `servers`."""

    __slots__ = ("servers",)
    balance = "wrr"
    connect_timeout = "5s"
    response_timeout = "60s"
    idle_timeout = "60s"
    exchange_timeout = "0s"
    tunnel_timeout = "1h"
    keepalive_timeout = "60s"
    max_idle_connections = 512
    resolve_interval = "10s"
    health_check = None
    slow_start = "0s"

    def __init__(self, servers: dict[str, PlainServer]) -> None:
        """See the class."""
        self.servers = servers


class PlainStore:
    """model.tree.Store."""

    type = "file"
    watch = True
    poll_interval = "1s"
    path = ""
    history_revisions = 10_000
    history_age = "30d"
    endpoints = ("http://127.0.0.1:2379",)
    prefix = ""
    username = ""
    password_file = ""
    ca_file = ""
    cert_file = ""
    key_file = ""
    timeout = "5s"
    coalesce = "20ms"
    coalesce_max = "250ms"
    reconcile_interval = "5m"
    pool_loss_percent = 33
    pool_loss_window = "10s"
    tree_loss_percent = 33
    tree_loss_min = 10


class PlainSettings:
    """model.tree.Settings."""

    workers = 0
    slots = 0
    drain_timeout = "30s"
    access_log = "off"
    limits_memory = "64MiB"
    worker_memory = "512MiB"
    upgrade_probation = "5m"


class PlainTree:
    """model.tree.Tree, of the classes above. `source` is what it was made from: listen, to, text of the routes file."""

    __slots__ = ("backends", "frontends", "listeners", "source")
    hosts: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to a tree
    store = PlainStore()
    settings = PlainSettings()

    def __init__(
        self,
        listeners: dict[str, PlainListener],
        backends: dict[str, PlainBackend],
        frontends: dict[str, PlainFrontend],
        source: tuple[Sequence[str], Sequence[str], bytes],
    ) -> None:
        """See the class."""
        self.source = source
        self.listeners = listeners
        self.backends = backends
        self.frontends = frontends


class _DoubtfulError(Exception):
    """Something is wrong, or looks unusual."""


def plain_tree(listen: Sequence[str], to: Sequence[str], routes: str | None) -> PlainTree | None:
    """Return the tree of arguments as `store.proxy.tree_from_proxy_arguments` takes them, None when in doubt."""
    try:
        text = b""
        if routes is not None:
            with open(routes, "rb") as stream:
                text = stream.read()
        return plain_tree_of_text(listen, to, text)
    except (_DoubtfulError, OSError, ValueError):
        return None


def plain_tree_of_text(listen: Sequence[str], to: Sequence[str], text: bytes) -> PlainTree | None:
    """As `plain_tree`, from the text of a routes file; raises what plain_tree takes for doubt."""
    read = read_plain_routes(text, _pool, prefix_id)
    if read is None:
        return None
    backends, frontends = read
    if to:
        backends["proxy"] = _pool(list(to))
        frontends["proxy"] = PlainFrontend("PathPrefix(`/`)", "proxy")
    listeners = {address_id(address): PlainListener(listen_address(address)) for address in listen}
    sockaddrs = {literal_sockaddr(listener.address) for listener in listeners.values()}
    if None in sockaddrs or len(sockaddrs) != len(listen):
        return None
    return PlainTree(listeners, backends, frontends, (listen, to, text))


def typed_tree(tree: PlainTree) -> Tree:
    """Return a PlainTree as model.tree.Tree. Prefixes that share a pool share its Backend too."""
    from bascule.model.tree import Backend, Frontend, Listener, Server, Tree

    pools = {id(pool): pool for pool in tree.backends.values()}
    typed = {
        key: Backend(servers={name: Server(url=server.url) for name, server in pool.servers.items()})
        for key, pool in pools.items()
    }
    return Tree(
        listeners={name: Listener(address=listener.address) for name, listener in tree.listeners.items()},
        backends={name: typed[id(pool)] for name, pool in tree.backends.items()},
        frontends={name: Frontend(route=plain.route, backend=plain.backend) for name, plain in tree.frontends.items()},
    )


def _pool(addresses: list[str]) -> PlainBackend:
    servers = {address_id(address): PlainServer(server_url(address)) for address in addresses}
    if len(servers) != len(addresses) or not all(
        id_valid(name) and url_valid(server.url) for name, server in servers.items()
    ):
        raise _DoubtfulError
    return PlainBackend(servers)
