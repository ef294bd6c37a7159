"""One object of vulcand as one of ours: hosts, listeners, backends, servers, frontends, middlewares.

What is refused is what would do another thing than its author meant, or would be less safe without a part that we do not
have. What merely is left out is told as a warning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bascule.model import limits
from bascule.model.problems import Path, Problem
from bascule.model.refusal import refusal_value
from bascule.store.vulcand.golang import Fields, listen_address
from bascule.store.vulcand.routes import UntranslatableError, translate_route

_ID: Final = re.compile(limits.ID_PATTERN).fullmatch
_VARIABLE: Final = re.compile(r"client\.ip|request\.host|request\.header\.[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


class Translation(msgspec.Struct):
    """What became of one object: its value (a refusal, if that is what it is), and what its author should know."""

    value: bytes
    problems: tuple[Problem, ...] = ()

    @property
    def refused(self) -> bool:
        """Tell whether it is not served."""
        return any(not problem.warning for problem in self.problems)


class RefusedObjectError(Exception):
    """This object cannot be served."""

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class _Notes:
    """Warnings about one object, as they come up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def warn(self, message: str, remedy: str = "") -> None:
        self.problems.append(Problem(path=self.path, message=message, remedy=remedy, warning=True))


def safe_id(name: str) -> str:
    """Return the id of ours for a name of vulcand's: itself, or one that is no other's when ours may not hold it."""
    if _ID(name):
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)[: limits.ID_LENGTH_MAX - 9]}-{digest}"


def translate(kind: str, key: str, value: bytes) -> Translation:
    """Translate one object. `kind` is host, listener, backend, server, frontend or middleware, `key` our key of it."""
    notes = _Notes(tuple(key.split("/")))
    try:
        fields = Fields.parse(value)
        return Translation(msgspec.json.encode(_TRANSLATORS[kind](fields, notes)), tuple(notes.problems))
    except (RefusedObjectError, UntranslatableError) as error:
        problem = Problem(path=notes.path, message=str(error), remedy=error.remedy)
    except ValueError as error:
        problem = Problem(
            path=notes.path, message=str(error), remedy="vulcand does not take it either: put it again with vctl"
        )
    except Exception as error:  # a value that a rule cannot bear is this object's problem, and nobody else's
        problem = Problem(
            path=notes.path,
            message=f"it cannot be translated: {type(error).__name__}: {error}"[:400],
            remedy="put it again with vctl; if vulcand takes it, report this",
        )
    return Translation(refusal_value((problem,)), (problem,))


