"""Mutated values of stored objects: some slices here, a million by `python -m fuzz.values`."""

import pytest

from fuzz.values import SLICE, run


@pytest.mark.parametrize("seed", range(8))
def test_mutations_hurt_nobody_else(seed: int) -> None:
    assert run(seed, SLICE) >= SLICE
