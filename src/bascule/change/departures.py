"""Servers that go: those that *left* finish what they have before they are gone, those that *vanished* go at once.

    left      removed by somebody's word, or its lease revoked: draining until nothing is in flight, LINGER_S at most
    vanished  its lease ended unasked: out of rotation with the next snapshot, unless the gates hold it (change/gates.py)

Both stay visible for a while. A server that comes back under its name is there again at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import msgspec

from bascule.change.edits import Edit
from bascule.model.keys import format_key
from bascule.model.tree import Server
from bascule.store.interface import Event

LINGER_S: Final = 30.0
LINGER_MIN_S: Final = 1.0
"""Workers that have not adopted the change yet still begin exchanges, and counters are read a moment later."""
VISIBLE_S: Final = 900.0
VISIBLE_MAX: Final = 1000
VANISHED_MAX: Final = 100_000
"""Of a key that never was a server in force, nobody else forgets that it vanished."""

InFlight = Callable[[str, str], int]
"""Exchanges under way at a server (backend, id)."""


class Departed(msgspec.Struct, frozen=True):
    """A server that is gone, or going."""

    backend: str
    server: str
    how: Literal["left", "vanished"]
    draining: bool
    at_s: float
    """Unix time."""
    url: str


class _Lingering:
    __slots__ = ("edit", "since_s")

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.since_s = time.monotonic()


class Departures:
    """What goes on this node. Owner: the master's event loop."""

    def __init__(self, in_flight: InFlight, *, linger_s: float = LINGER_S) -> None:
        """See the class."""
        self._in_flight = in_flight
        self._linger_s = linger_s
        self._vanished: dict[str, None] = {}
        self._lingering: dict[str, _Lingering] = {}
        self._departed: dict[str, Departed] = {}

    def saw(self, events: Iterable[Event]) -> None:
        """Note what a store says of how servers go, before any gate."""
        for event in events:
            if event.expired:
                self._vanished[event.key] = None
            elif event.entry is not None and self._vanished:
                self._vanished.pop(event.key, None)
        while len(self._vanished) > VANISHED_MAX:
            del self._vanished[next(iter(self._vanished))]

    def soften(self, edits: Sequence[Edit], before: Callable[[str], Server | None]) -> list[Edit]:
        """Return the edits to bring into force now: a server that left becomes draining instead of gone.

        `before` is the form that was in force of a key with an edit.
        """
        gone_backends = {edit.id for edit in edits if edit.kind == "backend" and edit.record is None}
        result = []
        for edit in edits:
            if edit.kind == "server":
                edit = self._server(edit, before, gone=edit.owner in gone_backends)
            result.append(edit)
        with_backend = [key for key, found in self._lingering.items() if found.edit.owner in gone_backends]
        return [*(self._lingering.pop(key).edit for key in with_backend), *result]

    def _server(self, edit: Edit, before: Callable[[str], Server | None], *, gone: bool) -> Edit:
        key = format_key("server", edit.id, edit.owner)
        if edit.record is not None:
            self._lingering.pop(key, None)
            self._departed.pop(key, None)
            return edit
        old = before(key)
        if old is None:
            return edit
        vanished = key in self._vanished
        self._vanished.pop(key, None)
        linger = not vanished and not gone and old.state in ("up", "starting")
        self._note(key, Departed(edit.owner, edit.id, "vanished" if vanished else "left", linger, time.time(), old.url))
        if not linger:
            return edit
        self._lingering[key] = _Lingering(edit)
        return Edit(edit.kind, edit.id, msgspec.structs.replace(old, state="draining"), edit.owner)

    def _note(self, key: str, departed: Departed) -> None:
        self._departed.pop(key, None)
        self._departed[key] = departed
        while len(self._departed) > VISIBLE_MAX:
            del self._departed[next(iter(self._departed))]

    def due(self) -> list[Edit]:
        """Return the removals whose time has come: nothing in flight any more, or waited long enough."""
        now_s = time.monotonic()
        found = []
        for key, lingering in list(self._lingering.items()):
            age_s = now_s - lingering.since_s
            edit = lingering.edit
            if age_s >= self._linger_s or (age_s >= LINGER_MIN_S and self._in_flight(edit.owner, edit.id) == 0):
                del self._lingering[key]
                if key in self._departed:
                    self._departed[key] = msgspec.structs.replace(self._departed[key], draining=False)
                found.append(edit)
        return found

    def departed(self) -> list[Departed]:
        """Return who has gone lately or is going, latest first."""
        oldest_s = time.time() - VISIBLE_S
        for key in [
            key for key, departed in self._departed.items() if departed.at_s < oldest_s and not departed.draining
        ]:
            del self._departed[key]
        return list(reversed(self._departed.values()))
