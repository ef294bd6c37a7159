"""Refused expressions: each error has its place in the text and a remedy."""

import pytest

from bascule.routing.ast import And, Not, Or, Predicate
from bascule.routing.compile import RouteCompiler
from bascule.routing.errors import RouteError
from bascule.routing.expression import parse

ERRORS = [
    ("", 0, "empty", "PathPrefix"),
    ("   ", 0, "empty", "PathPrefix"),
    ("Hots(`a`)", 0, "unknown matcher", "Host"),
    ("Host(`a`) and Path(`/`)", 10, "expected", "&&"),
    ("Host(`a`) & Path(`/`)", 10, "single '&'", "&&"),
    ("Host(`a`) | Path(`/`)", 10, "single '|'", "||"),
    ("Host(`a`", 8, "expected ')'", "close"),
    ("Host(`a", 5, "without an end", "close"),
    ('Host("a', 5, "without an end", "close"),
    ("Host('a')", 5, "expected a string", "double quotes"),
    ("Host", 4, "expected '('", "Host("),
    ("Host()", 5, "expected a string", "double quotes"),
    ("Host(`a`, `b`)", 10, "one argument", "||"),
    ("Header(`a`, `b`, `c`)", 17, "one or two arguments", "Header("),
    ("HeaderRegexp(`a`)", 0, "two arguments", "HeaderRegexp("),
    ("(Host(`a`)", 10, "expected ')'", "character 1"),
    ("Host(`a`))", 9, "expected '&&'", "join"),
    ("Host(`a`) &&", 12, "expected a matcher", "Host("),
    ('Path("/\\d")', 7, "unknown escape", "backquotes"),
    ("Path(`a`)", 6, "without '/'", "begin"),
    ("Path(`/a//b`)", 6, "canonical", "/a/b"),
    ("Path(`/%61`)", 6, "canonical", "write /a"),
    ("Path(`/a b`)", 6, "no valid path", "%20"),
    ("Path(`/a%2fb`)", 6, "no valid path", "encode"),
    ("Path(`/<a`)", 7, "without '>'", "<name>"),
    ("Path(`/<1a>`)", 7, "parameter name", "letters"),
    ("Path(`/<uuid:a>`)", 7, "unknown parameter type", "<int:name>"),
    ("Path(`/<a><b>`)", 7, "two parameters", "PathRegexp"),
    ("Path(`/<path:a>/b`)", 7, "before the end", "last"),
    ("Path(`/x<path:a>`)", 8, "beside other text", "whole segment"),
    ("Path(`/<a>/<a>`)", 0, "twice", "own name"),
    ("Host(`a:80`)", 7, "port", "leave"),
    ("Host(``)", 6, "empty host", "name a host"),
    ("Host(`*`)", 6, "whole first label", "*.example.com"),
    ("Host(`a.*.com`)", 8, "whole first label", "*.example.com"),
    ("Host(`a..com`)", 6, "empty label", "dot"),
    ("Host(`bücher.de`)", 7, "ASCII", "punycode"),
    ("Host(`a/b`)", 7, "character '/'", "letters"),
    ("Host(`a.<path:x>`)", 6, "first label", "<name>"),
    ("Method(`get`)", 8, "lower case", "GET"),
    ("Method(`GET POST`)", 8, "no method", "||"),
    ("Header(`X Y`, `a`)", 8, "no header name", "X-Tenant"),
    ("Query(``)", 7, "empty query", "name"),
    ("ClientIP(`10.0.0.1/8`)", 10, "beyond its prefix", "10.0.0.0/8"),
    ("ClientIP(`10.0.0`)", 10, "neither", "10.0.0.0/8"),
    ("Host(`a`) && Host(`b`)", 0, "never be true", "||"),
    ("Method(`GET`) && Method(`PUT`)", 0, "never be true", "||"),
    ("Path(`/a`) && !Path(`/a`)", 0, "never be true", "||"),
    ("PathRegexp(`(`)", 13, "bad regexp", "pcre2pattern"),
    ("PathRegexp(`(a+)+`)", 12, "nested open repeats", "exponential"),
    ("HeaderRegexp(`x`, `(.)\\1`)", 22, "back reference", "slow"),
]


@pytest.mark.parametrize(("expression", "position", "message", "remedy"), ERRORS)
def test_error_says_what_where_and_what_to_do(expression: str, position: int, message: str, remedy: str) -> None:
    compiler = RouteCompiler()
    with pytest.raises(RouteError) as caught:
        compiler.add(0, "f", expression)
    error = caught.value
    assert message in error.message
    assert remedy in error.remedy
    assert error.position == position
    assert compiler.sections() == RouteCompiler().sections(), "a refused route leaves nothing behind"


def test_bounds() -> None:
    both = " && ".join(f"(Header(`a{i}`) || Header(`b{i}`))" for i in range(7))
    for expression, message in [
        (both, "64 alternatives"),
        (" || ".join(["Path(`/`)"] * 65), "64 matchers"),
        ("(" * 40 + "Path(`/`)" + ")" * 40, "32 levels"),
        ("!" * 40 + "Path(`/`)", "32 levels"),
        ("Path(`/" + "a" * 9000 + "`)", "8192"),
        ("Path(`" + "/a" * 41 + "`)", "40 segments"),
        ("Host(`" + "a." * 20 + "a`)", "20 segments"),
        ("Path(`" + "".join(f"/<p{i}>" for i in range(17)) + "`)", "16 parameters"),
        ("PathRegexp(`" + "a" * 513 + "`)", "512"),
    ]:
        with pytest.raises(RouteError, match=message):
            RouteCompiler().add(0, "f", expression)


def test_syntax_tree() -> None:
    a, b, c = (Predicate("Header", (name,)) for name in "abc")
    assert parse("Header(`a`) || Header(`b`) && !Header(`c`)") == Or(a, And(b, Not(c)))
    assert parse(' ( Header("a")||Header ( "b" ) )\n&& Header(`c`)') == And(Or(a, b), c)
    assert parse('Header("q\\"\\\\", `\\d`)') == Predicate("Header", ('q"\\', "\\d"))
    assert parse("Header(`é`) && Query(`x`)").right.position == 15  # type: ignore[union-attr]


@pytest.mark.parametrize("expression", ['Query("a\\"b`")', "Header(`X`, `y`)", "!Host(`a`)"])
def test_a_predicate_prints_as_it_is_written(expression: str) -> None:
    tree = parse(expression)
    predicate = tree.operand if isinstance(tree, Not) else tree
    assert parse(str(predicate)) == predicate
