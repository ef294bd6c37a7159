"""Durations ("250ms", "5s", "1m30s") and sizes ("16KiB", "10MB", 4096) as people write them, and as numbers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DURATION_PATTERN: Final = r"^(?:[0-9]{1,9}(?:\.[0-9]{1,6})?(?:us|ms|s|m|h|d))+\Z"
SIZE_PATTERN: Final = r"^[0-9]{1,15}(?:B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\Z"

_NANOSECONDS: Final = {
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_BYTES: Final = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATION_PART: Final = r"([0-9]+)(?:\.([0-9]+))?(us|ms|s|m|h|d)"


def duration_ns(text: str) -> int:
    """Return the duration in whole nanoseconds; ValueError when `text` is not a duration."""
    number = text.rstrip("usmhd")
    unit = text[len(number) :]
    if len(number) <= 9 and number.isascii() and number.isdecimal() and unit in _NANOSECONDS:
        return int(number) * _NANOSECONDS[unit]
    import re  # 7 ms of CPU, which a start with plain durations need not pay

    if not re.match(DURATION_PATTERN, text):
        raise ValueError(f'{text!r} is not a duration such as "250ms", "5s" or "1h"')
    total = 0
    for whole, fraction, unit in re.findall(_DURATION_PART, text):
        total += int(whole) * _NANOSECONDS[unit]
        if fraction:
            total += int(fraction) * _NANOSECONDS[unit] // 10 ** len(fraction)
    return total


def duration_ms(text: str) -> int:
    """Return the duration in milliseconds, a part of one rounded up, so that only "0s" becomes 0 (which means off)."""
    return -(-duration_ns(text) // 1_000_000)


def size_bytes(value: int | str) -> int:
    """Return the size in bytes; a plain number is one already. ValueError when `value` is not a size."""
    if isinstance(value, int):
        if value < 0:
            raise ValueError("a size cannot be negative")
        return value
    number = value.rstrip("BkKMGTi")
    unit = value[len(number) :]
    if not (len(number) <= 15 and number.isascii() and number.isdecimal() and unit in _BYTES):
        raise ValueError(f'{value!r} is not a size such as "16KiB", "10MB" or 4096')
    return int(number) * _BYTES[unit]