def _host(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    raise RefusedObjectError(
        "TLS hosts are not served by this version",
        "let something in front end TLS; routes choose by Host(...) in a frontend, whether there is a host or not",
    )


def _listener(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    protocol = fields.text("Protocol").lower()
    if protocol == "https":
        raise RefusedObjectError("https listeners are not served by this version", "let something in front end TLS")
    if protocol != "http":
        raise RefusedObjectError(f"{protocol!r} is no protocol of a listener", 'use "http"')
    if fields.text("Scope"):
        raise RefusedObjectError(
            "Scope is not known here, and without it the listener would serve more than it should",
            "put the scope's conditions into the frontends' routes, and remove Scope",
        )
    if fields.text("ProxyProtocol").upper() not in ("", "NONE"):
        raise RefusedObjectError(
            "the PROXY protocol is not spoken here, its first line would be taken for a bad request",
            'let what is in front send X-Forwarded-For, set ProxyProtocol to "NONE", and name it in trusted_proxies',
        )
    address = fields.inner("Address")
    network, text = address.text("Network").lower(), address.text("Address")
    if network == "unix":
        return {"address": f"unix://{text}"}
    if network != "tcp":
        raise RefusedObjectError(f"{network!r} is no network of a listener", 'use "tcp" or "unix"')
    ours, lost = listen_address(text)
    if lost:
        notes.warn(lost)
    return {"address": ours}


def _backend(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    _http_type(fields)
    settings = fields.inner("Settings")
    timeouts, keepalive = settings.inner("Timeouts"), settings.inner("KeepAlive")
    found: dict[str, Any] = {}
    for name, ours in (("Dial", "connect_timeout"), ("Read", "response_timeout")):
        value_ms = timeouts.duration_ms(name)
        if value_ms is not None:
            found[ours] = f"{_bounded_ms(value_ms, f'Timeouts.{name}', notes)}ms"
    idle = keepalive.integer("MaxIdleConnsPerHost")
    if idle:
        found["max_idle_connections"] = min(max(idle, 0), limits.IDLE_CONNECTIONS_MAX)
    if timeouts.has("TLSHandshake") or settings.has("TLS"):
        notes.warn("TLS to servers is not spoken here: TLSHandshake and TLS are left out")
    return found


def _bounded_ms(value_ms: int, name: str, notes: _Notes) -> int:
    if 0 < value_ms <= limits.DURATION_MAX_MS:
        return value_ms
    if value_ms > 0:
        notes.warn(f"{name} is longer than the longest possible, and cut to that")
    else:
        notes.warn(f"{name} is no time limit at all; here it is the longest possible, a week")
    return limits.DURATION_MAX_MS


def _http_type(fields: Fields) -> None:
    kind = fields.text("Type")
    if kind != "http":
        raise RefusedObjectError(f'{kind!r} is no Type that vulcand takes, only "http" is', 'put it again with "http"')


def _server(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    text = fields.text("URL")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RefusedObjectError(f"{text!r} is no URL: {error}", 'write it as "http://HOST:PORT"') from None
    if parts.scheme == "https":
        raise RefusedObjectError("https to servers is not spoken by this version", "give the server an http address")
    if parts.scheme != "http" or not host:
        raise RefusedObjectError(f"{text!r} is not the URL of a server", 'write it as "http://HOST:PORT"')
    if parts.path.strip("/") or parts.query:
        notes.warn(f"only host and port of {text!r} count, as in vulcand")
    return {"url": f"http://{f'[{host}]' if ':' in host else host}:{port or 80}"}


def _frontend(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    _http_type(fields)
    backend = fields.text("BackendId")
    if not backend:
        raise RefusedObjectError("it names no backend", "set BackendId")
    settings = fields.inner("Settings")
    found: dict[str, Any] = {"route": translate_route(fields.text("Route")), "backend": safe_id(backend)}
    if len(found["route"].encode()) > limits.ROUTE_BYTES_MAX:
        raise RefusedObjectError(f"the route has more than {limits.ROUTE_BYTES_MAX} bytes", "split it")
    body_bytes = settings.inner("Limits").integer("MaxBodyBytes")
    if body_bytes > 0:
        found["max_body_bytes"] = min(body_bytes, 1 << 50)
    if settings.text("FailoverPredicate"):
        notes.warn(
            "FailoverPredicate is left out: a request is repeated once, and only when a reused connection died before "
            "the response began"
        )
    if settings.flag("TrustForwardHeader"):
        notes.warn(
            "TrustForwardHeader is left out: X-Forwarded-* of clients are replaced",
            "name the networks in front in trusted_proxies of the listener",
        )
    if settings.text("Hostname"):
        notes.warn("Hostname is left out: no X-Forwarded-Server is sent")
    if not settings.flag("PassHostHeader"):
        notes.warn("servers get the client's Host header, as with PassHostHeader; vulcand would send their own address")
    return found


def _middleware(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    kind, inner = fields.text("Type"), fields.inner("Middleware")
    order = max(-limits.PRIORITY_MAX, min(fields.integer("Priority"), limits.PRIORITY_MAX))
    found = _MIDDLEWARES[kind](inner, notes)
    return {**found, "order": order} if order else found


def _rate_limit(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    requests, period_s, burst = fields.integer("Requests"), fields.integer("PeriodSeconds"), fields.integer("Burst")
    if requests <= 0 or period_s <= 0 or burst < 0:
        raise RefusedObjectError("Requests and PeriodSeconds must be above 0", "put it again with vctl")
    if burst == 0:
        notes.warn("Burst 0 makes vulcand answer 404 for the whole frontend; here it is 1", "set Burst")
    if fields.text("RateVar"):
        notes.warn("RateVar is left out: the rate is always Requests in PeriodSeconds")
    return {
        "type": "rate_limit",
        "requests": min(requests, limits.REQUESTS_MAX),
        "period": f"{min(period_s, limits.PERIOD_MAX_MS // 1000)}s",
        "burst": min(max(burst, 1), limits.BURST_MAX),
        "key": _variable(fields),
    }


def _concurrency_limit(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
    connections = fields.integer("Connections")
    if connections <= 0:
        raise RefusedObjectError(
            "Connections 0 lets nobody in, which no limit here says", "remove the frontend, or let somebody in"
        )
    return {
        "type": "concurrency_limit",
        "max": min(connections, limits.CONCURRENCY_MAX),
        "key": _variable(fields),
    }


def _variable(fields: Fields) -> str:
    variable = fields.text("Variable")
    if not _VARIABLE(variable):
        raise RefusedObjectError(
            f"{variable!r} is no variable that vulcand knows", "use client.ip, request.host or request.header.<Name>"
        )
    return variable


def harmless_without(value: bytes) -> str:
    """Return the type of a middleware that is left out though its frontend is served, empty when it is not one.

    A breaker protects servers and a trace tells of requests: without either, each request is answered as its author
    meant. A rewrite decides what a server is asked for, a middleware of one's own may be what asks for a password, and
    a limit that cannot be read may be what keeps everybody out: a frontend is not served without them.
    """
    try:
        kind = Fields.parse(value).text("Type")
    except ValueError:
        return ""
    return kind if kind in ("cbreaker", "trace") else ""


_TRANSLATORS: Final[dict[str, Callable[[Fields, _Notes], Mapping[str, Any]]]] = {
    "host": _host,
    "listener": _listener,
    "backend": _backend,
    "server": _server,
    "frontend": _frontend,
    "middleware": _middleware,
}


def _left_out(name: str) -> Callable[[Fields, _Notes], Mapping[str, Any]]:
    def translate_none(fields: Fields, notes: _Notes) -> Mapping[str, Any]:
        raise RefusedObjectError(f"there is no match for {name} yet; the frontend is served without it", "")

    return translate_none


class _Middlewares(dict[str, Callable[[Fields, _Notes], Mapping[str, Any]]]):
    def __missing__(self, kind: str) -> Callable[[Fields, _Notes], Mapping[str, Any]]:
        raise RefusedObjectError(
            f"there is no match for a middleware of type {kind!r}, and its frontend is not served without it: it may "
            "decide who is let in, or what the servers are asked for",
            "remove the middleware if the frontend may be served without it",
        )


_MIDDLEWARES: Final = _Middlewares(
    ratelimit=_rate_limit,
    connlimit=_concurrency_limit,
    cbreaker=_left_out("circuit breakers"),
    trace=_left_out("trace logs"),
)
