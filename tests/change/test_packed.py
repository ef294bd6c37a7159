"""The packed table against a dictionary: whatever is done to it, it says the same."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.change.packed import Packed
from bascule.store.interface import Entry

KEYS = ["a", "a/1", "a/2", "b/1", "b/22", "ü/1", "", "a/" + "x" * 300, "nobody"]
OWNERS = ["a", "b", "ü", "nobody"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1)), max_size=60
)


def owner_length(key: str) -> int:
    owner, slash, _ = key.partition("/")
    return len(owner.encode()) if slash else 0


def same(packed: Packed, model: dict[str, Entry]) -> None:
    assert len(packed) == len(model)
    assert sorted(packed) == sorted(model)
    for key in {*KEYS, *model}:
        assert (key in packed) == (key in model)
        assert packed.get(key) == model.get(key)
        assert packed.value(key) == (model[key].value if key in model else None)
        assert packed.holds(key, b"") == (key in model and model[key].value == b"")
    for owner in OWNERS:
        members = sorted(key for key in model if key.startswith(owner + "/"))
        assert sorted(packed.members(owner)) == members
        assert packed.count_members(owner) == len(members)


@given(STEPS)
def test_it_is_a_dictionary(steps: list[tuple[str, bytes | None, int]]) -> None:
    packed, model = Packed(), dict[str, Entry]()
    for key, value, number in steps:
        if value is None:
            assert packed.remove(key) == (model.pop(key, None) is not None)
        else:
            packed.put(key, value, number, number, number, owner_length(key))
            model[key] = Entry(key, value, number, number, number)
        same(packed, model)


def test_many_come_grow_and_go() -> None:
    """Indices grow, tombstones and garbage are cleared away, and memory with them."""
    chance = random.Random(7)
    packed, model = Packed(), dict[str, Entry]()
    for step in range(30_000):
        key = f"{'ab'[step % 2]}/{chance.randrange(2000)}"
        if chance.random() < 0.4:
            assert packed.remove(key) == (model.pop(key, None) is not None)
        else:
            value = b"v" * chance.randrange(120)
            packed.put(key, value, 1, step, 0, owner_length(key))
            model[key] = Entry(key, value, 1, step)
    same(packed, model)
    assert packed.size_bytes < 4 * sum(len(entry.value) + len(key) + 60 for key, entry in model.items())
    for key in list(model):
        assert packed.remove(key)
    same(packed, {})


def test_who_goes_through_it_sees_that_it_changes() -> None:
    packed = Packed()
    for key in ("a/1", "a/2"):
        packed.put(key)
    going = iter(packed)
    next(going)
    packed.put("a/3")
    with pytest.raises(RuntimeError, match="changed"):
        next(going)


def test_what_cannot_be_packed_is_refused() -> None:
    packed = Packed()
    with pytest.raises(ValueError, match="cannot be packed"):
        packed.put("a", owner_length=2)
    with pytest.raises(UnicodeEncodeError):
        packed.put("\ud800")
    same(packed, {})
