"""What decoding cannot see: names, addresses, bounds between fields, and references between objects. Finds
everything at once.

The first pass asks cheap questions of all objects together (sets of distinct values, compiled predicates); only an
object that fails one is looked at field by field. That keeps ten thousand healthy backends at a few milliseconds.
"""

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from bascule.change.address import id_valid, literal_sockaddr, network_problem, url_valid
from bascule.change.validate_middleware import middleware_problems
from bascule.change.validate_store import store_problems
from bascule.model import limits
from bascule.model.problems import Path, Problem, did_you_mean
from bascule.model.quantities import duration_ms, size_bytes
from bascule.model.tree import (
    Backend,
    ConcurrencyLimit,
    Frontend,
    HealthCheck,
    Listener,
    Record,
    Server,
    Settings,
    Tree,
)

_ID_REMEDY: Final = f"use 1 to {limits.ID_LENGTH_MAX} of A-Z a-z 0-9 . _ -"
_LISTENER_TIMEOUTS: Final = ("header_timeout", "keepalive_timeout", "body_timeout")
_BACKEND_TIMEOUTS: Final = (
    "connect_timeout",
    "response_timeout",
    "idle_timeout",
    "exchange_timeout",
    "tunnel_timeout",
    "keepalive_timeout",
    "resolve_interval",
    "slow_start",
)
_BACKEND_TIMEOUTS_OF: Final[Callable[[Backend], tuple[str, ...]]] = operator.attrgetter(*_BACKEND_TIMEOUTS)
_MAY_BE_OFF: Final = frozenset({"exchange_timeout", "drain_timeout", "keepalive_timeout", "slow_start"})


def validate(tree: Tree, *, backends: Collection[str] | None = None, dangling: bool = False) -> list[Problem]:
    """Return everything that is wrong with a decoded tree, in the order of the tree.

    `backends` are the names that frontends may refer to when they are more than the tree's own (some did not decode).
    With `dangling`, a frontend whose backend does not exist is no problem: it waits (CompiledSnapshot.waiting).
    """
    problems: list[Problem] = []
    problems.extend(_listeners(tree.listeners))
    problems.extend(_hosts(tree))
    problems.extend(_backends(tree.backends))
    problems.extend(_frontends(tree, tree.backends if backends is None else backends, dangling))
    problems.extend(_settings(tree))
    return problems


def _bad_ids(ids: Collection[str], path: Path, what: str) -> Iterator[Problem]:
    if (
        not all(map(id_valid, ids)) or "." in ids or ".." in ids
    ):  # which no path of a URL can end in: RFC 3986 section 5.2.4
        for name in ids:
            if not id_valid(name) or name in (".", ".."):
                yield Problem(path=(*path, name), message=f"{name!r} cannot be the id of a {what}", remedy=_ID_REMEDY)


def _duration(record: Record, field: str, path: Path, most_ms: int = limits.DURATION_MAX_MS) -> Iterator[Problem]:
    text: str = getattr(record, field)
    value_ms = duration_ms(text)
    if value_ms > most_ms:
        yield Problem(
            path=(*path, field),
            message=f"{field} of {text} is longer than the longest possible, {most_ms // 1000}s",
            remedy="use a shorter duration",
        )
    if value_ms == 0 and field not in _MAY_BE_OFF:
        yield Problem(
            path=(*path, field),
            message=f"{field} cannot be zero: a silent peer would be held forever",
            remedy=f'use a long duration instead, at most "{limits.DURATION_MAX_MS // 3_600_000}h"',
        )


def _size(record: Record, field: str, path: Path, least: int, most: int) -> Iterator[Problem]:
    value = size_bytes(getattr(record, field))
    if not least <= value <= most:
        yield Problem(
            path=(*path, field),
            message=f"{field} of {value} bytes is outside {least} to {most}",
            remedy=f"use a size of at least {least} and at most {most} bytes",
        )


# ---- listeners


def _listeners(listeners: Mapping[str, Listener]) -> Iterator[Problem]:
    yield from _bad_ids(listeners.keys(), ("listeners",), "listener")
    seen: dict[bytes, str] = {}
    for name, listener in listeners.items():
        path = ("listeners", name)
        yield from _listener_address(listener, path, seen, name)
        for field in _LISTENER_TIMEOUTS:
            yield from _duration(listener, field, path)
        yield from _size(listener, "max_header_bytes", path, limits.HEADER_BYTES_MIN, limits.HEADER_BYTES_MAX)
        yield from _size(listener, "max_uri_bytes", path, limits.URI_BYTES_MIN, limits.HEADER_BYTES_MAX)
        yield from _listener_sizes(listener, path)
        for index, network in enumerate(listener.trusted_proxies):
            if problem := network_problem(network):
                yield Problem(
                    path=(*path, "trusted_proxies", str(index)),
                    message=f"{network!r} {problem}",
                    remedy="write ADDRESS/PREFIX with zeros after the prefix, or one address",
                )


