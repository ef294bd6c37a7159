"""How an object stands that is not plainly in force (change/objects.py)."""

from __future__ import annotations

import msgspec

from bascule.change.examine import path_of
from bascule.change.live import State
from bascule.model.problems import Problem


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How an object stands that is not plainly in force."""

    state: State
    good: bytes | None
    """The form in force; None when none is."""
    revision: int
    """Store revision of the last change of what is in force."""
    problems: tuple[Problem, ...] = ()
    missing: str = ""
    """What it waits for: a key, or `<owner>/room` for a place among its siblings."""


def waits(key: str, missing: str) -> Problem:
    """Say that an object waits for another one."""
    return Problem(
        path=path_of(key), message=f"waits for {missing}, which is not there", remedy=f"put {missing}", warning=True
    )


def no_room(key: str) -> Problem:
    """Say that an object has too many siblings."""
    kind = "servers in one backend" if "/servers/" in key else "middlewares, or concurrency limits, on one frontend"
    return Problem(path=path_of(key), message=f"too many {kind}", remedy="remove some of its siblings")
