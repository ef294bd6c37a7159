"""The self-test of new workers: requests on private listeners, answered with the route that they would have taken.

Expected is what this master's own matcher finds in the same snapshot. A worker that routes otherwise, that answers what is not
HTTP, or nothing, fails the upgrade.
"""

from __future__ import annotations

import json
import os
import re
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from bascule.routing.ast import And, Not, Or, Predicate
from bascule.routing.errors import RouteError
from bascule.routing.expression import parse
from bascule.routing.match import Matcher
from bascule.routing.path import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bascule.process.master import Master
    from bascule.routing.ast import Expression

TIMEOUT_S: Final = 5.0
ROUTES_MAX: Final = 32
_ANSWER: Final = re.compile(rb"HTTP/1\.1 (200|404) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n[^:]+: (?:(\d+) )?").match
_HOST: Final = re.compile(r"[a-z0-9.-]{1,253}", re.IGNORECASE).fullmatch


class Request(msgspec.Struct, frozen=True):
    """One request of the test."""

    host: str
    path: str


def rehearse(master: Master, ports: Mapping[str, int], snapshot: Sequence[int]) -> tuple[int, list[str]]:
    """Test every worker (number to port of its listener); return how many requests were made, and what went wrong.

    `snapshot`: descriptors of the one that the workers have. This master's own may be older: it was greeted before them.
    """
    images = [_bytes(descriptor) for descriptor in snapshot]
    matcher = Matcher(images[0], images[1] if len(images) > 1 else None)
    requests = [Request("self-test.invalid", "/"), *_requests(_routes(master))]
    problems = []
    made = 0
    for number, port in sorted(ports.items()):
        for request in requests:
            made += 1
            problem = _ask(port, request, matcher)
            if problem:
                problems.append(f"worker {number}, GET {request.host}{request.path}: {problem}")
                break  # one that hangs would do so for every request
    return made, problems


def _ask(port: int, request: Request, matcher: Matcher) -> str:
    """Return what is wrong with a worker's answer; empty when it is right."""
    expected = matcher.match(host=request.host.lower(), path=request.path, client_ip="127.0.0.1").frontend
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(f"GET {request.path} HTTP/1.1\r\nHost: {request.host}\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
    except OSError as error:
        return f"no answer: {error}"
    match = _ANSWER(answer)
    if match is None:
        return f"what it answers is not expected: {answer[:80]!r}"
    found = int(match[2]) if match[1] == b"200" and match[2] else None
    return "" if found == expected else f"it goes to frontend {found} of the snapshot, not to {expected}"


def _bytes(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _routes(master: Master) -> Iterator[str]:
    """Yield some of the route expressions in force, spread over all of them."""
    loaded = master.loaded
    if loaded is None:
        return
    if not loaded.live:
        frontends = sorted(loaded.tree.frontends.items())
        yield from (frontend.route for _, frontend in frontends[:: max(1, len(frontends) // ROUTES_MAX)])
        return
    from bascule.process.live_boot import last_good

    reading = last_good(master)
    keys = sorted(key for key in reading.entries if key.startswith("frontends/")) if reading is not None else []
    for key in keys[:: max(1, len(keys) // ROUTES_MAX)]:
        assert reading is not None
        try:
            route = json.loads(reading.entries[key].value).get("route", "")
        except (ValueError, AttributeError):
            continue
        yield str(route)


def _requests(routes: Iterable[str]) -> Iterator[Request]:
    """Yield a request for each route that names a host or a path."""
    for route in routes:
        try:
            host, path = _literals(parse(route))
        except (RouteError, ValueError):
            continue
        if host or path:
            yield Request(host or "self-test.invalid", path or "/")


def _literals(expression: Expression) -> tuple[str, str]:
    """Return a host and a path that an expression names, empty where there is none that could be asked for as it stands."""
    if isinstance(expression, Predicate):
        argument = expression.args[0] if expression.args else ""
        if expression.name == "Host" and _HOST(argument):
            return argument, ""
        if expression.name in {"Path", "PathPrefix"} and canonical(argument.encode()) == argument.encode():
            return "", argument if re.fullmatch(r"/[A-Za-z0-9/._-]*", argument) else ""
        return "", ""
    if isinstance(expression, Not):
        return "", ""
    left, right = _literals(expression.left), _literals(expression.right)
    if isinstance(expression, Or):
        return left if left != ("", "") else right
    assert isinstance(expression, And)
    return left[0] or right[0], left[1] or right[1]
