"""Which frontend gets a request, and which others would have: answered by the compiled matcher itself, so it cannot differ.

Contenders are found by compiling ever smaller parts of the table; their order by compiling the contenders together and
taking the winner away, again and again.
"""

from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

import msgspec

from bascule.model.tree import Tree
from bascule.routing.compile import RouteCompiler
from bascule.routing.errors import RouteError
from bascule.routing.explain import why_before
from bascule.routing.image import wrap_sections
from bascule.routing.match import Matcher
from bascule.routing.path import canonical
from bascule.routing.reference import Clause, Route, clauses_of, evaluate, ranked
from bascule.routing.reference import Request as PlainRequest


class RequestError(ValueError):
    """Not a request that could reach a route; the text says why."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What routing looks at, in its canonical form."""

    method: str
    host: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    client_ip: str | None = None


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A frontend whose route the request fits. `why` says what puts it behind the one before it."""

    frontend: str
    route: str
    priority: int
    backend: str
    params: dict[str, str]
    why: str


def make_request(method: str, url: str, headers: Sequence[tuple[str, str]], client_ip: str | None) -> Request:
    """Return the request in the form that routing sees; RequestError when it would be refused before."""
    parts = urlsplit(url if "://" in url or url.startswith("/") else f"http://{url}")
    host = next((value for name, value in headers if name.lower() == "host"), _authority(parts))
    path = canonical((parts.path or "/").encode())
    if path is None:
        raise RequestError(f"the path {parts.path!r} has no canonical form: such a request is answered with 400")
    return Request(
        method=method,
        host=_without_port(host).lower(),
        path=path.decode(),
        query=parts.query,
        headers=tuple(headers),
        client_ip=client_ip,
    )


def _authority(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def contenders(tree: Tree, request: Request, most: int = 10) -> list[Contender]:
    """Return the frontends whose routes the request fits, the winner first; at most `most` of them."""
    names = _fitting(tree, sorted(tree.frontends), request)
    ranking: list[Contender] = []
    while names and len(ranking) < most:
        match = _matches(tree, names, request)
        if match is None:
            break
        name, params = match
        frontend = tree.frontends[name]
        ranking.append(
            Contender(
                frontend=name,
                route=frontend.route,
                priority=frontend.priority,
                backend=frontend.backend,
                params=params,
                why=_why(tree, ranking[-1].frontend, name, request) if ranking else "",
            )
        )
        names.remove(name)
    return ranking


def _fitting(tree: Tree, names: Sequence[str], request: Request) -> list[str]:
    """Return which of some frontends fit, by halving those that have any: a table compiles faster than its routes alone."""
    if not names or _matches(tree, names, request) is None:
        return []
    if len(names) == 1:
        return [*names]
    middle = len(names) // 2
    return _fitting(tree, names[:middle], request) + _fitting(tree, names[middle:], request)


def _matches(tree: Tree, names: Sequence[str], request: Request) -> tuple[str, dict[str, str]] | None:
    """Return the winner among some frontends, with its parameters. Routes that do not compile or wait are left out."""
    compiler = RouteCompiler()
    added = 0
    for index, name in enumerate(names):
        frontend = tree.frontends[name]
        if frontend.backend not in tree.backends:
            continue
        try:
            compiler.add(index, name, frontend.route, frontend.priority)
        except RouteError:
            continue
        added += 1
    if not added:
        return None
    match = Matcher(wrap_sections(compiler.sections(), len(names))).match(
        method=request.method,
        host=request.host,
        path=request.path,
        query=request.query,
        headers=request.headers,
        client_ip=request.client_ip,
    )
    if match.frontend is None:
        return None
    return names[match.frontend], {key: value.decode("utf-8", "replace") for key, value in match.params.items()}


def _why(tree: Tree, winner: str, name: str, request: Request) -> str:
    before, after = tree.frontends[winner], tree.frontends[name]
    if before.priority != after.priority:
        return f"priority {after.priority} is below {before.priority}"
    compiler = RouteCompiler()
    compiler.add(0, winner, before.route, before.priority)
    compiler.add(1, name, after.route, after.priority)
    if compiler.conflicts():
        return f"the same route; the id {winner!r} comes first"
    first, second = _clause(tree, winner, request), _clause(tree, name, request)
    if first is None or second is None:
        return "its route is less specific"
    return f"{winner} comes first: {why_before(first, second)}"


def _clause(tree: Tree, name: str, request: Request) -> Clause | None:
    """The most specific alternative of a route that the request fits, as the plain matcher ranks them."""
    frontend = tree.frontends[name]
    route = Route(0, name, frontend.route, frontend.priority)
    asked = PlainRequest(
        request.method, request.host, request.path, request.query, tuple(request.headers), request.client_ip
    )
    return next((clause for clause in ranked(clauses_of(route)) if not evaluate(clause, asked)[1]), None)
