"""A short run of moves.py; the long ones are for a debug or sanitized build."""

import pytest

from fuzz.moves import Round


@pytest.mark.parametrize("seed", [1, 2])
def test_no_client_notices_that_it_moves(seed: int) -> None:
    Round(seed).run(1.5)
