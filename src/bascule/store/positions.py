"""On which line of a TOML or JSON text a value stands. Only asked when something is wrong, so nothing is kept for it.

Neither scanner validates: tomllib and msgspec have accepted the text before. The TOML scanner knows headers, dotted
and quoted keys, multi-line strings and multi-line values (TOML 1.0.0); a key inside an inline table has the line of
the table's own key.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from bascule.model.problems import Path

_KEY_PART: Final = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.?)""")
_STRING_OR_BRACKET: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n''', re.DOTALL
)
_JSON_TOKEN: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


class Positions:
    """Lines of the values in one text, by key path; lines count from 1."""

    def __init__(self, lines: dict[Path, int], duplicates: list[tuple[Path, int]]) -> None:
        """See the class."""
        self._lines = lines
        self.duplicates = duplicates
        """Keys that stand twice in one JSON object, at their second place."""

    def line(self, path: Path) -> int:
        """Return the line of a value, or of the nearest value around it; 0 when the text has nothing of it."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 0


def toml_positions(text: str) -> Positions:
    """Return the lines of all tables and keys of a TOML text."""
    lines: dict[Path, int] = {}
    table: Path = ()
    arrays: dict[Path, int] = {}
    for number, statement in _toml_statements(text):
        stripped = statement.lstrip()
        if stripped.startswith("[["):
            name, _ = _toml_key(stripped[2:])
            arrays[name] = arrays.get(name, -1) + 1
            table = (*name, str(arrays[name]))
            lines.setdefault(table, number)
        elif stripped.startswith("["):
            table, _ = _toml_key(stripped[1:])
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], number)
        else:
            key, _ = _toml_key(stripped)
            for length in range(1, len(key) + 1):
                lines.setdefault((*table, *key[:length]), number)
    return Positions(lines, [])


def _toml_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every header and key/value pair; a value over several lines belongs to its first."""
    number, start, start_line, depth = 1, 0, 1, 0
    for match in _STRING_OR_BRACKET.finditer(text + "\n"):
        piece = match[0]
        if piece == "\n":
            statement = text[start : match.start()]
            if depth == 0 or statement.lstrip().startswith("["):
                if statement.strip() and not statement.lstrip().startswith("#"):
                    yield start_line, statement
                start, start_line, depth = match.end(), number + 1, 0
            number += 1
        elif piece in "[{":
            depth += 1
        elif piece in "]}":
            depth -= 1
        else:
            number += piece.count("\n")


def _toml_key(text: str) -> tuple[Path, int]:
    parts: list[str] = []
    position = 0
    while match := _KEY_PART.match(text, position):
        parts.append(next(group for group in match.groups()[:3] if group is not None))
        position = match.end()
        if not match[4]:
            break
    return tuple(parts), position


def json_positions(text: str) -> Positions:
    """Return the lines of all values of a JSON text, and the keys that stand twice."""
    lines: dict[Path, int] = {}
    duplicates: list[tuple[Path, int]] = []
    path: list[str] = []
    open_brackets: list[str] = []
    expect_key = False
    number = 1
    for match in _JSON_TOKEN.finditer(text):
        piece = match[0]
        if piece == "\n":
            number += 1
            continue
        if open_brackets and open_brackets[-1] == "[" and piece not in ",]":
            lines.setdefault(tuple(path), number)
        if piece in "{[":
            open_brackets.append(piece)
            path.append("0")
            expect_key = piece == "{"
        elif piece in "}]":
            if open_brackets:
                open_brackets.pop()
                path.pop()
            expect_key = False
        elif piece == ",":
            expect_key = bool(open_brackets) and open_brackets[-1] == "{"
            if open_brackets and not expect_key:
                path[-1] = str(int(path[-1]) + 1)
        elif expect_key and piece[0] == '"':
            path[-1] = json.loads(piece) if "\\" in piece else match[1]
            place = tuple(path)
            if place in lines:
                duplicates.append((place, number))
            lines.setdefault(place, number)
            expect_key = False
    return Positions(lines, duplicates)
