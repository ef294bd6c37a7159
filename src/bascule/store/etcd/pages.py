"""Which page of a large range to ask etcd for next.

etcd counts every key of the range that is asked for, behind the page too: a million frontends are 3,000,000 keys, and each
of fifty pages would take it seconds. So a range that holds much more than a page is asked for in parts, which end where a
byte of the key that was read last becomes the next greater one:

    /bascule/backends/b004999/servers/s     the last key of a page that began with b000000: the third digit has changed,
    /bascule/backends/b005                  so the next part ends here, and the one after it a digit further up

Parts follow each other without a gap, whatever the keys are: how well they fit only decides what it costs.
"""

from __future__ import annotations

from typing import Final

import msgspec

NARROW: Final = 4
"""A range with more than so many pages is made narrower,"""
WIDE: Final = 4
"""and one with less than this part of a page wider."""


class Part(msgspec.Struct, frozen=True):
    """A range to ask for, from `start` to (not with) `end`."""

    start: bytes
    end: bytes
    place: int
    """Of the byte that ends it, counted from the front; 0: it ends with the whole range."""


def next_part(part: Part, *, last_key: bytes, more: bool, total: int, limit: int, end: bytes) -> Part | None:
    """Return what to ask for after a page of a part, None when that was all up to `end`.

    `more`, `total`, `last_key`: what the page says. `limit`: the keys of the next page.
    """
    if more:
        start = last_key + b"\0"
        if total <= NARROW * limit:
            return Part(start, part.end, part.place)
        return _ending(start, common(part.start, last_key), last_key, end)
    if part.end >= end:
        return None
    place = part.place - 1 if total < limit // WIDE else part.place
    return _ending(part.end, place, part.end, end)


def common(first: bytes, second: bytes) -> int:
    """Return how many bytes two keys begin with alike."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def _ending(start: bytes, place: int, key: bytes, end: bytes) -> Part:
    """Return the part that ends where the byte of a key at a place, or one before it, becomes the next greater one."""
    place = min(place, len(key) - 1)
    while place > 0 and key[place] == 0xFF:
        place -= 1
    bound = key[:place] + bytes([key[place] + 1]) if place > 0 else end
    return Part(start, bound, place) if start < bound < end else Part(start, end, 0)
