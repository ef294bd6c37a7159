"""Values as Go programs write them: JSON with fields in any case, durations, string literals, listening addresses."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_ESCAPES: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}
_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")


class Fields:
    """A JSON object read as encoding/json reads it into a struct: names in any case, unknown ones ignored, null as absent.

    The getters raise ValueError for a value of another type.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        """`path` begins the names in errors."""
        self._values: dict[str, Any] = {}
        for name, value in values.items():
            if value is not None:
                self._values[name.lower()] = value
        self._path = path

    @staticmethod
    def parse(value: bytes) -> Fields:
        """Return the fields of a JSON text; ValueError when it is no JSON object."""
        try:
            parsed = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004 - of the text, not of the caller
        return Fields(parsed)

    def _get(self, name: str, kind: type, noun: str, default: Any) -> Any:
        value = self._values.get(name.lower(), default)
        if kind is int and isinstance(value, bool):
            raise ValueError(f"{self._path}{name} is not {noun}")
        if not isinstance(value, kind):
            raise ValueError(f"{self._path}{name} is not {noun}")  # noqa: TRY004
        return value

    def text(self, name: str) -> str:
        """Return a text, empty when absent."""
        value: str = self._get(name, str, "a text", "")
        return value

    def integer(self, name: str) -> int:
        """Return an integer, 0 when absent."""
        value: int = self._get(name, int, "an integer", 0)
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, false when absent."""
        value: bool = self._get(name, bool, "true or false", False)
        return value

    def inner(self, name: str) -> Fields:
        """Return an object, empty when absent."""
        return Fields(self._get(name, dict, "an object", {}), f"{self._path}{name}.")

    def has(self, name: str) -> bool:
        """Tell whether a field is there and not empty, zero or false."""
        return bool(self._values.get(name.lower()))

    def duration_ms(self, name: str) -> int | None:
        """Return a duration in ms, a part of one rounded up; None when absent or empty."""
        text = self.text(name)
        if not text:
            return None
        try:
            return -(-duration_ns(text) // 1_000_000)
        except ValueError as error:
            raise ValueError(f"{self._path}{name}: {error}") from None


def duration_ns(text: str) -> int:
    """Return a duration as time.ParseDuration takes it, in ns: "1m30s", "1.5h", "-2s", "0"."""
    sign = -1 if text[:1] == "-" else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not (part[1] or part[2]):
            break
        at = part.end()
        scale = _NANOSECONDS[part[3]]
        total += int(part[1] or 0) * scale
        if part[2]:
            total += int(part[2]) * scale // 10 ** len(part[2])
    if not rest or at < len(rest):
        raise ValueError(f"{text!r} is not a duration")
    return sign * total


def unquote(literal: str) -> str:
    """Return what a Go string literal stands for; ValueError when it is none."""
    if len(literal) >= 2 and literal[0] == literal[-1] == "`" and "`" not in literal[1:-1]:
        return literal[1:-1].replace("\r", "")
    if len(literal) < 2 or literal[0] != '"' or literal[-1] != '"':
        raise ValueError(f"{literal} is not a string")
    found, at, inside = [], 0, literal[1:-1]
    octets = bytearray()
    while at < len(inside):
        if inside[at] != "\\":
            if inside[at] == '"' or inside[at] == "\n":
                raise ValueError(f"{literal} is not a string")
            octets += inside[at].encode("utf-8", "surrogatepass")
            at += 1
            continue
        escape = _ESCAPE.match(inside, at)
        if escape is None:
            raise ValueError(f"unknown escape {inside[at : at + 2]} in {literal}")
        plain, octal, two, four, eight = escape.groups()
        if plain:
            octets += _ESCAPES[plain].encode()
        elif octal or two:
            octets.append(int(octal, 8) & 0xFF if octal else int(two, 16))
        else:
            code = int(four or eight, 16)
            if code > sys.maxunicode:
                raise ValueError(f"{escape[0]} in {literal} is no character")
            octets += chr(code).encode("utf-8", "surrogatepass")
        at = escape.end()
    found.append(octets.decode("utf-8", "replace"))
    return "".join(found)


def listen_address(text: str) -> tuple[str, str]:
    """Return Go's `host:port` as an address of ours, and what is lost by it (empty: nothing); ValueError for what cannot be."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal():
        raise ValueError(f"{text!r} is not host:port")
    if host in ("", "*"):
        return f"0.0.0.0:{port}", f"{text} is every IPv4 address here; for IPv6 add a listener on [::]:{port}"
    if host == "localhost":
        return f"127.0.0.1:{port}", ""
    if ":" in host and not host.startswith("["):
        raise ValueError(f"{text!r} is not host:port")
    return f"{host}:{port}", ""
