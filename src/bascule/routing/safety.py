r"""Refuses regular expressions that a backtracking matcher could be slow on, before they reach a worker.

A backtracking matcher is linear on a regexp whose every choice is soon decided; it is exponential when a repeated group
can match the same text in several ways, and polynomial of the degree of the number of open repeats that can trade text
with each other. So:

- back references, recursion, lookaround, conditionals, callouts, verbs: refused (not regular, or not needed to route);
- an open repeat (`*`, `+`, `{n,}`) or one of more than REPEAT_MAX inside a group that is itself so repeated: refused,
  `(a+)+` and its kin;
- alternatives inside a group so repeated: only if each begins with its own literal character, `(ab|cd)*` but not
  `(a|ab)*`;
- at most OPEN_REPEATS_MAX open repeats in all, and no two side by side on sets that overlap plainly (`.*.*`);
- counted repeats up to REPEAT_MAX.

What passes is bounded once more by the match limit (routing/pcre.pxd). Source: Davis et al., "The impact of regular
expression denial of service in practice", ESEC/FSE 2018, section 2 (exponential and polynomial ambiguity).
"""

from dataclasses import dataclass, field
from typing import TypeAlias

Refusal: TypeAlias = tuple[str, int, str]

OPEN_REPEATS_MAX = 8
REPEAT_MAX = 1000
GROUP_DEPTH_MAX = 20


class _Unsafe(Exception):
    def __init__(self, message: str, offset: int, remedy: str) -> None:
        super().__init__(message)
        self.refusal: Refusal = (message, offset, remedy)


@dataclass
class _Group:
    """What is inside one pair of parentheses: open repeats, and how each alternative begins."""

    start: int
    open_repeats: int = 0
    starts: list[bytes | None] = field(default_factory=lambda: [b""])  # b"" = nothing yet, None = no literal


def unsafe_construct(pattern: bytes) -> Refusal | None:
    """None if `pattern` may be used, else (message, offset in bytes, remedy). Syntax errors are left to PCRE2."""
    try:
        _Scanner(pattern).scan()
    except _Unsafe as unsafe:
        return unsafe.refusal
    return None


