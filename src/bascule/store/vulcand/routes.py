"""Route expressions of vulcand in our language: what they say is kept, which of several takes a request is our precedence.

    expression = term { "&&" term }        term = call | "(" expression ")"        call = name "(" string { "," string } ")"

Strings are Go's. vulcand has no `||` and no `!`. Its `Host`, `Path`, `Method` and `Header` take patterns with `<name>`,
`<int:name>` and `<path:name>`; the names are used by nothing, so they are numbered here (ours must differ).
"""

from __future__ import annotations

import re
from typing import Final

from bascule.routing.ast import quote
from bascule.store.vulcand.golang import unquote
from bascule.store.vulcand.regexps import methods_of, translate

ARGUMENTS: Final = {
    "Host": 1,
    "Path": 1,
    "Method": 1,
    "Header": 2,
    "HostRegexp": 1,
    "PathRegexp": 1,
    "MethodRegexp": 1,
    "HeaderRegexp": 2,
}
_TOKEN: Final = re.compile(r'\s*(?:([A-Za-z_]\w*)|("(?:[^"\\\n]|\\.)*"|`[^`]*`)|(&&|\|\||[(),!]))', re.DOTALL)
_PARAMETER: Final = re.compile(r"<(?:(\w+):)?([^<>]*)>")
_KINDS: Final = {"": "", "string": "", "int": "int:", "path": "path:"}
CALLS_MAX: Final = 64
NESTING_MAX: Final = 32


class UntranslatableError(ValueError):
    """An expression that has no meaning in vulcand, or none that we can keep; `remedy` says what to write."""

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


def translate_route(expression: str) -> str:
    """Return an expression of ours that matches the same requests; UntranslatableError when there is none."""
    return _Parser(expression).parse()


class _Parser:
    """One expression. Parameters are numbered through it."""

    def __init__(self, expression: str) -> None:
        self.tokens = _tokens(expression)
        self.at = 0
        self.parameters = 0
        self.calls = 0

    def parse(self) -> str:
        terms = self._expression(0)
        if self.at < len(self.tokens):
            self._unexpected()
        # A predicate that every request passes leaves nothing to say.
        return " && ".join(term for term in terms if term) or "PathPrefix(`/`)"

    def _expression(self, depth: int) -> list[str]:
        if depth > NESTING_MAX:
            raise UntranslatableError("the route is nested too deeply", "remove needless parentheses")
        terms = self._term(depth)
        while self._peek() == "&&":
            self.at += 1
            terms += self._term(depth)
        return terms

    def _term(self, depth: int) -> list[str]:
        if self._peek() == "(":
            self.at += 1
            terms = self._expression(depth + 1)  # of conjunctions alone, so the parentheses may go
            self._take(")")
            return terms
        return [self._call()]

    def _call(self) -> str:
        name = self._peek()
        if name not in ARGUMENTS:
            if name and (name[0].isalpha() or name[0] == "_"):
                raise UntranslatableError(f"vulcand has no matcher {name}", f"use one of {', '.join(ARGUMENTS)}")
            self._unexpected()
        self.calls += 1
        if self.calls > CALLS_MAX:
            raise UntranslatableError(f"the route has more than {CALLS_MAX} matchers", "split it")
        self.at += 1
        self._take("(")
        arguments = [self._string()]
        while self._peek() == ",":
            self.at += 1
            arguments.append(self._string())
        self._take(")")
        if len(arguments) != ARGUMENTS[name]:
            raise UntranslatableError(
                f"{name} has {len(arguments)} arguments", f"vulcand's {name} takes {ARGUMENTS[name]}"
            )
        return self._matcher(name, arguments)

    def _matcher(self, name: str, arguments: list[str]) -> str:
        *names, value = arguments
        if name == "MethodRegexp" and (methods := methods_of(value)):
            calls = " || ".join(_call("Method", method) for method in methods)
            return calls if len(methods) == 1 else f"({calls})"
        if name.endswith("Regexp"):
            return _call(name, *names, translate(value))
        if name == "Method":
            if _PARAMETER.fullmatch(value):
                return ""  # every method is one word
            return _call(name, value)
        if name == "Host":
            return self._host(value)
        return _call(name, *names, self._pattern(value))

    def _host(self, value: str) -> str:
        value = value.lower()
        whole = _PARAMETER.fullmatch(value)
        if whole and whole[1] == "path":
            return ""
        if any(parameter[1] == "path" for parameter in _PARAMETER.finditer(value)):
            # The rest of the name from there on; our own <path:x> is what stands before.
            return _call("HostRegexp", "^" + _host_regexp(value))
        if ":" in _PARAMETER.sub("", value):
            raise UntranslatableError(
                f"Host({quote(value)}) names a port, so it matches nothing in vulcand", "leave the port away"
            )
        return _call("Host", self._pattern(value))

    def _pattern(self, value: str) -> str:
        return _PARAMETER.sub(self._parameter, value)

    def _parameter(self, match: re.Match[str]) -> str:
        kind = _KINDS.get(match[1] or "")
        if kind is None:
            raise UntranslatableError(
                f"{match[0]} is no kind of parameter that vulcand knows", "use <name>, <int:name> or <path:name>"
            )
        self.parameters += 1
        return f"<{kind}p{self.parameters}>"

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self, token: str) -> None:
        if self._peek() != token:
            self._unexpected(token)
        self.at += 1

    def _string(self) -> str:
        token = self._peek()
        if token[:1] not in ('"', "`"):
            self._unexpected("a string")
        self.at += 1
        try:
            return unquote(token)
        except ValueError as error:
            raise UntranslatableError(str(error), "write it as Go does") from None

    def _unexpected(self, expected: str = "a matcher") -> None:
        found = self._peek() or "the end"
        if found in ("||", "!"):
            raise UntranslatableError(f"vulcand's routes have no {found}", "write one frontend for each alternative")
        raise UntranslatableError(f"expected {expected}, found {found}", 'write it as Host("a.com") && Path("/b")')


def _tokens(expression: str) -> list[str]:
    found, at, text = [], 0, expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UntranslatableError(
                f"{text[at : at + 20].strip()!r} is not part of a route", "compare it with vulcand's docs"
            )
        found.append(match[match.lastindex or 0])
        at = match.end()
    return found


def _host_regexp(value: str) -> str:
    """Return a host pattern whose <path:x> takes the rest of the name as a regular expression, tied at the beginning."""
    found, at = [], 0
    for match in _PARAMETER.finditer(value):
        found.append(re.escape(value[at : match.start()]))
        at = match.end()
        if match[1] == "path":
            return "".join(found)
        found.append("[0-9]+" if match[1] == "int" else "[^.]+")
    return "".join(found)


def _call(name: str, *arguments: str) -> str:
    return f"{name}({', '.join(quote(argument) for argument in arguments)})"
