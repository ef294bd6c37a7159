"""The tree of `bascule proxy` at a start, read with as little CPU as can be: 10,000 routes in 20 ms instead of 80.

`store.proxy` makes the tree of msgspec structs and says everything that is wrong; importing what it needs costs 30 ms.
This one takes only what is plainly in order and makes plain objects with the same fields, which the compiler reads in
the same way. Whatever it is not sure of, it leaves to `store.proxy`. Both give the same image (tests/store).
"""

from __future__ import annotations

from bascule.change.address import id_valid, literal_sockaddr, url_valid
from bascule.store.proxy_names import PREFIX_LENGTH_MAX, address_id, listen_address, prefix_id, server_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.model.tree import Tree

_DOUBTFUL = "`<>\\\"'#"
"""Characters that a prefix cannot hold, or that may begin a comment."""


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


class PlainFrontend:
    """model.tree.Frontend with the defaults of all fields but `route` and `backend`."""

    __slots__ = ("backend", "route")
    priority = 0
    max_body_bytes = 0
    middlewares: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to a tree

    def __init__(self, route: str, backend: str) -> None:
        """See the class."""
        self.route = route
        self.backend = backend


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
    tree_loss_percent = 50
    tree_loss_min = 10


class PlainSettings:
    """model.tree.Settings."""

    workers = 0
    slots = 0
    drain_timeout = "30s"
    access_log = "off"
    limits_memory = "64MiB"


class PlainTree:
    """model.tree.Tree, of the classes above."""

    __slots__ = ("backends", "frontends", "listeners")
    hosts: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to a tree
    store = PlainStore()
    settings = PlainSettings()

    def __init__(
        self,
        listeners: dict[str, PlainListener],
        backends: dict[str, PlainBackend],
        frontends: dict[str, PlainFrontend],
    ) -> None:
        """See the class."""
        self.listeners = listeners
        self.backends = backends
        self.frontends = frontends


class _DoubtfulError(Exception):
    """Something is wrong, or looks unusual."""


def plain_tree(listen: Sequence[str], to: Sequence[str], routes: str | None) -> Any:
    """Return the PlainTree of arguments as `store.proxy.tree_from_proxy_arguments` takes them, None when in doubt."""
    backends: dict[str, PlainBackend] = {}
    frontends: dict[str, PlainFrontend] = {}
    try:
        if routes is not None:
            _read_routes(routes, backends, frontends)
        if to:
            backends["proxy"] = _pool(list(to))
            frontends["proxy"] = PlainFrontend("PathPrefix(`/`)", "proxy")
        listeners = {address_id(address): PlainListener(listen_address(address)) for address in listen}
        sockaddrs = {literal_sockaddr(listener.address) for listener in listeners.values()}
    except (_DoubtfulError, OSError, ValueError):
        return None
    return (
        PlainTree(listeners, backends, frontends) if None not in sockaddrs and len(sockaddrs) == len(listen) else None
    )


def typed_tree(tree: Any) -> Tree:
    """Return a PlainTree as model.tree.Tree."""
    import msgspec

    from bascule.model.tree import Tree

    return msgspec.convert(tree, Tree, from_attributes=True)


def _read_routes(file: str, backends: dict[str, PlainBackend], frontends: dict[str, PlainFrontend]) -> None:
    """Add a backend and a frontend for every line of a routes file."""
    with open(file, encoding="utf-8") as stream:
        text = stream.read()
    if any(character in text for character in _DOUBTFUL):
        raise _DoubtfulError
    pools: dict[str, PlainBackend] = {}
    for line in text.splitlines():
        words = line.split(None, 1)
        if len(words) != 2 or words[0][0] != "/" or len(words[0]) > PREFIX_LENGTH_MAX:
            if words:
                raise _DoubtfulError
            continue
        prefix, addresses = words
        name = prefix_id(prefix)
        if name in frontends:
            raise _DoubtfulError
        pool = pools.get(addresses)
        if pool is None:
            pool = pools[addresses] = _pool(addresses.split())
        backends[name] = pool
        frontends[name] = PlainFrontend(f"PathPrefix(`{prefix}`)", name)


def _pool(addresses: list[str]) -> PlainBackend:
    servers = {address_id(address): PlainServer(server_url(address)) for address in addresses}
    if len(servers) != len(addresses) or not all(
        id_valid(name) and url_valid(server.url) for name, server in servers.items()
    ):
        raise _DoubtfulError
    return PlainBackend(servers)
