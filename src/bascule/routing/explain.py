"""Why a request goes where it goes: the routes that match, in order, what decided, and which routes nearly matched."""

from collections.abc import Iterable
from dataclasses import dataclass

from bascule.routing.ast import Predicate
from bascule.routing.reference import Clause, Request, Route, clauses_of, evaluate, ranked

CRITERIA = {
    "priority": "its priority is higher",
    "host": "its host is more specific (exact over parameter over wildcard over regexp over none)",
    "host_text": "its host has more literal text",
    "path": "its path is more specific (from the left: literal over parameter over wildcard over regexp over none; "
    "longer over shorter)",
    "path_text": "its path has more literal text",
    "predicates": "it has more further conditions",
    "path_root": 'it names the path "/"',
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that matches: the alternative of its expression that does, and the parameters it captures."""

    route: Route
    alternative: str
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A route that does not match, and the conditions of its best alternative that failed."""

    route: Route
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`candidates` most specific first (the first wins); `decision` says why it beats the second, None without one."""

    candidates: tuple[Candidate, ...]
    decision: str | None
    near_misses: tuple[NearMiss, ...]


def write_literal(literal: tuple[Predicate, bool]) -> str:
    """A matcher, or its negation, as one would write it."""
    predicate, negated = literal
    return f"!{predicate}" if negated else str(predicate)


def why_before(first: Clause, second: Clause) -> str:
    """The criterion that puts `first` before `second`."""
    for name, better, worse in zip(CRITERIA, first.specificity, second.specificity, strict=True):
        if better != worse:
            return CRITERIA[name]
    if first.route.id != second.route.id:
        return f"all else is equal, and its id {first.route.id!r} comes before {second.route.id!r}"
    return "it is the same frontend"


def explain(routes: Iterable[Route], request: Request, near_misses_max: int = 5) -> Explanation:
    """Explains where `request` goes. RouteError if a route is not valid. Time grows with the number of routes."""
    matching: dict[str, tuple[Clause, Candidate]] = {}
    missing: dict[str, tuple[int, Clause, NearMiss]] = {}
    for clause in ranked(clause for route in routes for clause in clauses_of(route)):
        route = clause.route
        captures, failed = evaluate(clause, request)
        if not failed:
            text = " && ".join(write_literal(literal) for literal in clause.literals)
            matching.setdefault(route.id, (clause, Candidate(route, text, captures)))
        elif route.id not in missing or len(failed) < missing[route.id][0]:
            missing[route.id] = (
                len(failed),
                clause,
                NearMiss(route, tuple(write_literal(literal) for literal in failed)),
            )
    winners = list(matching.values())
    decision = why_before(winners[0][0], winners[1][0]) if len(winners) > 1 else None
    near = sorted((miss for id_, miss in missing.items() if id_ not in matching), key=lambda miss: miss[0])
    return Explanation(tuple(c for _, c in winners), decision, tuple(miss for _, _, miss in near[:near_misses_max]))
