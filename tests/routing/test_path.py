"""The canonical path: RFC 3986 section 6.2.2, and the tricks by which a path has meant two things to two programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.routing.path import canonical

UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
SUB_DELIMS = b"!$&'()*+,;=:@"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (b"/", b"/"),
        (b"*", b"*"),
        (b"/a/b/c/./../../g", b"/a/g"),  # RFC 3986 section 5.2.4
        (b"/mid/content=5/../6", b"/mid/6"),
        (b"/b/c/g;x=1/./y", b"/b/c/g;x=1/y"),  # section 5.4.2
        (b"/b/c/g;x=1/../y", b"/b/c/y"),
        (b"/b/c/g.", b"/b/c/g."),
        (b"/b/c/.g", b"/b/c/.g"),
        (b"/b/c/g..", b"/b/c/g.."),
        (b"/b/c/..g", b"/b/c/..g"),
        (b"/b/c/...", b"/b/c/..."),
        (b"/.../a", b"/.../a"),
        (b"/a/.", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/./a", b"/a"),
        (b"//", b"/"),
        (b"/a//b///c", b"/a/b/c"),
        (b"/a//", b"/a/"),
        (b"//a", b"/a"),
        (b"/a//../b", b"/b"),
        (b"/.//./a", b"/a"),
        (b"/%7Esmith/home", b"/~smith/home"),  # section 6.2.2.2
        (b"/%41%2d%5F%2E", b"/A-_."),
        (b"/%c3%a9%3a", b"/%C3%A9%3A"),  # section 6.2.2.1; ':' is reserved and stays encoded
        (b"/a%20b%3F%23", b"/a%20b%3F%23"),
        (b"/%25", b"/%25"),
        (b"/%252e%252e/", b"/%252e%252e/"),  # decoded once, never twice
        (b"/%2e/a", b"/a"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/" + SUB_DELIMS, b"/" + SUB_DELIMS),
        (b"/.well-known/acme", b"/.well-known/acme"),
    ],
)
def test_canonical(path: bytes, form: bytes) -> None:
    assert canonical(path) == form


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"**",
        b"?",
        b"/..",
        b"/../a",
        b"/a/../..",
        b"/a/../../b",
        b"/%2e%2e/a",
        b"/.%2E/etc/passwd",
        b"/a//../../b",
        b"/a%2fb",
        b"/a%2Fb",
        b"/..%2f..%2fetc",
        b"/a%5cb",
        b"/a%5C..%5Cb",
        b"/a\\b",
        b"/\\..\\a",
        b"/a%00",
        b"/a%00.jpg",
        b"/a\x00b",
        b"/public/..;/admin",
        b"/public/.;/admin",
        b"/public/..;x=1/admin",
        b"/public/%2e%2e;/admin",
        b"/%",
        b"/%4",
        b"/a%",
        b"/%zz",
        b"/%4g",
        b"/%u0041",
        b"/a b",
        b"/a\tb",
        b"/a\rb",
        b"/a\nb",
        b"/a#b",
        b"/a?b",
        b'/a"b',
        b"/<a>",
        b"/[a]",
        b"/{a}",
        b"/a|b",
        b"/a^b",
        b"/a`b",
        b"/caf\xc3\xa9",
        b"/\xff",
        b"/a\x7f",
    ],
)
def test_refused(path: bytes) -> None:
    assert canonical(path) is None


def plainly(path: bytes) -> bytes | None:
    """The definition, written down plainly."""
    if path == b"*":
        return path
    if not path.startswith(b"/"):
        return None
    out: list[bytes] = []
    parts = path[1:].split(b"/")
    open_end = False
    for part in parts:
        text, at = b"", 0
        while at < len(part):
            octet = part[at : at + 1]
            if octet == b"%":
                digits = part[at + 1 : at + 3]
                if len(digits) < 2 or any(d not in b"0123456789abcdefABCDEF" for d in digits):
                    return None
                value = bytes([int(digits, 16)])
                if value in b"\0/\\":
                    return None
                text += value if value in UNRESERVED else b"%" + digits.upper()
                at += 3
            elif octet in UNRESERVED + SUB_DELIMS:
                text += octet
                at += 1
            else:
                return None
        if text.split(b";")[0] in (b".", b"..") and b";" in text:
            return None
        if text == b"..":
            if not out:
                return None
            out.pop()
        elif text not in (b"", b"."):
            out.append(text)
        open_end = text not in (b"", b".", b"..")
    return b"/" + b"/".join(out) + (b"" if open_end or not out else b"/")


PIECES = [
    b"/",
    b"/",
    b"a",
    b".",
    b"..",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5c",
    b"%00",
    b"%c3",
    b"%3b",
    b";",
    b"b",
    b"%",
    b"~",
    b"%7e",
    b"\\",
    b" ",
]


@given(st.lists(st.sampled_from(PIECES[:8] + PIECES), max_size=14).map(lambda parts: b"/" + b"".join(parts)))
def test_agrees_with_the_plain_definition_and_is_idempotent(path: bytes) -> None:
    form = canonical(path)
    assert form == plainly(path)
    if form is not None:
        assert canonical(form) == form
        assert len(form) <= len(path)


@given(st.binary(max_size=40))
def test_any_bytes(path: bytes) -> None:
    assert canonical(b"/" + path) == plainly(b"/" + path)
