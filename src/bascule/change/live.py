"""What a master with a live store can be asked: the promise that the admin API is written against.

`process/control.py` fulfils it. A revision here is the store's; the snapshots' own sequence numbers are the business of
the processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from bascule.change.diff import Change
from bascule.model.problems import Problem
from bascule.store.interface import Put, Reading, Remove, Store

State = Literal["in_force", "waiting", "quarantined", "held"]


class ObjectState(msgspec.Struct, frozen=True):
    """How the master stands to one stored object.

    waiting: it refers to an object that is not there yet. quarantined: its stored form is refused, `problems` says why,
    and its last good form (if there was one) stays in force. held: it is gone from the store but kept in force by a
    gate, until it comes back or an operator adopts the loss.
    """

    key: str
    state: State
    revision: int
    """That last changed what is in force of it."""
    problems: tuple[Problem, ...] = ()


class Preview(msgspec.Struct, frozen=True):
    """What a transaction would do, without doing it."""

    problems: tuple[Problem, ...]
    """Errors first; with any error the transaction is refused. Warnings: what would wait, conflicts of routes."""
    changes: tuple[Change, ...]
    """Semantic differences; empty when nothing would change."""

    @property
    def ok(self) -> bool:
        """Tell whether it may be committed."""
        return all(problem.warning for problem in self.problems)


class Applied(msgspec.Struct, frozen=True):
    """How far a revision has come on this node."""

    revision: int
    """In force."""
    applied: bool
    """By every serving worker."""
    lagging: tuple[int, ...] = ()
    """Numbers of the workers that have not."""
    held: tuple[str, ...] = ()
    """Gates that keep (part of) it from coming into force: their reasons."""


class Notice(msgspec.Struct, frozen=True):
    """One thing that happened, for the event stream."""

    type: Literal[
        "change", "applied", "quarantined", "held", "frozen", "unfrozen", "store", "worker", "upgrade", "closed"
    ]
    revision: int
    at_s: float
    data: Mapping[str, Any]


class Freeze(msgspec.Struct, frozen=True):
    """Why nothing new comes into force. `by` is `operator`, or the gate that did it."""

    by: str
    reason: str
    since_s: float
    remedy: str = ""


class Live(Protocol):
    """One configuration in force and its way from the store."""

    @property
    def store(self) -> Store | None:
        """Return the store, None while the configuration does not come from one (`bascule proxy`)."""
        ...

    @property
    def revision(self) -> int:
        """Return the store revision in force."""
        ...

    async def reading(self, at_least: int = 0) -> Reading:
        """Return what the store holds, at a revision that is `at_least` that one: as the watch has told it, where that will
        do, else as the store says. Its entries are a view: valid until the caller gives the event loop away."""
        ...

    def freeze_state(self) -> Freeze | None:
        """Return why changes are kept out, None when they are not."""
        ...

    def states(self) -> Sequence[ObjectState]:
        """Return every object that is not plainly in force: waiting, quarantined, held."""
        ...

    async def preview(self, operations: Sequence[Put | Remove]) -> Preview:
        """Validate operations against what the store holds now, and say what they would change."""
        ...

    async def until_applied(self, revision: int, timeout_s: float) -> Applied:
        """Wait until a store revision is in force in every serving worker, or until time is up or a gate holds it."""
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """Yield what happens from now on. A reader that is too slow (1,000 behind) gets an error and starts again."""
        ...

    async def freeze(self, reason: str, by: str) -> Freeze:
        """Keep every change out of force until `unfreeze`; the store goes on."""
        ...

    async def unfreeze(self, by: str) -> Applied:
        """Bring into force what the store says now, through all gates."""
        ...

    async def adopt(self, by: str) -> Applied:
        """Accept what the gates hold back (losses, a lower revision, another cluster): the store is right as it is."""
        ...
