"""The plain matcher: the meaning of a route table, written to be read, not to be fast.

It works on the parsed expression alone and shares no code with the compiled matcher but the parser, so that each checks
the other (tests/routing/test_reference.py). `bascule explain` uses it too, because it can say why.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from bascule.routing.ast import And, Expression, Not, Or, Predicate
from bascule.routing.expression import parse

# How specific a segment is: the position of its kind here. Compared one after the other, from the root of the path or
# the right end of the host on; the last element of a pattern is what may follow it.
KINDS = ("", "anything may follow", "more must follow", "string", "int", "string with text", "int with text", "literal")
EXACT_HOST = (len(KINDS),)
REGEXP = (0,)
NOTHING: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What routing looks at: host in lower case without port, canonical path, raw query; client_ip None: Unix."""

    method: str = "GET"
    host: str = ""
    path: str = "/"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    client_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One frontend's route."""

    frontend: int
    id: str
    expression: str
    priority: int = 0


class Segment(NamedTuple):
    """A path segment, host label or part of a header value: literal text, or a parameter with text around it."""

    kind: str
    prefix: str
    name: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """Segments, what may follow them ("end", "more" or "any"), and the parameter that takes what follows."""

    segments: tuple[Segment, ...]
    tail: str
    rest: str | None

    @property
    def kinds(self) -> tuple[int, ...]:
        """The specificity of each segment and of the end."""
        ends = {"end": KINDS.index("literal"), "more": 2, "any": 1}
        return (*(_kind(segment) for segment in self.segments), ends[self.tail])

    @property
    def literal_bytes(self) -> int:
        """Bytes of fixed text, without separators."""
        return sum(len((s.prefix + s.suffix).encode()) for s in self.segments)


def _kind(segment: Segment) -> int:
    if segment.kind == "literal":
        return KINDS.index("literal")
    return KINDS.index(segment.kind + (" with text" if segment.prefix or segment.suffix else ""))


class Specificity(NamedTuple):
    """The precedence of an alternative; the larger wins, and of equal ones the lesser id."""

    priority: int
    host: tuple[int, ...]
    host_text: int
    path: tuple[int, ...]
    path_text: int
    predicates: int
    path_root: int


@dataclass(frozen=True, slots=True)
class Clause:
    """One alternative of a route: matchers that must all hold (or, where negated, not hold)."""

    route: Route
    literals: tuple[tuple[Predicate, bool], ...]
    specificity: Specificity
    order: int


_PARAMETER = re.compile(r"(?P<prefix>[^<]*)<(?:(?P<type>string|int|path):)?(?P<name>\w+)>(?P<suffix>.*)", re.S)


@lru_cache(maxsize=65536)
def parse_pattern(name: str, text: str) -> Pattern:
    """The argument `text` of Host, Path, PathPrefix or Header (its value)."""
    if name == "Host":
        parts = (
            [text.lower()]
            if text.startswith("[")
            else re.sub(r"(^|>)[^<]*", lambda m: m[0].lower(), text).split(".")[::-1]
        )
    else:
        parts = (text if name == "Header" else text[1:]).split("/")
    segments: list[Segment] = []
    for part in parts:
        found = _PARAMETER.fullmatch(part)
        if name == "Host" and part == "*":
            return Pattern(tuple(segments), "more", "")
        if found is None:
            segments.append(Segment("literal", part, "", ""))
        elif found["type"] == "path":
            return Pattern(tuple(segments), "more", found["name"])
        else:
            segments.append(Segment(found["type"] or "string", found["prefix"], found["name"], found["suffix"]))
    if name != "PathPrefix":
        return Pattern(tuple(segments), "end", None)
    if segments[-1] == Segment("literal", "", "", ""):
        return Pattern(tuple(segments[:-1]), "more", None)
    return Pattern(tuple(segments), "any", None)


# ---- alternatives and their precedence ------------------------------------------------------------------------------


def alternatives(expression: Expression, negated: bool = False) -> Iterator[tuple[tuple[Predicate, bool], ...]]:
    """The disjunctive normal form: tuples of (matcher, negated)."""
    match expression:
        case Predicate():
            yield ((expression, negated),)
        case Not(operand):
            yield from alternatives(operand, not negated)
        case And(left, right) | Or(left, right):
            if isinstance(expression, Or) != negated:
                yield from alternatives(left, negated)
                yield from alternatives(right, negated)
            else:
                for a in alternatives(left, negated):
                    for b in alternatives(right, negated):
                        yield tuple(dict.fromkeys(a + b))