def _listener_address(listener: Listener, path: Path, seen: dict[bytes, str], name: str) -> Iterator[Problem]:
    try:
        address = literal_sockaddr(listener.address)
    except ValueError:
        address = None
    if address is None:
        yield Problem(
            path=(*path, "address"),
            message=f"{listener.address!r} is not an address to listen on",
            remedy=_address_remedy(listener.address),
        )
    elif (other := seen.setdefault(address, name)) != name:
        yield Problem(
            path=(*path, "address"),
            message=f"{listener.address!r} is the address of listener {other!r} too",
            remedy="give one of them another address or remove it",
        )


def _address_remedy(address: str) -> str:
    host, _, port = address.rpartition(":")
    if port.isdecimal() and 0 < int(port) <= limits.PORT_MAX:
        if host in ("", "*"):
            return f'write "0.0.0.0:{port}" for IPv4 or "[::]:{port}" for IPv6'
        if ":" in host and not host.startswith("["):
            return f'write an IPv6 address in brackets: "[{host}]:{port}"'
        return f'write an IP address, not a name: "127.0.0.1:{port}"'
    if address.isdecimal():
        return f'write "0.0.0.0:{address}"'
    return 'write "ADDRESS:PORT" with a port of 1 to 65535, "[IPV6]:PORT" or "unix:///PATH" of at most 107 bytes'


def _listener_sizes(listener: Listener, path: Path) -> Iterator[Problem]:
    if size_bytes(listener.max_uri_bytes) > size_bytes(listener.max_header_bytes):
        yield Problem(
            path=(*path, "max_uri_bytes"),
            message="max_uri_bytes is larger than max_header_bytes, which the request target is a part of",
            remedy="lower max_uri_bytes or raise max_header_bytes",
        )


# ---- backends


def _hosts(tree: Tree) -> Iterator[Problem]:
    for name in tree.hosts:
        yield Problem(
            path=("hosts", name),
            message="TLS hosts are not served by this version",
            remedy="remove the table; routes choose by Host(...) in a frontend",
        )


def _backends(backends: Mapping[str, Backend]) -> Iterator[Problem]:
    yield from _bad_ids(backends.keys(), ("backends",), "backend")
    if not all(map(_backend_timeouts_ok, set(map(_BACKEND_TIMEOUTS_OF, backends.values())))):
        for name, backend in backends.items():
            for field in _BACKEND_TIMEOUTS:
                yield from _duration(backend, field, ("backends", name))
            yield from _resolve_interval(backend, ("backends", name))
    for name, backend in backends.items():
        if backend.health_check is not None:
            yield from _health_check(backend.health_check, ("backends", name, "health_check"))
        servers = backend.servers
        if len(servers) == 1:
            ((server_id, server),) = servers.items()
            if id_valid(server_id) and url_valid(server.url):
                continue
        if servers:
            yield from _servers(servers, ("backends", name, "servers"))


def _backend_timeouts_ok(timeouts: tuple[str, ...]) -> bool:
    fields: dict[str, Any] = dict(zip(_BACKEND_TIMEOUTS, timeouts, strict=True))
    backend = Backend(**fields)
    found: list[Problem] = []
    for field in _BACKEND_TIMEOUTS:
        found.extend(_duration(backend, field, ()))
    found.extend(_resolve_interval(backend, ()))
    return not found


def _resolve_interval(backend: Backend, path: Path) -> Iterator[Problem]:
    if 0 < duration_ms(backend.resolve_interval) < limits.RESOLVE_INTERVAL_MIN_MS:
        yield Problem(
            path=(*path, "resolve_interval"),
            message=f"resolve_interval of {backend.resolve_interval} would ask the name servers too often",
            remedy='use at least "1s"',
        )


def _health_check(check: HealthCheck, path: Path) -> Iterator[Problem]:
    yield from _duration(check, "timeout", path)
    yield from _duration(check, "interval", path)
    if 0 < duration_ms(check.interval) < limits.HEALTH_INTERVAL_MIN_MS:
        yield Problem(
            path=(*path, "interval"),
            message=f"interval of {check.interval} would ask the servers too often",
            remedy=f'use at least "{limits.HEALTH_INTERVAL_MIN_MS}ms"',
        )
    # Neither can end a line, and with it the request: what follows would be a request of its own.
    if not check.path.startswith("/") or not check.path.isascii() or not check.path.isprintable() or " " in check.path:
        yield Problem(
            path=(*path, "path"),
            message=f"{check.path!r} is not the target of a request",
            remedy='write a path and query in ASCII without spaces: "/health"',
        )
    if not check.host.isascii() or not check.host.isprintable() or " " in check.host:
        yield Problem(path=(*path, "host"), message=f"{check.host!r} is not a host name", remedy='write "app.internal"')


