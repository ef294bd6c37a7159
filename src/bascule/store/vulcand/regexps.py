"""Regular expressions of Go (RE2) in the words of ours (PCRE2, with what could be slow refused).

Both search anywhere in the text. The two agree on all that routes are made of; what differs is rewritten where that keeps the
meaning: named groups become plain ones (captures are not used by vulcand), `.*` at an open end says nothing and is left
away (two of them are refused for their cost), `\\z` and `\\A` are `$` and `^`.
"""

from __future__ import annotations

import re
from typing import Final

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")
_NAMED: Final = re.compile(r"((?:^|[^\\])(?:\\\\)*)\(\?P?<\w+>")
_METHODS: Final = re.compile(r"\^?\(?(?:\?:)?\^?([A-Z]+\$?(?:\|\^?[A-Z]+\$?)*)\)?\$?")
_LEADING: Final = re.compile(r"(?:\^|\\A)?\.\*\??(?=.)", re.DOTALL)
_TRAILING: Final = re.compile(r"(?<!\\)((?:\\\\)*)\.\*\??(?:\$|\\z)?\Z")


def translate(pattern: str) -> str:
    """Return a pattern that finds what `pattern` finds in Go. Whether it may be used, the route compiler says."""
    pattern = _NAMED.sub(r"\1(", pattern)
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)\\z", r"\1$", pattern)
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)\\A", r"\1^", pattern)
    if pattern.startswith("(?s)"):  # our dot takes every byte
        pattern = pattern[4:]
    if "|" not in _outside_groups(pattern):
        pattern = _open_ends(pattern)
    return pattern


def _open_ends(pattern: str) -> str:
    """Leave `.*` at the beginning and at the end away, where a search may begin and end anywhere by itself.

    A dot of Go does not match a newline. No host and no method has one, and a path has it only to get past such a pattern.
    """
    shorter = _LEADING.sub("", pattern, count=1) if _LEADING.match(pattern) else pattern
    if shorter[:1] in ("?", "+", "*", "{"):
        shorter = pattern
    trailing = _TRAILING.search(shorter)
    if trailing and trailing.start() > 0 and not _in_class(shorter, trailing.start()):
        shorter = shorter[: trailing.start()] + trailing[1]
    return shorter or pattern


def _outside_groups(pattern: str) -> str:
    """Return the characters of a pattern that are outside of groups, classes and escapes."""
    found, depth, in_class, at = [], 0, False, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif depth == 0:
            found.append(character)
        at += 1
    return "".join(found)


def _in_class(pattern: str, position: int) -> bool:
    return pattern.rfind("[", 0, position) > pattern.rfind("]", 0, position)


def methods_of(pattern: str) -> tuple[str, ...]:
    """Return the methods that a pattern such as `PUT|POST` or `^(GET|HEAD)$` lists, empty when it is more than a list."""
    match = _METHODS.fullmatch(pattern)
    names = [name.strip("^$") for name in match[1].split("|")] if match else []
    return tuple(dict.fromkeys(names)) if names and all(name in METHODS for name in names) else ()
