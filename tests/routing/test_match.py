"""The matcher on small route tables, one feature at a time."""

import pytest

from bascule.routing.match import Matcher
from tests.routing.tables import compile_table


@pytest.mark.parametrize(
    ("route", "path", "matches"),
    [
        ("PathPrefix(`/v2`)", "/v2", True),
        ("PathPrefix(`/v2`)", "/v2/", True),
        ("PathPrefix(`/v2`)", "/v2/x/y", True),
        ("PathPrefix(`/v2`)", "/v2x", False),
        ("PathPrefix(`/v2/`)", "/v2", False),
        ("PathPrefix(`/v2/`)", "/v2/", True),
        ("PathPrefix(`/v2/`)", "/v2/x", True),
        ("PathPrefix(`/`)", "/", True),
        ("PathPrefix(`/`)", "/x/y", True),
        ("PathPrefix(`/`)", "*", False),
        ("Path(`/v2`)", "/v2", True),
        ("Path(`/v2`)", "/v2/", False),
        ("Path(`/v2/`)", "/v2", False),
        ("Path(`/`)", "/", True),
        ("Path(`/`)", "/x", False),
        ("Method(`GET`)", "*", True),
    ],
)
def test_path_and_prefix(route: str, path: str, matches: bool) -> None:
    assert (Matcher(compile_table([route])[1]).match(path=path).frontend == 0) is matches


@pytest.mark.parametrize(
    ("route", "request_", "params"),
    [
        ("Path(`/a/<x>`)", {"path": "/a/b"}, {"x": b"b"}),
        ("Path(`/a/<x>`)", {"path": "/a/"}, None),
        ("Path(`/a/<int:x>`)", {"path": "/a/12"}, {"x": b"12"}),
        ("Path(`/a/<int:x>`)", {"path": "/a/1b"}, None),
        ("Path(`/a/<path:x>`)", {"path": "/a/b/c"}, {"x": b"b/c"}),
        ("Path(`/a/<path:x>`)", {"path": "/a/"}, {"x": b""}),
        ("Path(`/a/<path:x>`)", {"path": "/a"}, None),
        ("Path(`/v<int:v>/<name>.json`)", {"path": "/v2/x.json"}, {"v": b"2", "name": b"x"}),
        ("Path(`/v<int:v>/<name>.json`)", {"path": "/v2/.json"}, None),
        ("PathPrefix(`/a/<x>`)", {"path": "/a/b/c"}, {"x": b"b"}),
        ("Host(`<t>.a.com`)", {"host": "b.a.com"}, {"t": b"b"}),
        ("Host(`<t>.a.com`)", {"host": "c.b.a.com"}, None),
        ("Host(`<path:t>.a.com`)", {"host": "c.b.a.com"}, {"t": b"c.b"}),
        ("Host(`*.a.com`)", {"host": "c.b.a.com"}, {}),
        ("Host(`*.a.com`)", {"host": "a.com"}, None),
        ("Host(`A.com`)", {"host": "a.com"}, {}),
        ("Host(`a.com`)", {"host": "a.com."}, {}),
        ("Host(`[::1]`)", {"host": "[::1]"}, {}),
        ("Host(`<x>`)", {"host": "[::1]"}, None),
        ("Host(`<t>.a.com`) && Path(`/<t2>`)", {"host": "b.a.com", "path": "/z"}, {"t": b"b", "t2": b"z"}),
        (
            "Header(`X-A`, `v<int:n>/<path:r>`)",
            {"headers": [("x-a", "n"), ("x-a", "v1/2/3")]},
            {"n": b"1", "r": b"2/3"},
        ),
        ("Header(`X-A`)", {"headers": [("x-A", "")]}, {}),
        ("Header(`X-A`, `b`)", {"headers": [("x-a", "B")]}, None),
        ("!Header(`X-A`)", {"headers": [("x-a", "B")]}, None),
        ("Query(`a`)", {"query": "b=1&a"}, {}),
        ("Query(`a`, `1 2`)", {"query": "a=3&a=1+2"}, {}),
        ("Query(`a`, `1/2`)", {"query": "%61=1%2f2"}, {}),
        ("Query(`a`, `1`)", {"query": "a=12"}, None),
        ("ClientIP(`10.0.0.0/9`)", {"client_ip": "10.127.1.1"}, {}),
        ("ClientIP(`10.0.0.0/9`)", {"client_ip": "10.128.1.1"}, None),
        ("ClientIP(`::/0`)", {"client_ip": "10.128.1.1"}, None),
        ("ClientIP(`::/0`)", {"client_ip": "2001:db8::1"}, {}),
        ("ClientIP(`0.0.0.0/0`)", {"client_ip": "2001:db8::1"}, None),
        ("ClientIP(`0.0.0.0/0`)", {}, None),
        ("!ClientIP(`0.0.0.0/0`)", {}, {}),
        ("HostRegexp(`^A[0-9]`)", {"host": "a1.com"}, {}),
        ("MethodRegexp(`^P(UT|OST)$`)", {"method": "POST"}, {}),
        ("PathRegexp(`[.]php$`)", {"path": "/x/y.php"}, {}),
        ("HeaderRegexp(`Cookie`, `(^|; )beta=1`)", {"headers": [("cookie", "a=1; beta=1")]}, {}),
        ("QueryRegexp(`q`, `^a b$`)", {"query": "q=a+b"}, {}),
        ("!PathRegexp(`[.]php$`)", {"path": "/x/y.php"}, None),
    ],
)
def test_matchers_and_parameters(route: str, request_: dict[str, object], params: dict[str, bytes] | None) -> None:
    match = Matcher(compile_table([route])[1]).match(**request_)  # type: ignore[arg-type]
    assert (match.frontend, match.params) == ((None, {}) if params is None else (0, params))
