"""A parsed route expression as plain objects (made by routing/expression.pyx)."""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Predicate:
    """One call, such as Host("a.com"); `position`, its 0-based character, takes no part in equality."""

    name: str
    args: tuple[str, ...]
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """The call as one would write it."""
        return f"{self.name}({', '.join(quote(arg) for arg in self.args)})"


@dataclass(frozen=True, slots=True)
class Not:
    """True when `operand` is false."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """True when both operands are."""

    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Or:
    """True when either operand is."""

    left: "Expression"
    right: "Expression"


Expression: TypeAlias = Predicate | Not | And | Or


def quote(text: str) -> str:
    """`text` as a string of the route language."""
    if "`" not in text:
        return f"`{text}`"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