class _Scanner:
    """One pass over a pattern, with a stack of the groups that are open."""

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.at = 0
        self.groups = [_Group(0)]
        self.open_repeats = 0
        self.last_open: bytes | None = None  # the atom of the open repeat just before, if nothing came between

    def scan(self) -> None:
        """Walks over the pattern; raises _Unsafe."""
        while self.at < len(self.pattern):
            start = self.at
            char = self.pattern[start : start + 1]
            if char == b"(":
                self._open_group()
            elif char == b"|":
                self.at += 1
                self.groups[-1].starts.append(b"")
                self.last_open = None
            elif char == b")":
                self.at += 1
                group = self.groups.pop() if len(self.groups) > 1 else _Group(start)  # an extra ')' is left to PCRE2
                first = self._begin(None)
                self._repeat(start, group, None, first)
                self.groups[-1].open_repeats += group.open_repeats
            else:
                literal = self._atom(char)
                first = self._begin(literal)
                self._repeat(start, None, self.pattern[start : self.at], first)

    def _begin(self, literal: bytes | None) -> bool:
        """Notes what an alternative begins with; True if this was its first atom."""
        starts = self.groups[-1].starts
        first = starts[-1] == b""
        if first:
            starts[-1] = literal
        return first

    def _open_group(self) -> None:
        start = self.at
        rest = self.pattern[start + 1 : start + 4]
        self.at += 1
        if rest[:1] == b"*":
            raise _Unsafe("verb in a regexp", start, "(*...) may not be used in routes")
        if rest[:1] == b"?":
            if rest[1:2] == b":" or rest[1:2] == b">":
                self.at += 2
            elif rest[1:2] == b"i" and rest[2:3] == b")":
                self.at += 3
                return
            else:
                raise _Unsafe(
                    "special group in a regexp",
                    start,
                    "only (...), (?:...), (?>...) and (?i) may be used; look-around and recursion can be slow, "
                    "use && and ! between matchers instead",
                )
        self.last_open = None
        self.groups.append(_Group(start))
        if len(self.groups) > GROUP_DEPTH_MAX:
            raise _Unsafe(f"regexp groups nested deeper than {GROUP_DEPTH_MAX}", start, "simplify it")

    def _atom(self, char: bytes) -> bytes | None:
        """Moves over one atom; returns it if it is a literal character."""
        if char == b"[":
            self._character_class()
            return None
        if char != b"\\":
            self.at += 1
            return None if char in b".^$" else char
        following = self.pattern[self.at + 1 : self.at + 2]
        if (following.isdigit() and following != b"0") or following in (b"g", b"k"):
            raise _Unsafe("back reference in a regexp", self.at, "it can be slow; compare in the server instead")
        if following in (b"C", b"K", b"Q", b"E", b"X", b"R", b"N", b"P", b"p"):
            raise _Unsafe(f"\\{following.decode()} in a regexp", self.at, "it may not be used in routes")
        self.at += 2
        return following if following and not following.isalnum() else None

    def _character_class(self) -> None:
        self.at += 1
        if self.pattern[self.at : self.at + 1] == b"^":
            self.at += 1
        if self.pattern[self.at : self.at + 1] == b"]":
            self.at += 1
        while self.at < len(self.pattern) and self.pattern[self.at : self.at + 1] != b"]":
            named_end = self.pattern.find(b":]", self.at) if self.pattern[self.at : self.at + 2] == b"[:" else -1
            if named_end > 0:
                self.at = named_end + 2
            else:
                self.at += 2 if self.pattern[self.at : self.at + 1] == b"\\" else 1
        self.at += 1

    def _quantifier(self) -> tuple[int, int | None] | None:
        """(least, most) repeats, most None for open; None if there is no quantifier. Moves over it."""
        char = self.pattern[self.at : self.at + 1]
        bounds: tuple[int, int | None]
        if char in (b"*", b"+", b"?"):
            bounds = (1 if char == b"+" else 0, 1 if char == b"?" else None)
            end = self.at + 1
        else:
            end = self.pattern.find(b"}", self.at) + 1
            least, comma, most = self.pattern[self.at + 1 : max(end - 1, 0)].partition(b",")
            if char != b"{" or not end or not least.isdigit() or not (most == b"" or most.isdigit()):
                return None
            bounds = (int(least), int(most) if most else None if comma else int(least))
        self.at = end
        if self.pattern[end : end + 1] in (b"?", b"+"):
            self.at += 1
        return bounds

    def _repeat(self, start: int, group: _Group | None, atom: bytes | None, first: bool) -> None:
        """Judges the quantifier, if any, behind an atom or a group."""
        where = self.at
        bounds = self._quantifier()
        before, self.last_open = self.last_open, None
        if bounds is None:
            return
        least, most = bounds
        if first and least == 0:
            self.groups[-1].starts[-1] = None
        if least > REPEAT_MAX or (most or 0) > REPEAT_MAX:
            raise _Unsafe(f"regexp repeats more than {REPEAT_MAX} times", where, "use an open repeat, * or +")
        if group is not None and (most is None or most > 1):
            self._repeated_group(group)
        if most is not None:
            return
        self.groups[-1].open_repeats += 1
        self.open_repeats += 1
        if self.open_repeats > OPEN_REPEATS_MAX:
            raise _Unsafe(
                f"regexp with more than {OPEN_REPEATS_MAX} open repeats (*, +)", where, "simplify it or split the route"
            )
        if atom is not None:
            if before is not None and (before == atom or b"." in (before, atom)):
                raise _Unsafe("two open repeats side by side in a regexp", start, "join them into one")
            self.last_open = atom

    def _repeated_group(self, group: _Group) -> None:
        if group.open_repeats:
            raise _Unsafe(
                "nested open repeats in a regexp, as in (a+)+",
                group.start,
                "they can take exponential time; repeat only the group or only what is in it",
            )
        if len(group.starts) > 1 and (
            None in group.starts or b"" in group.starts or len(set(group.starts)) < len(group.starts)
        ):
            raise _Unsafe(
                "repeated alternatives that may begin alike in a regexp, as in (a|ab)*",
                group.start,
                "let each alternative begin with its own literal character, or use a character class",
            )
