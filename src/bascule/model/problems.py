"""What is wrong with a configuration: where, what, and what to do about it."""

import difflib
from collections.abc import Iterable, Sequence

import msgspec

Path = tuple[str, ...]
"""The keys that lead to a value: ("backends", "app", "servers", "a1", "url"); array indices are decimal."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error, or one warning, of a configuration.

    `line` and `column` count from 1; 0 means that the place has no line (an object that is not from a file).
    """

    message: str
    remedy: str = ""
    path: Path = ()
    file: str = ""
    line: int = 0
    column: int = 0
    warning: bool = False

    def render(self) -> str:
        """Return the problem for a person: `file:line: key.path: what is wrong` and the remedy below it."""
        place = ":".join(part for part in (self.file, str(self.line or ""), str(self.column or "")) if part)
        parts = [place, dotted(self.path), ("warning: " if self.warning else "") + self.message]
        text = ": ".join(part for part in parts if part)
        return f"{text}\n    {self.remedy}" if self.remedy else text

    def at(self, file: str, line: int) -> "Problem":
        """Return the problem with its place in a file."""
        return msgspec.structs.replace(self, file=file, line=line)


class ConfigError(Exception):
    """A configuration that cannot come into force; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """See the class."""
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(problem.render() for problem in self.problems))


def dotted(path: Path) -> str:
    """Return a path as TOML writes a dotted key, quoting what needs it."""
    return ".".join(key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"' for key in path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the known word nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""