def is_path(predicate: Predicate) -> bool:
    """Whether it is Path or PathPrefix."""
    return predicate.name in ("Path", "PathPrefix")


def leader(literals: Iterable[tuple[Predicate, bool]], names: tuple[str, ...]) -> Predicate | None:
    """The most specific of the positive patterns of a clause; the first of equals."""
    found = [p for p, negated in literals if not negated and p.name in names]
    return max(found, key=lambda p: (parse_pattern(p.name, p.args[0]).kinds, _literal_bytes(p)), default=None)


def _literal_bytes(predicate: Predicate) -> int:
    return parse_pattern(predicate.name, predicate.args[0]).literal_bytes


def specificity(priority: int, literals: tuple[tuple[Predicate, bool], ...]) -> Specificity:
    """How an alternative ranks: docs/routing.md."""
    host = leader(literals, ("Host",))
    path = leader(literals, ("Path", "PathPrefix"))
    names = [p.name for p, negated in literals if not negated]
    host_key = path_key = NOTHING
    host_text = path_text = path_root = 0
    if "HostRegexp" in names:
        host_key = REGEXP
    if "PathRegexp" in names:
        path_key = REGEXP
    if host is not None:
        pattern = parse_pattern("Host", host.args[0])
        exact = pattern.tail == "end" and all(s.kind == "literal" for s in pattern.segments)
        host_key, host_text = (EXACT_HOST, 0) if exact else (pattern.kinds, pattern.literal_bytes)
    if path is not None:
        pattern = parse_pattern(path.name, path.args[0])
        if pattern.segments or pattern.rest is not None:
            path_key, path_text = pattern.kinds, pattern.literal_bytes
        else:
            path_root = 1
    residual = {_identity(p, negated) for p, negated in literals if negated or (p is not host and p is not path)}
    return Specificity(priority, host_key, host_text, path_key, path_text, len(residual), path_root)


def _identity(predicate: Predicate, negated: bool) -> tuple[object, ...]:
    """Equal for matchers that ask the same."""
    name, args = predicate.name, predicate.args
    if name == "ClientIP":
        return (negated, name, ipaddress.ip_network(args[0]))
    if name in ("Host", "Path", "PathPrefix") and negated:
        pattern = parse_pattern(name, args[0])
        anonymous = tuple(s._replace(name="") for s in pattern.segments)
        return (negated, "Path" if is_path(predicate) else name, anonymous, pattern.tail, pattern.rest is not None)
    if name.startswith("Header"):
        return (negated, name, args[0].lower(), *args[1:])
    return (negated, name, *args)


def clauses_of(route: Route) -> list[Clause]:
    """The alternatives of a route in the order of its text."""
    found = alternatives(parse(route.expression))
    return [
        Clause(route, literals, specificity(route.priority, literals), order) for order, literals in enumerate(found)
    ]


def ranked(clauses: Iterable[Clause]) -> list[Clause]:
    """Most specific first; of equals the lesser id first."""
    by_id = sorted(clauses, key=lambda c: (c.route.id.encode(), c.route.frontend, c.order))
    return sorted(by_id, key=lambda c: c.specificity, reverse=True)  # a stable sort, which `reverse` keeps stable


# ---- evaluation -----------------------------------------------------------------------------------------------------


def _fit_segment(segment: Segment, text: str, captures: dict[str, str]) -> bool:
    if segment.kind == "literal":
        return text == segment.prefix
    if not (text.startswith(segment.prefix) and text.endswith(segment.suffix)):
        return False
    value = text[len(segment.prefix) : len(text) - len(segment.suffix)]
    if len(text) <= len(segment.prefix) + len(segment.suffix) or (
        segment.kind == "int" and not re.fullmatch("[0-9]+", value)
    ):
        return False
    captures[segment.name] = value
    return True


def fit_pattern(pattern: Pattern, parts: list[str], separator: str, captures: dict[str, str]) -> bool:
    """Whether the parts of a text fit a pattern. `separator` "." means that parts are labels from right to left."""
    if len(parts) < len(pattern.segments):
        return False
    if not all(_fit_segment(segment, part, captures) for segment, part in zip(pattern.segments, parts, strict=False)):
        return False
    rest = parts[len(pattern.segments) :]
    if pattern.tail == "end":
        return not rest
    if pattern.tail == "more":
        if not rest or (separator == "." and rest == [""]):
            return False
        if pattern.rest:
            captures[pattern.rest] = separator.join(rest[::-1] if separator == "." else rest)
    return True


