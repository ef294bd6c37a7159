from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.model.quantities import duration_ms, duration_ns, size_bytes

UNITS_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("0s", 0),
        ("250ms", 250),
        ("5s", 5000),
        ("1.5s", 1500),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
        ("2d", 172_800_000),
        ("1us", 1),
        ("1500us", 2),
    ],
)
def test_durations(text: str, expected_ms: int) -> None:
    assert duration_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5S", "1e3s", "5s\n", "\u0665s", "1.s", ".5s", "5sec"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration_ns(text)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS_NS))), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert duration_ns(text) == sum(Fraction(number) * UNITS_NS[unit] for number, unit in parts)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (4096, 4096),
        ("512", 512),
        ("512B", 512),
        ("16KiB", 16384),
        ("10MB", 10**7),
        ("2GiB", 2**31),
        ("1kB", 1000),
    ],
)
def test_sizes(value: int | str, expected: int) -> None:
    assert size_bytes(value) == expected


@pytest.mark.parametrize("value", ["", "KiB", "-1", "1.5MiB", "1 KiB", "1kib", "1Kb", -1])
def test_no_sizes(value: int | str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|negative"):
        size_bytes(value)
