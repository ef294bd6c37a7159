"""The compiled matcher against the plain one: random tables and requests over small alphabets, so that they collide."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bascule.routing.compile import RouteCompiler
from bascule.routing.errors import RouteError
from bascule.routing.image import wrap_sections
from bascule.routing.match import Matcher
from bascule.routing.reference import ReferenceMatcher, Request, Route

EXAMPLES = int(os.environ.get("BASCULE_ROUTING_EXAMPLES", "600"))

EXPECTED_REFUSALS = ("never be true", "twice", "alternatives")
LITERALS = ["a", "b", "ab", "1", "12", "a1"]
LABELS = ["a", "b", "1", "a1"]


def parameter(name: str) -> st.SearchStrategy[str]:
    return st.tuples(
        st.sampled_from(["", "", "a", "1"]),
        st.sampled_from(["", "int:", "string:"]),
        st.sampled_from(["", "", "b", "1"]),
    ).map(lambda t: f"{t[0]}<{t[1]}{name}>{t[2]}")


@st.composite
def path_patterns(draw: st.DrawFn, tag: str) -> str:
    parts = draw(st.lists(st.one_of(st.sampled_from(LITERALS), st.sampled_from(LITERALS), st.just(None)), max_size=3))
    text = "".join("/" + (draw(parameter(f"{tag}{i}")) if part is None else part) for i, part in enumerate(parts))
    return text + draw(st.sampled_from(["/" if not text else "", "/", f"/<path:{tag}r>"]))


@st.composite
def host_patterns(draw: st.DrawFn, tag: str) -> str:
    parts = draw(
        st.lists(st.one_of(st.sampled_from(LABELS), st.sampled_from(LABELS), st.just(None)), min_size=1, max_size=3)
    )
    text = ".".join(draw(parameter(f"{tag}{i}")) if part is None else part for i, part in enumerate(parts))
    return draw(st.sampled_from(["", "", "", "*.", f"<path:{tag}r>."])) + text


@st.composite
def predicates(draw: st.DrawFn, number: int) -> str:
    tag = f"p{number}_"
    kind = draw(st.integers(0, 15))
    if kind <= 3:
        return f"{draw(st.sampled_from(['Path', 'PathPrefix']))}(`{draw(path_patterns(tag))}`)"
    if kind <= 6:
        return f"Host(`{draw(host_patterns(tag))}`)"
    if kind == 7:
        return f"Method(`{draw(st.sampled_from(['GET', 'POST']))}`)"
    if kind == 8:
        value = draw(st.sampled_from(["a", "1", f"<{tag}h>", f"a/<int:{tag}h>", f"<path:{tag}h>", f"b/<path:{tag}h>"]))
        return f"Header(`{draw(st.sampled_from(['X', 'x', 'Y']))}`, `{value}`)"
    return draw(
        st.sampled_from(
            [
                "Header(`X`)",
                "Header(`Y`)",
                "Query(`q`)",
                "Query(`q`, `1`)",
                "Query(`r`, `a b`)",
                "ClientIP(`10.0.0.0/8`)",
                "ClientIP(`2001:db8::/33`)",
                "ClientIP(`10.2.0.0/15`)",
                "PathRegexp(`^/a`)",
                "PathRegexp(`[0-9]$`)",
                "HostRegexp(`^A`)",
                "MethodRegexp(`^P`)",
                "HeaderRegexp(`X`, `^a/`)",
                "QueryRegexp(`q`, `^1`)",
            ]
        )
    )


@st.composite
def expressions(draw: st.DrawFn) -> str:
    count = draw(st.sampled_from([1, 1, 2, 2, 2, 3, 3, 4, 5]))
    text = draw(predicates(0))
    for number in range(1, count):
        operator = draw(st.sampled_from(["&&", "&&", "&&", "||"]))
        right = draw(predicates(number))
        if draw(st.integers(0, 4)) == 0:
            right = "!" + right
        text = f"{text} {operator} {right}"
        shape = draw(st.integers(0, 9))
        if shape == 0:
            text = f"!({text})"
        elif shape <= 3:
            text = f"({text})"
    return text


paths = st.lists(st.sampled_from([*LITERALS, "ba", "1b", "a1b"]), max_size=4).flatmap(
    lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join(parts) + "/" if parts else "/"])
)
requests = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    host=st.one_of(
        st.lists(st.sampled_from([*LABELS, "1b", "ab"]), min_size=1, max_size=4).map(".".join),
        st.sampled_from(["", "[::1]", "a.", "a.b.", ".a"]),
    ),
    path=st.one_of(paths, paths, paths, st.just("*")),
    query=st.sampled_from(["", "q", "q=1", "q=2&q=1", "r=a+b", "r=a%20b&q", "&&q=12", "%71=1", "q=%"]),
    headers=st.lists(
        st.tuples(st.sampled_from(["X", "x", "Y"]), st.sampled_from(["", "a", "1", "a/1", "b/a/1", "a/b"])), max_size=3
    ).map(tuple),
    client_ip=st.sampled_from([None, "10.1.2.3", "10.2.0.1", "192.0.2.1", "2001:db8::1", "2001:db8:8000::1"]),
)
tables = st.lists(st.tuples(expressions(), st.sampled_from([0, 0, 0, 0, 1, -1])), min_size=1, max_size=12)


def compiled(routes: list[Route]) -> tuple[Matcher, list[Route]]:
    """A matcher over those routes that the compiler takes, and these."""
    compiler = RouteCompiler()
    taken = []
    for route in routes:
        try:
            compiler.add(route.frontend, route.id, route.expression, route.priority)
        except RouteError as error:
            if not any(expected in error.message for expected in EXPECTED_REFUSALS):
                raise
        else:
            taken.append(route)
    return Matcher(wrap_sections(compiler.sections(), len(routes))), taken


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables, st.lists(requests, min_size=1, max_size=12))
def test_trie_agrees_with_reference(table: list[tuple[str, int]], asked: list[Request]) -> None:
    ids = [
        f"f{(index * 7) % len(table)}" for index in range(len(table))
    ]  # ids in another order than indices, some of them equal
    routes = [Route(index, ids[index], text, priority) for index, (text, priority) in enumerate(table)]
    matcher, taken = compiled(routes)
    reference = ReferenceMatcher(taken)
    for request in asked:
        got = matcher.match(
            method=request.method,
            host=request.host,
            path=request.path,
            query=request.query,
            headers=request.headers,
            client_ip=request.client_ip,
        )
        assert tuple(got) == reference.match(request), request


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables)
def test_same_routes_same_bytes(table: list[tuple[str, int]]) -> None:
    def sections() -> dict[int, bytes]:
        compiler = RouteCompiler()
        for index, (text, priority) in enumerate(table):
            try:
                compiler.add(index, f"f{index}", text, priority)
            except RouteError:
                continue
        return compiler.sections()

    assert sections() == sections()
