"""Draws the states of a connection from the engine's own sources, into docs/ownership.md between its markers.

  python docs/states.py        rewrites the diagram

Two sources say which moves are legal: the comment over ConnState in types.pxd, for readers, and `is_legal` in connection.pyx, which
a debug build asserts on every move. tests/engine/test_states.py checks that they and the diagram agree.
"""

import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TYPES = ROOT / "cext" / "bascule" / "engine" / "types.pxd"
CONNECTION = ROOT / "cext" / "bascule" / "engine" / "connection.pyx"
DOCUMENT = ROOT / "docs" / "ownership.md"
FIRST = ("CLIENT_IDLE", "SERVER_CONNECTING")
CLOSED = "CONN_CLOSED"

Moves = set[tuple[str, str]]


def states() -> dict[str, int]:
    """The members of ConnState and their values."""
    block = re.search(r"cdef enum ConnState:\n((?:    .*\n)+)", TYPES.read_text())
    assert block, "types.pxd has no ConnState"
    return {name: int(value) for name, value in re.findall(r"^    (\w+) = (\d+)", block[1], re.MULTILINE)}


def moves_in_code() -> Moves:
    """Every pair that `is_legal` accepts: its body is Python once the C types are taken away, so it is run."""
    found = re.search(r"cdef bint is_legal\(.*?\) noexcept nogil:\n((?:    .*\n|\n)+)", CONNECTION.read_text())
    assert found, "connection.pyx has no is_legal"
    names = states()
    scope: dict[str, object] = dict(names)
    exec("def is_legal(old, new):\n" + found[1], scope)  # noqa: S102  the engine's own source
    is_legal = scope["is_legal"]
    assert callable(is_legal)
    return {(a, b) for a in names for b in names if is_legal(names[a], names[b])}


def moves_in_comment() -> Moves:
    """Every pair that the comment over ConnState draws: "client: IDLE -> HEAD -> ...", "any -> CLOSED"."""
    found = re.search(
        r"# States of a connection, and the legal moves\.\n((?:#.*\n)+)cdef enum ConnState", TYPES.read_text()
    )
    assert found, "types.pxd has no comment over ConnState"
    moves: Moves = set()
    side = ""
    for raw in found[1].splitlines():
        line = re.sub(r"\([^)]*\)", "", raw.lstrip("# "))
        if ":" in line:
            side, _, line = line.partition(":")
            side = side.strip().upper()
        line = line.replace("...", "").strip()
        if "->" not in line:
            continue
        path = [word.strip() for word in line.split("->")]
        for old, new in pairwise(path):
            olds = [name for name in states() if name.startswith(side)] if old == "any" else [f"{side}_{old}"]
            moves |= {(one, CLOSED if new == "CLOSED" else f"{side}_{new}") for one in olds}
    return moves


def diagram() -> str:
    """Mermaid: one picture for clients, one for servers; that every state may close is said once, not drawn."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {first}" for first in FIRST]
    order = list(states())
    for old, new in sorted(moves_in_code(), key=lambda move: (order.index(move[0]), order.index(move[1]))):
        if new != CLOSED:
            lines.append(f"    {old} --> {new}")
    last = [name for name in order if name != CLOSED and not any(a == name and b != CLOSED for a, b in moves_in_code())]
    lines += [f"    {name} --> [*]" for name in last]
    return "\n".join([*lines, "```"])


def drawn(document: str) -> str:
    """The document with the diagram of now."""
    return re.sub(
        r"<!-- states -->\n.*?<!-- end -->", f"<!-- states -->\n{diagram()}\n<!-- end -->", document, flags=re.DOTALL
    )


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))
