"""What the handlers may ask: the live configuration, the program, the tokens; and how many may wait at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from bascule.admin.actions import Action
from bascule.admin.endpoint import Principal, Role
from bascule.admin.errors import ApiError
from bascule.admin.tokens import Tokens
from bascule.admin.values import objects_of
from bascule.change.live import Live
from bascule.model.tree import Tree, tree_to_builtins
from bascule.store.interface import Entry, Reading, RefusedError, Store

WAITERS_MAX: Final = 256
EVENT_CLIENTS_MAX: Final = 64


class Program(Protocol):
    """What else a master can be asked; `process/control.py` fulfils it."""

    async def status(self) -> dict[str, Any]:
        """Return the status document."""
        ...

    async def metrics(self) -> bytes:
        """Return the text for Prometheus."""
        ...

    def upgrade_state(self) -> dict[str, Any]:
        """Return how upgrades stand."""
        ...

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts of upgrades and switch backs, oldest first."""
        ...

    async def reload(self, because: str) -> Any:
        """Read the configuration again; the outcome has a field `ok`."""
        ...

    def tree(self) -> Tree | None:
        """Return the tree in force; None while a new master does not know what its predecessor compiled."""
        ...

    def place(self) -> str:
        """Return the file that the configuration comes from, empty when it does not come from one."""
        ...

    def audit(self, author: str, action: str, **details: object) -> None:
        """Write down who did what. Never given a secret."""
        ...

    def actions(self, limit: int) -> Sequence[Action]:
        """Return what was written down last, newest first."""
        ...


class Slots:
    """How many may do something at once."""

    def __init__(self, most: int, what: str, remedy: str) -> None:
        """`what` and `remedy` are for the one too many."""
        self.most = most
        self.taken = 0
        self._what = what
        self._remedy = remedy

    def check(self) -> None:
        """ApiError 503 when none is free."""
        if self.taken >= self.most:
            raise ApiError(503, f"{self.most} {self._what} already", self._remedy, headers={"Retry-After": "5"})

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Take one; ApiError 503 when none is free."""
        self.check()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Api:
    """One master's admin API."""

    def __init__(self, live: Live, program: Program, tokens: Tokens) -> None:
        """See the class."""
        self.live = live
        self.program = program
        self.tokens = tokens
        self.committed = 0
        """The newest revision that was committed here."""
        self.closing = asyncio.Event()
        """Set when the master ends: streams end then."""
        self.waiters = Slots(WAITERS_MAX, "requests wait for a revision", "send it without wait=applied, or later")
        self.event_clients = Slots(EVENT_CLIENTS_MAX, "clients follow the events", "close one of them, or come later")

    def store(self) -> Store:
        """Return the store; ApiError 409 when the configuration does not come from one that can be changed here."""
        if self.live.store is not None:
            return self.live.store
        file = self.program.place()
        if file:
            raise ApiError(
                409,
                f"this configuration is the file {file}",
                "change the file (it is followed; or: bascule reload), or start with --store embedded to change it here",
            )
        raise ApiError(
            409,
            "this configuration comes from the command line",
            "start the load balancer with bascule run, whose configuration can be changed",
        )

    async def reading(self, at: int = 0) -> Reading:
        """Return everything that the store holds, now (what was committed here included) or at a revision; without a store,
        what is in force."""
        if not at:
            return self._in_force() if self.live.store is None else await self.live.reading(self.committed)
        try:
            return await self.store().read(at)
        except RefusedError as error:
            raise ApiError(
                404, f"revision {at} cannot be read: {error}", "list what there is: bascule history"
            ) from None

    def tree(self) -> Tree:
        """Return the tree in force; ApiError 503 when it is not known."""
        tree = self.program.tree()
        if tree is None:
            raise ApiError(
                503,
                "the configuration in force is not known: the workers serve the last good snapshot",
                "correct the configuration (GET /v1/status says what is wrong) and reload",
            )
        return tree

    def _in_force(self) -> Reading:
        revision = self.live.revision
        objects, _ = objects_of(tree_to_builtins(self.tree()))
        entries = {key: Entry(key, value, revision, revision) for key, value in objects.items()}
        return Reading("", revision, entries)


def require(principal: Principal, role: Role, what: str) -> None:
    """ApiError 403 unless somebody has a role."""
    if principal.role < role:
        name = role.name.lower()
        raise ApiError(
            403,
            f"{what} needs the role {name}; {principal.name} is {principal.role.name.lower()}",
            f"use a token of that role: bascule token add NAME --role {name}",
        )
