"""A short run of the fuzzer with fixed seeds; longer ones by hand (fuzz.py)."""

from fuzz.fuzz import run


def test_some_hundred_rounds() -> None:
    assert run(1, rounds=300) == 300
