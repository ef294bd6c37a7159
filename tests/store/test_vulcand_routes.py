"""Routes, regular expressions and texts of vulcand: what they become, and that it means what their authors wrote."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.store.vulcand.golang import Fields, duration_ns, listen_address, unquote
from bascule.store.vulcand.regexps import METHODS, methods_of, translate
from bascule.store.vulcand.routes import UntranslatableError, translate_route
from tests.routing.tables import winner

SCROLL = 'Host("api.example.com") && Method("GET") && Path("/v2/<domain>/stats")'


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ('Path("/foo")', "Path(`/foo`)"),
        ("Path(`/foo`)", "Path(`/foo`)"),
        (SCROLL, "Host(`api.example.com`) && Method(`GET`) && Path(`/v2/<p1>/stats`)"),
        ('(Host("A.com")) && (Path("/a") && Method("POST"))', "Host(`a.com`) && Path(`/a`) && Method(`POST`)"),
        ('MethodRegexp("PUT|POST") && Path("/a")', "(Method(`PUT`) || Method(`POST`)) && Path(`/a`)"),
        ('MethodRegexp("^(GET|HEAD)$")', "(Method(`GET`) || Method(`HEAD`))"),
        ('MethodRegexp("GET")', "Method(`GET`)"),
        ('MethodRegexp("^P")', "MethodRegexp(`^P`)"),
        ('PathRegexp("/foo/.*")', "PathRegexp(`/foo/`)"),
        ('PathRegexp("^/(?P<v>v[12])/\\\\d+$")', "PathRegexp(`^/(v[12])/\\d+$`)"),
        ("PathRegexp(`.*`)", "PathRegexp(`.*`)"),
        ('Host("<sub>.example.com")', "Host(`<p1>.example.com`)"),
        ('Host("<path:any>") && Path("/<path:rest>")', "Path(`/<path:p1>`)"),
        ('Host("www.<path:rest>")', "HostRegexp(`^www\\.`)"),
        ('Method("<any>") && Host("<path:any>")', "PathPrefix(`/`)"),
        ('Path("/a/<int:x>/b/<x>")', "Path(`/a/<int:p1>/b/<p2>`)"),
        ('Header("Content-Type", "application/<kind>")', "Header(`Content-Type`, `application/<p1>`)"),
        ('HeaderRegexp("User-Agent", "^curl/")', "HeaderRegexp(`User-Agent`, `^curl/`)"),
        ('Path("/caf\\u00e9/\\x41\\101\\t")', "Path(`/café/AA\t`)"),
        ('Path("/back`quote")', 'Path("/back`quote")'),
    ],
)
def test_what_a_route_becomes(theirs: str, ours: str) -> None:
    assert translate_route(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("", "expected a matcher"),
        ('Host("a") || Path("/b")', r"no \|\|"),
        ('!Path("/b")', "no !"),
        ('PathPrefix("/b")', "no matcher PathPrefix"),
        ('Host("a", "b")', "2 arguments"),
        ('Header("a")', "1 arguments"),
        ("Host(a)", "expected a string"),
        ('Host("a") Path("/b")', "expected a matcher, found Path"),
        ('Host("a"', r"expected \), found the end"),
        ('Path("/<float:x>")', "no kind of parameter"),
        ('Host("a.com:8080")', "names a port"),
        ('Path("/\\q")', "unknown escape"),
        ('Path("/\\UFFFFFFFF")', "no character"),
        ('Path("/\\U00110000")', "no character"),
        ("Path('/b')", "not part of a route"),
        ("(" * 40 + 'Path("/")' + ")" * 40, "nested too deeply"),
        (" && ".join(['Path("/")'] * 65), "more than 64"),
    ],
)
def test_what_is_no_route_of_vulcand_is_refused_with_what_to_do(theirs: str, said: str) -> None:
    with pytest.raises(UntranslatableError, match=said) as caught:
        translate_route(theirs)
    assert caught.value.remedy


REQUEST: dict[str, Any] = {"method": "GET", "host": "api.example.com", "path": "/v2/example.org/stats"}


@pytest.mark.parametrize(
    ("theirs", "request_", "matches"),
    [
        (SCROLL, {}, True),
        (SCROLL.replace("api", "API"), {}, True),
        (SCROLL, {"method": "POST"}, False),
        (SCROLL, {"path": "/v2/example.org/stats/"}, False),
        (SCROLL, {"path": "/v2/a/b/stats"}, False),
        ('Path("/foo")', {"path": "/foo"}, True),
        ('Path("/foo")', {"path": "/foo/"}, False),
        ('Path("/foo/")', {"path": "/foo"}, False),
        ('Path("/<path:all>")', {"path": "/a/b/c"}, True),
        ('Path("/users/<int:id>")', {"path": "/users/42"}, True),
        ('Path("/users/<int:id>")', {"path": "/users/me"}, False),
        # Found anywhere: an author who meant the beginning wrote ^.
        ('PathRegexp("/foo.*")', {"path": "/bar/foo"}, True),
        ('PathRegexp("^/foo.*$")', {"path": "/bar/foo"}, False),
        ('PathRegexp("^/foo.*$")', {"path": "/foobar"}, True),
        ('PathRegexp("^/[a-z]+/.*/x$")', {"path": "/abc/1/2/x"}, True),
        ('HostRegexp("example")', {}, True),
        ('HostRegexp("^example")', {}, False),
        ('Host("<a>.example.com")', {}, True),
        ('Host("<a>.com")', {}, False),
        ('Host("api.<path:rest>")', {}, True),
        ('MethodRegexp("POST|GET")', {}, True),
        ('MethodRegexp("POST|PUT")', {}, False),
        ('Header("X-Api", "v1/<minor>")', {"headers": [("x-api", "v1/7")]}, True),
        ('Header("X-Api", "v1/<minor>")', {"headers": [("x-api", "v2/7")]}, False),
        ('HeaderRegexp("X-Api", "v[12]")', {"headers": [("x-api", "av2")]}, True),
    ],
)
def test_a_route_takes_what_its_author_meant(theirs: str, request_: dict[str, Any], matches: bool) -> None:
    assert (winner([translate_route(theirs)], **(REQUEST | request_)) == 0) is matches


def test_precedence_is_ours_and_not_the_order_of_the_texts() -> None:
    """In vulcand the text that sorts last wins: the bare Path, and PathRegexp before everything."""
    routes = ['Host("api.example.com") && Path("/a")', 'Path("/a")', 'PathRegexp("/a")']
    assert winner([translate_route(route) for route in routes], **(REQUEST | {"path": "/a"})) == 0


words = st.text(string.ascii_letters + string.digits + " ._-/\\\"`'\t\né<>", max_size=12)


def go_literal(text: str, raw: bool) -> str:
    if raw and "`" not in text and "\r" not in text:
        return f"`{text}`"
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}.get(character, character) for character in text
    )
    return f'"{escaped}"'


@given(words, st.booleans())
def test_a_string_of_go_is_read_as_it_was_written(text: str, raw: bool) -> None:
    assert unquote(go_literal(text, raw)) == text


@given(st.text(max_size=60))
def test_no_text_breaks_the_translator(text: str) -> None:
    try:
        translate_route(text)
    except UntranslatableError:
        return


plain = st.text(string.ascii_letters + string.digits + " ._-/\"`'\té", max_size=8)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Path", "Method", "HostRegexp", "PathRegexp"]), plain, st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_arguments_without_parameters_come_through_unchanged(calls: list[tuple[str, str, bool]]) -> None:
    from bascule.routing.expression import parse

    ours = translate_route(" && ".join(f"{name}({go_literal(text, raw)})" for name, text, raw in calls))
    found = re.findall("Predicate", repr(parse(ours)))
    assert len(found) == len(calls)
    for _, text, _ in calls:
        assert repr(text) in repr(parse(ours))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("^/a.*$", "^/a"),
        ("^/a.*?", "^/a"),
        (".*/a", "/a"),
        ("^.*a.*$", "a"),
        (r"/a\.*", r"/a\.*"),
        (r"/a\\.*", r"/a\\"),
        ("/[.*", "/[.*"),
        ("a.*|b.*", "a.*|b.*"),
        ("/(a.*|b)/.*", "/(a.*|b)/"),
        (r"\A/a\z", "^/a$"),
        ("(?s)/a", "/a"),
        ("(?P<n>a)(?:b)", "(a)(?:b)"),
        (r"\(?P<n>", r"\(?P<n>"),
        ("^.*$", "$"),
    ],
)
def test_what_a_regexp_becomes(theirs: str, ours: str) -> None:
    assert translate(theirs) == ours


@given(st.text("ab.*^$|()/", max_size=8), st.lists(st.text("ab/", max_size=6), max_size=5))
def test_leaving_open_ends_away_changes_no_match(pattern: str, texts: list[str]) -> None:
    try:
        before = re.compile(pattern)
    except re.error:
        return
    after = re.compile(translate(pattern))
    for text in texts:
        assert bool(before.search(text)) == bool(after.search(text))


@given(st.lists(st.sampled_from(METHODS), min_size=1, max_size=5, unique=True))
def test_a_list_of_methods_is_no_regexp(methods: list[str]) -> None:
    assert methods_of("|".join(methods)) == tuple(methods)
    assert methods_of(f"^({'|'.join(methods)})$") == tuple(methods)


@pytest.mark.parametrize("pattern", ["", "P", "GET|", "GET|.*", "get", "[A-Z]+", "GET POST"])
def test_what_is_more_than_a_list_of_methods_stays_a_regexp(pattern: str) -> None:
    assert methods_of(pattern) == ()


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("5s", 5_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("100ms", 100_000_000),
        ("5µs", 5_000),
        ("1ns", 1),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("0", 0),
        ("-2s", -2_000_000_000),
        ("+2s", 2_000_000_000),
    ],
)
def test_durations_of_go(text: str, ns: int) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1.5", "-", "1s1", "1 s", ".s", "1e3s"])
def test_what_is_no_duration_of_go(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_ns(text)


def test_fields_in_any_case_unknown_ones_ignored_null_as_absent() -> None:
    fields = Fields.parse(b'{"url": "a", "Other": [1], "settings": {"DIAL": "1s"}, "Id": null}')
    assert (fields.text("URL"), fields.text("Id")) == ("a", "")
    assert fields.inner("Settings").duration_ms("Dial") == 1000
    with pytest.raises(ValueError, match="Other is not a text"):
        fields.text("Other")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        (":8181", "0.0.0.0:8181"),
        ("localhost:1", "127.0.0.1:1"),
        ("[::]:80", "[::]:80"),
    ],
)
def test_addresses_of_go(theirs: str, ours: str) -> None:
    assert listen_address(theirs)[0] == ours


@pytest.mark.parametrize("text", ["", "80", "a:b", "::1:80"])
def test_what_is_no_address_of_go(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        listen_address(text)
