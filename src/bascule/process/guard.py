"""What keeps a master from doing harm: the gates, the last good configuration on disk, the comparison with the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from bascule.change.digest import Reconciler
from bascule.change.gates import Gates
from bascule.change.holds import Bounds
from bascule.change.last_good import LastGood
from bascule.model.quantities import duration_ms
from bascule.store.interface import Entry, Store

if TYPE_CHECKING:
    from bascule.change.live import Freeze
    from bascule.change.objects import Changes, ObjectTable
    from bascule.model.tree import Store as StoreTable
    from bascule.process.log import Log
    from bascule.process.servers import InForceNow

DIRECTORY: Final = "last-good"


class Guard:
    """The guard of one pipeline, which asks it and tells it what came into force."""

    def __init__(
        self,
        table: ObjectTable,
        settings: StoreTable,
        directory: str,
        log: Log,
        *,
        in_force: InForceNow,
    ) -> None:
        """`directory` is that of what outlives a reboot; `in_force` is how servers really are."""
        self.gates = Gates(in_force, bounds=bounds_of(settings), passing=in_force.passing)
        self.last_good = LastGood(os.path.join(directory, DIRECTORY), lambda text: log.warning(text))
        self.reconciler: Reconciler | None = None
        self._table = table
        self._settings = settings
        self._log = log

    def restore(self) -> None:
        """Go on where a predecessor ended; what it held is in force already."""
        self.gates.restore(self.last_good.load_gates())

    def watch_over(self, store: Store, mend: Callable[[], Awaitable[None]]) -> Reconciler:
        """Return what compares the table with the store now and then; `mend` reads the store anew."""
        self.reconciler = Reconciler(
            _Told(self._table, self.gates),
            store.read,
            mend,
            lambda text: self._log.error(text),
            interval_s=duration_ms(self._settings.reconcile_interval) / 1000,
        )
        return self.reconciler

    def note(self, changes: Changes) -> None:
        """What has come into force is what is good from now on."""
        table = self._table
        self.last_good.note(
            table.identity, table.revision, {key: _entry(table, key) for key in (*changes.before, *changes.rewritten)}
        )

    def note_all(self, entries: Mapping[str, Entry]) -> None:
        """The same for a whole table."""
        table = self._table
        self.last_good.note(table.identity, table.revision, {key: _entry(table, key) for key in entries})

    def note_gates(self) -> None:
        """What is frozen or held has changed."""
        self.last_good.note_gates(self.gates.state())

    async def until_written(self) -> bool:
        """Wait until a successor of this master would go on with what is in force, frozen and held now; False when the disk
        does not take it."""
        return await asyncio.to_thread(self.last_good.flush)

    async def remembered(self, freeze: Freeze) -> Freeze:
        """Return a freeze once a successor would know of it, or one whose remedy says that it would not."""
        if await self.until_written():
            return freeze
        forgotten = "it could not be written to disk (see `bascule status`) and ends with this master; "
        return msgspec.structs.replace(freeze, remedy=forgotten + freeze.remedy)


def bounds_of(settings: StoreTable) -> Bounds:
    """Return what the `[store]` table says of the gates."""
    return Bounds(
        pool_percent=settings.pool_loss_percent,
        pool_window_s=duration_ms(settings.pool_loss_window) / 1000,
        tree_percent=settings.tree_loss_percent,
        tree_min=settings.tree_loss_min,
    )


def _entry(table: ObjectTable, key: str) -> Entry | None:
    """Return the form in force of an object as an entry."""
    value = table.in_force(key)
    stored = table.ledger.get(key)
    if value is None:
        return None
    if stored is not None and stored.value == value:
        return stored
    return Entry(key, value, stored.created if stored else 0, 0)


class _Told:
    """What the watch has told, as the comparison wants to see it."""

    def __init__(self, table: ObjectTable, gates: Gates) -> None:
        self._table = table
        self._gates = gates

    @property
    def identity(self) -> str:
        return "" if self._gates.freeze_state() is not None else self._table.identity

    @property
    def revision(self) -> int:
        return self._table.revision

    @property
    def digest(self) -> int:
        return self._table.ledger.digest.value

    def value(self, key: str) -> bytes | None:
        return self._table.ledger.value(key)

    def modified(self, key: str) -> int:
        entry = self._table.ledger.get(key)
        return 0 if entry is None else entry.modified

    def keys(self) -> Collection[str]:
        return self._table.ledger.keys()

    def kept_back(self) -> Mapping[str, object]:
        return self._gates.held
