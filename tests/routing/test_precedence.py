"""Precedence by specificity, conflicts between equal routes, and what explain says about both."""

import itertools

import pytest

from bascule.routing.compile import RouteCompiler
from bascule.routing.explain import explain
from bascule.routing.reference import Request, Route
from tests.routing.tables import compile_table, winner

# Each table is listed most specific first; every route matches the request.
LADDERS = {
    "hosts": (
        {"host": "ax.b.com", "path": "/x"},
        ["Host(`ax.b.com`)", "Host(`a<t>.b.com`)", "Host(`<t>.b.com`)", "Host(`*.b.com`)",
         "Host(`*.com`)",
         "HostRegexp(`b`) && Path(`/x`)", "Path(`/x`)"],
    ),
    "paths": (
        {"path": "/a/12/c", "method": "GET"},
        ["Path(`/a/12/c`)", "PathPrefix(`/a/12/`)", "PathPrefix(`/a/12`)", "Path(`/a/<int:n>/c`)",
         "PathPrefix(`/a/<int:n>`)",
         "Path(`/a/<s>/c`)", "Path(`/a/<path:r>`)", "PathPrefix(`/a`)", "Path(`/<s>/12/c`)", "PathRegexp(`^/a/`)",
         "Method(`GET`)", "PathPrefix(`/`)"],
    ),
    "text beside a parameter": (
        {"path": "/file12.json"},
        ["Path(`/file<int:n>.json`)", "Path(`/file<n>.json`)", "Path(`/f<n>.json`)", "Path(`/<n>`)"],
    ),
    "more predicates": (
        {"path": "/a", "method": "GET", "query": "q=1"},
        ["Path(`/a`) && Method(`GET`) && Query(`q`) && !Header(`x`)", "Path(`/a`) && Method(`GET`) && Query(`q`)",
         "Path(`/a`) && Query(`q`)", "Path(`/a`)"],
    ),
    "host before path": (
        {"host": "a.com", "path": "/a/b"},
        ["Host(`a.com`)", "Host(`*.com`) && Path(`/a/b`)", "Path(`/a/b`)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LADDERS)
def test_each_rung_beats_those_below_in_any_order_of_ids(name: str) -> None:
    request, ladder = LADDERS[name]
    for better, worse in itertools.combinations(ladder, 2):
        assert winner([better, worse], **request) == 0, (better, worse)
        assert winner([worse, better], **request) == 1, (better, worse)


def test_priority_beats_specificity() -> None:
    assert winner(["Host(`a`) && Path(`/p`)", ("PathPrefix(`/`)", 1)], host="a", path="/p") == 1
    assert winner([("Host(`a`) && Path(`/p`)", -1), "PathPrefix(`/`)"], host="a", path="/p") == 1


def test_equal_routes_go_to_the_lesser_id_and_are_reported() -> None:
    compiler = RouteCompiler()
    compiler.add(0, "zeta", "Host(`A.com`) && Method(`GET`) && Path(`/<x>`)")
    compiler.add(1, "alpha", "Path(`/<y>`) && Host(`a.com`) && Method(`GET`)")
    compiler.add(2, "other", "Host(`a.com`) && Method(`GET`) && Path(`/<y>`)", 1)
    compiler.add(3, "more", "Host(`a.com`) && Method(`GET`) && Path(`/<y>`) && Query(`q`)")
    (conflict,) = compiler.conflicts()
    assert (conflict.winner_id, conflict.loser_id, conflict.winner, conflict.loser) == ("alpha", "zeta", 1, 0)
    assert "priority" in str(conflict)


def test_one_alternative_in_common_is_a_conflict() -> None:
    compiler, _ = compile_table(["Path(`/a`) || Path(`/b`)", "Path(`/b`) || Path(`/c`)", "Path(`/a`) || Path(`/a`)"])
    assert [(c.winner, c.loser) for c in compiler.conflicts()] == [(0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Path(`/a`)", "Path(`/a/`)"), ("PathPrefix(`/a`)", "PathPrefix(`/a/`)"), ("Path(`/<int:a>`)", "Path(`/<a>`)"),
     ("Path(`/a`) && Header(`x`)", "Path(`/a`) && !Header(`x`)"), ("Host(`*.a`)", "Host(`<x>.a`)")],
)  # fmt: skip
def test_different_routes_are_no_conflict(first: str, second: str) -> None:
    assert compile_table([first, second])[0].conflicts() == []


def test_alternatives_negations_and_parentheses() -> None:
    routes = ["(Host(`a`) || Host(`b`)) && !(Path(`/x`) || Method(`POST`))"]
    assert winner(routes, host="a", path="/y") == 0
    assert winner(routes, host="b", path="/y") == 0
    assert winner(routes, host="c", path="/y") is None
    assert winner(routes, host="a", path="/x") is None
    assert winner(routes, host="a", path="/y", method="POST") is None
    assert winner(["!!Path(`/x`)"], path="/x") == 0


ROUTES = [
    Route(0, "api", "Host(`a.com`) && PathPrefix(`/v2/<tenant>`)"),
    Route(1, "all", "PathPrefix(`/`)"),
    Route(2, "admin", "Host(`a.com`) && PathPrefix(`/v2`) && ClientIP(`10.0.0.0/8`) && !Method(`GET`)"),
    Route(3, "beta", "Host(`a.com`) && PathPrefix(`/v2/<tenant>`) && Header(`X-Beta`, `1`)"),
]


def test_explain_ranks_and_says_why() -> None:
    explanation = explain(ROUTES, Request(host="a.com", path="/v2/acme", client_ip="10.1.1.1"))
    assert [c.route.id for c in explanation.candidates] == ["api", "all"]
    assert explanation.candidates[0].params == {"tenant": "acme"}
    assert explanation.decision is not None
    assert "host" in explanation.decision
    assert [(m.route.id, m.failed) for m in explanation.near_misses] == [
        ("beta", ("Header(`X-Beta`, `1`)",)),
        ("admin", ("!Method(`GET`)",)),
    ]


def test_explain_names_the_id_between_equals() -> None:
    explanation = explain([Route(0, "b", "Path(`/x`)"), Route(1, "a", "Path(`/x`)")], Request(path="/x"))
    assert [c.route.id for c in explanation.candidates] == ["a", "b"]
    assert "'a' comes before 'b'" in (explanation.decision or "")


def test_explain_without_a_match() -> None:
    explanation = explain(ROUTES[:1], Request(host="b.com", path="/v2/x"))
    assert (explanation.candidates, explanation.decision) == ((), None)
    assert explanation.near_misses[0].failed == ("Host(`a.com`)",)
