import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bascule.store.positions import json_positions, toml_positions

SCALARS = st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab}{", max_size=3), inner, max_size=3)
)


def expected_lines(value: Any, path: tuple[str, ...], text: str, cursor: int, found: dict[tuple[str, ...], int]) -> int:
    """Walk `value` beside its indented text, noting the line where every value begins; returns the cursor after it."""
    if isinstance(value, dict):
        for key, item in value.items():
            cursor = text.index(json.dumps(key), cursor)
            found[(*path, key)] = text.count("\n", 0, cursor) + 1
            cursor = expected_lines(item, (*path, key), text, cursor + len(json.dumps(key)), found)
        return cursor if value else text.index("{", cursor) + 1
    if isinstance(value, list):
        cursor = text.index("[", cursor) + 1
        for index, item in enumerate(value):
            first = {dict: "{", list: "["}.get(type(item)) or json.dumps(item)
            cursor = text.index(first, cursor)
            found[(*path, str(index))] = text.count("\n", 0, cursor) + 1
            cursor = expected_lines(item, (*path, str(index)), text, cursor, found)
        return cursor
    return text.index(json.dumps(value), cursor) + len(json.dumps(value))


@given(st.dictionaries(st.text('ab"\\', max_size=4), VALUES, max_size=4))
def test_json_lines_are_where_values_begin(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1)
    found: dict[tuple[str, ...], int] = {}
    expected_lines(value, (), text, 0, found)
    positions = json_positions(text)
    for path, line in found.items():
        assert positions.line(path) == line, path
    assert positions.duplicates == []


TOML = '''# comment
title = "a [b] # c"

[a.b]   # header
x = [
  1, # [
  "]",
]
"quoted key".c = 1
text = """
[not.a.header]
"""
raw = \'\'\'
y = 2\'\'\'
z = { w = 1, v = [2] }

[[a.list]]
p = 1
[[a.list]]
p = 2
[a.'lit.eral']
q = 1
'''


def test_toml_lines() -> None:
    tomllib.loads(TOML)
    positions = toml_positions(TOML)
    expected = {
        ("title",): 2,
        ("a",): 4,
        ("a", "b"): 4,
        ("a", "b", "x"): 5,
        ("a", "b", "x", "1"): 5,
        ("a", "b", "quoted key", "c"): 9,
        ("a", "b", "text"): 10,
        ("a", "b", "raw"): 13,
        ("a", "b", "z", "w"): 15,
        ("a", "list", "0", "p"): 18,
        ("a", "list", "1", "p"): 20,
        ("a", "lit.eral"): 21,
        ("a", "lit.eral", "q"): 22,
        ("nothing",): 0,
    }
    assert {path: positions.line(path) for path in expected} == expected


def test_duplicate_keys_of_json() -> None:
    assert json_positions('{"a": {"b": 1,\n"b": 2},\n "a": 3}').duplicates == [(("a", "b"), 2), (("a",), 3)]