def _servers(servers: Mapping[str, Server], path: Path) -> Iterator[Problem]:
    yield from _bad_ids(servers.keys(), path, "server")
    if len(servers) > limits.SERVERS_PER_BACKEND_MAX:
        yield Problem(
            path=path,
            message=f"{len(servers)} servers are more than the {limits.SERVERS_PER_BACKEND_MAX} of one backend",
            remedy="split the pool over several backends",
        )
    seen: dict[str, str] = {}
    for name, server in servers.items():
        if not url_valid(server.url):
            yield Problem(
                path=(*path, name, "url"),
                message=f"{server.url!r} is not the url of a server",
                remedy=_url_remedy(server.url),
            )
        elif (other := seen.setdefault(server.url, name)) != name:
            yield Problem(
                path=(*path, name, "url"),
                message=f"{server.url!r} is the url of server {other!r} of this backend too",
                remedy="remove one of them; use `weight` to give a server a larger share",
                warning=True,
            )


def _url_remedy(url: str) -> str:
    if url.startswith("https://"):
        return "TLS to servers is not spoken by this version: use http://HOST:PORT"
    if "://" not in url:
        candidate = f"http://{url}"
        return f'write "{candidate}"' if url_valid(candidate) else 'write "http://HOST:PORT" or "unix:///PATH"'
    if url.startswith("http://"):
        authority, slash, _ = url[7:].partition("/")
        if slash and url_valid(f"http://{authority}"):
            return f'a server has no path: write "http://{authority}"'
        if url_valid(f"http://{authority}:80"):
            return f'the port is missing: write "http://{authority}:80"'
        if authority.count(":") > 1 and not authority.startswith("["):
            return "write an IPv6 address in brackets: http://[2001:db8::1]:8080"
    return 'write "http://HOST:PORT" with a port of 1 to 65535, or "unix:///PATH" of at most 107 bytes'


# ---- frontends


def _frontends(tree: Tree, backends: Collection[str], dangling: bool) -> Iterator[Problem]:
    yield from _bad_ids(tree.frontends.keys(), ("frontends",), "frontend")
    for name, frontend in tree.frontends.items():
        if frontend.backend not in backends and not dangling:
            yield _missing_backend(name, frontend, backends)
        if not frontend.route:
            yield Problem(
                path=("frontends", name, "route"),
                message="the route is empty",
                remedy="""write PathPrefix("/") to match every request""",
            )
        if frontend.middlewares:
            yield from _middlewares(frontend, ("frontends", name, "middlewares"))


def _missing_backend(name: str, frontend: Frontend, backends: Collection[str]) -> Problem:
    suggestion = did_you_mean(frontend.backend, backends) if len(backends) <= 2000 else ""
    return Problem(
        path=("frontends", name, "backend"),
        message=f"there is no backend {frontend.backend!r}",
        remedy=suggestion or f"add [backends.{frontend.backend}.servers.<id>] with a url, or name one that exists",
    )


def _middlewares(frontend: Frontend, path: Path) -> Iterator[Problem]:
    middlewares = frontend.middlewares
    yield from _bad_ids(middlewares.keys(), path, "middleware")
    if len(middlewares) > limits.MIDDLEWARES_PER_FRONTEND_MAX:
        yield Problem(
            path=path,
            message=f"{len(middlewares)} middlewares; one frontend has at most {limits.MIDDLEWARES_PER_FRONTEND_MAX}",
            remedy="remove some, or use `limits` to put several periods into one",
        )
    held = [name for name, middleware in middlewares.items() if isinstance(middleware, ConcurrencyLimit)]
    if len(held) > limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX:
        yield Problem(
            path=path,
            message=f"{len(held)} concurrency limits; one frontend has at most "
            f"{limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX}",
            remedy=f"remove {held[-1]!r} or another of them",
        )
    for name, middleware in middlewares.items():
        yield from middleware_problems(middleware, (*path, name))


# ---- the program


def _settings(tree: Tree) -> Iterator[Problem]:
    settings: Settings = tree.settings
    yield from _duration(settings, "drain_timeout", ("settings",), limits.DRAIN_MAX_MS)
    yield from _size(
        settings, "limits_memory", ("settings",), limits.LIMITS_MEMORY_MIN_BYTES, limits.LIMITS_MEMORY_MAX_BYTES
    )
    yield from _size(
        settings, "worker_memory", ("settings",), limits.WORKER_MEMORY_MIN_BYTES, limits.WORKER_MEMORY_MAX_BYTES
    )
    yield from store_problems(tree.store)
    log = settings.access_log
    if log not in ("off", "stderr") and (not log.startswith("/") or log.endswith("/") or "\0" in log):
        yield Problem(
            path=("settings", "access_log"),
            message=f"{log!r} is no place for the access log",
            remedy='use "off", "stderr", or the absolute path of a file',
        )
    if settings.slots and settings.slots < settings.workers:
        yield Problem(
            path=("settings", "slots"),
            message=f"{settings.slots} slots cannot feed {settings.workers} workers",
            remedy="use at least as many slots as workers, or 0",
        )
