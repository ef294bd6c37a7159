"""Regular expressions: what is refused, agreement with Python's re on a common subset, and limits."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.routing import pcre
from bascule.routing.safety import unsafe_construct
from tests.routing.tables import winner


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+", "(a*)*", "(a+)*b", "([a-z]+)+$", "(a+){5}", "((a+)b)+", "(?:a+)+", "(x+x+)+y", "(a|a)*", "(a|ab)*",
        "(.|b)+", "(a?b|b)*",
        "(|a)+", r"(\d|1)*", r"(a)\1", r"\g{1}", r"\k<n>", "(?P<n>a)", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)",
        "(?R)", "(?1)", "(?(1)a|b)",
        "(?C)", "(*COMMIT)", r"\Qa\E", r"\K", r"\R", ".*.*", "a*a*", r"\w+\w+",
        "a{1001}", "a{0,2000}", "a+b+c+d+e+f+g+h+i+",
        "(" * 21 + "a" + ")" * 21,
    ],
)  # fmt: skip
def test_refused(pattern: str) -> None:
    refusal = pcre.check(pattern.encode())
    assert refusal is not None
    message, offset, remedy = refusal
    assert message
    assert remedy
    assert 0 <= offset < len(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "", "^/api/v[0-9]+/", r"\.(?:jpe?g|png)$", "^(?:www|api)[.]", r"(?i)^/Admin", "(ab|cd)*", "[^/]+/[^/]+/[^/]+",
        r"^/(\d{4})-(\d\d)$",
        r"[]a]", r"[^]a]", r"[\]a]+x", "[[:alpha:]]+", "a{2}", "a{,2}",
        "a{x", "(a|b)?", "(a+)?", "a++b", "a+?b", "(?>a|b)",
        r"(^|; )beta=[^;]*", r"\(a+\)+", "[(a+)+]",
    ],
)  # fmt: skip
def test_accepted(pattern: str) -> None:
    assert pcre.check(pattern.encode()) is None


@pytest.mark.parametrize(
    ("pattern", "offset"), [("a(", 2), ("a)", 1), ("[a", 2), ("*", 0), ("a**", 2), ("\\", 1), ("[b-a]", 3)]
)
def test_bad_syntax_has_its_place(pattern: str, offset: int) -> None:
    refusal = pcre.check(pattern.encode())
    assert refusal is not None
    assert refusal[0].startswith("bad regexp")
    assert refusal[1] == offset


@st.composite
def patterns(draw: st.DrawFn, depth: int = 2) -> str:
    atoms = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a]", r"\d", r"\.", r"\w", "[0-9a]"])
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        atom = draw(atoms)
        if depth and draw(st.integers(0, 3)) == 0:
            atom = "(" + "|".join(draw(st.lists(patterns(depth - 1), min_size=1, max_size=3))) + ")"
        pieces.append(atom + draw(st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{1,3}", "{2,}"])))
    return draw(st.sampled_from(["", "", "^"])) + "".join(pieces) + draw(st.sampled_from(["", "", "$"]))


@settings(max_examples=300, deadline=None)
@given(patterns(), st.lists(st.text("ab/1.A\n", max_size=12), min_size=1, max_size=6), st.booleans())
def test_agrees_with_re(pattern: str, texts: list[str], caseless: bool) -> None:
    if unsafe_construct(pattern.encode()) is not None:
        return
    # Python's $ matches before a last newline too; ours is the very end, which Python calls \Z
    expected = re.compile(pattern.replace("$", r"\Z").encode(), re.S | (re.I if caseless else 0))
    for text in texts:
        assert pcre.search(pattern.encode(), text.encode(), caseless) is (expected.search(text.encode()) is not None)


def test_a_search_that_hits_the_limit_is_undecided() -> None:
    """Patterns like this are refused in routes; the limit is the second line of defence."""
    assert pcre.check(b"(a|aa)+$") is not None
    assert pcre.search(b"(a|aa)+$", b"a" * 200 + b"b") is None


def test_an_undecided_predicate_does_not_match_negated_or_not() -> None:
    slow = {"path": "/" + "ab" * 40_000}
    assert winner(["PathRegexp(`c`)", "PathPrefix(`/`)"], **slow) == 1
    assert winner(["!PathRegexp(`c`)", "PathPrefix(`/`)"], **slow) == 1


def test_texts_are_octets() -> None:
    assert pcre.search(b"^.$", b"\xff") is True
    assert pcre.search(b"^..$", "é".encode()) is True
    assert pcre.search(b"a.b", b"a\nb") is True
    assert pcre.search(b"", b"") is True