def query_pairs(query: str) -> list[tuple[bytes, bytes]]:
    """The parameters of a query, decoded as application/x-www-form-urlencoded."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [
        (unquote_to_bytes(name.replace("+", " ")), unquote_to_bytes(value.replace("+", " ")))
        for name, _, value in pairs
    ]


def _search(pattern: str, text: bytes, flags: int = 0) -> bool:
    return re.search(pattern.encode(), text, flags | re.S) is not None


def _client_ip_holds(network_text: str, client_ip: str | None) -> bool:
    if client_ip is None:
        return False
    network, address = ipaddress.ip_network(network_text), ipaddress.ip_address(client_ip)
    return address.version == network.version and address in network


def _host_parts(host: str) -> list[str]:
    if len(host) > 1 and host.endswith("."):
        host = host[:-1]
    return [host] if host.startswith("[") else host.split(".")[::-1]


def _pattern_holds(predicate: Predicate, request: Request, captures: dict[str, str]) -> bool:
    pattern = parse_pattern(predicate.name, predicate.args[0])
    if predicate.name != "Host":
        parts = request.path[1:].split("/") if request.path.startswith("/") else []
        return fit_pattern(pattern, parts, "/", captures)
    if not request.host or (
        request.host.startswith("[") and (pattern.tail != "end" or pattern.segments[0].kind != "literal")
    ):
        return False
    return fit_pattern(pattern, _host_parts(request.host), ".", captures)


def _header_holds(predicate: Predicate, request: Request, captures: dict[str, str]) -> bool:
    for name, value in request.headers:
        if name.lower() != predicate.args[0].lower():
            continue
        if len(predicate.args) == 1:
            return True
        if predicate.name == "HeaderRegexp":
            if _search(predicate.args[1], value.encode()):
                return True
            continue
        found: dict[str, str] = {}
        if fit_pattern(parse_pattern("Header", predicate.args[1]), value.split("/"), "/", found):
            captures.update(found)
            return True
    return False


def holds(predicate: Predicate, request: Request, captures: dict[str, str]) -> bool:
    """Whether one matcher holds; its parameters go to `captures`."""
    name, args = predicate.name, predicate.args
    if name in ("Host", "Path", "PathPrefix"):
        return _pattern_holds(predicate, request, captures)
    if name.startswith("Header"):
        return _header_holds(predicate, request, captures)
    if name.startswith("Query"):
        values = [value for key, value in query_pairs(request.query) if key == args[0].encode()]
        if name == "QueryRegexp":
            return any(_search(args[1], value) for value in values)
        return bool(values) if len(args) == 1 else args[1].encode() in values
    if name == "Method":
        return request.method == args[0]
    if name == "ClientIP":
        return _client_ip_holds(args[0], request.client_ip)
    host = ".".join(_host_parts(request.host)[::-1])
    subject = {"HostRegexp": host, "PathRegexp": request.path, "MethodRegexp": request.method}[name]
    return _search(args[0], subject.encode(), re.I if name == "HostRegexp" else 0)


def evaluate(clause: Clause, request: Request) -> tuple[dict[str, str], list[tuple[Predicate, bool]]]:
    """(parameters, the literals that fail)."""
    captures: dict[str, str] = {}
    failed = []
    for predicate, negated in clause.literals:
        found: dict[str, str] = {}
        if holds(predicate, request, found) == negated:
            failed.append((predicate, negated))
        elif not negated:
            captures.update(found)
    return captures, failed


class ReferenceMatcher:
    """Matches requests against routes by trying all of them, most specific first."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Ranks all alternatives of all routes; RouteError for bad syntax."""
        self.clauses = ranked(clause for route in routes for clause in clauses_of(route))

    def match(self, request: Request) -> tuple[int | None, dict[str, bytes]]:
        """(frontend index, parameters) of the winning route; (None, {}) if none matches."""
        for clause in self.clauses:
            captures, failed = evaluate(clause, request)
            if not failed:
                return clause.route.frontend, {name: value.encode() for name, value in captures.items()}
        return None, {}
