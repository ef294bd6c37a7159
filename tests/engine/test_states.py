"""The states of a connection: what the engine allows, what its data sheet says, and what the documents draw."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("states_of_connections", ROOT / "docs" / "states.py")
assert spec
assert spec.loader
states = importlib.util.module_from_spec(spec)
spec.loader.exec_module(states)


def test_code_and_data_sheet_agree() -> None:
    assert states.moves_in_code() == states.moves_in_comment()


def test_the_diagram_is_of_this_code() -> None:
    text = states.DOCUMENT.read_text()
    assert "stateDiagram" in text
    assert states.drawn(text) == text, "run: python docs/states.py"


def test_every_open_state_can_close_and_none_comes_back() -> None:
    names = set(states.states()) - {states.CLOSED}
    moves = states.moves_in_code()
    assert {old for old, new in moves if new == states.CLOSED} == names
    assert not {new for old, new in moves if old == states.CLOSED}


def test_every_state_can_be_reached() -> None:
    moves = states.moves_in_code()
    reached = set(states.FIRST)
    while more := {new for old, new in moves if old in reached} - reached:
        reached |= more
    assert reached == set(states.states())


def test_every_object_of_a_worker_has_an_owner() -> None:
    """The table of docs/ownership.md names each struct that the engine's data sheets declare."""
    declared = {
        name
        for sheet in ("types", "memory", "timers")
        for name in re.findall(
            r"^cdef struct (\w+):", (ROOT / f"cext/bascule/engine/{sheet}.pxd").read_text(), re.MULTILINE
        )
    }
    text = (ROOT / "docs" / "ownership.md").read_text()
    assert {name for name in declared if f"`{name}`" not in text} == set()
