"""What the gates have in common: what they ask of the state in force, and what they say (docs/do-no-harm.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

import msgspec

from bascule.change.live import Freeze
from bascule.store.interface import Event

Gate = Literal["pool", "tree"]

ADOPT: Final = "if the loss is meant, `bascule adopt` accepts it; what comes back is taken up by itself"


class Bounds(msgspec.Struct, frozen=True):
    """What is too much to be believed: the `[store]` table's fields of similar names."""

    pool_percent: int = 33
    pool_window_s: float = 10.0
    tree_percent: int = 33
    tree_min: int = 10


def too_many(lost: int, whole: int, percent: int) -> bool:
    """Tell whether a loss is more than so many percent; 33 is exactly a third and 67 two thirds."""
    numerator, denominator = {33: (1, 3), 67: (2, 3)}.get(percent, (percent, 100))
    return lost * denominator > whole * numerator


class InForce(Protocol):
    """The objects in force (those held included), as the gates look at them: kept by change/objects.py."""

    def __contains__(self, key: object) -> bool:
        """Tell whether an object is in force."""
        ...

    def servers(self, backend: str) -> Mapping[str, bool]:
        """Return the servers of a backend, by id, and whether each takes traffic (state `up`, weight over 0)."""
        ...

    def count(self, kind: str) -> int:
        """Return how many objects of a kind (model/keys.py: listener, backend, server, ...) there are."""
        ...

    def backend_of(self, frontend: str) -> str:
        """Return the id of the backend that a frontend leads to, empty when there is no such frontend."""
        ...


class Hold(msgspec.Struct, frozen=True):
    """One object that is gone from the store and stays in force."""

    key: str
    gate: Gate
    reason: str
    since_s: float
    """Unix time."""
    remedy: str = ADOPT


class Verdict(msgspec.Struct, frozen=True):
    """What the gates say to a batch."""

    events: tuple[Event, ...]
    """What comes into force: the batch without what is held, and the removals of what is held no longer."""
    held: tuple[Hold, ...] = ()
    """Held from now on."""
    returned: tuple[str, ...] = ()
    """Keys that were held and are in the store again."""
    released: tuple[str, ...] = ()
    """Keys that were held and go now: `events` has their removal."""


class GateState(msgspec.Struct, frozen=True):
    """What a successor of this master has to know; written to disk by change/last_good.py."""

    freezes: tuple[Freeze, ...] = ()
    holds: tuple[Hold, ...] = ()
    baselines: dict[str, int] = {}
    """Backend: how many servers it had before the loss that is held."""
    went_back: bool = False
    """Whether the store is of another history than ours, which only an operator can say is right."""
