"""What the store holds as far as the watch has told, without asking it: a node makes no read in steady state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from bascule.change.ledger import Ledger
from bascule.store.interface import Entry, Event


class Mirror(Mapping[str, Entry]):
    """The ledger, with what is gathered and not yet in force laid over it, and without what only a gate keeps there.

    A view: valid until the caller gives the event loop away.
    """

    def __init__(self, ledger: Ledger, waiting: Mapping[str, Event], held: Collection[str]) -> None:
        """See the class."""
        self._ledger = ledger
        self._waiting = waiting
        self._held = held

    def __getitem__(self, key: str) -> Entry:
        event = self._waiting.get(key)
        entry = self._ledger.get(key) if event is None else event.entry
        if entry is None or (event is None and key in self._held):
            raise KeyError(key)
        return entry

    def __iter__(self) -> Iterator[str]:
        for key in self._ledger:
            if key not in self._waiting and key not in self._held:
                yield key
        for key, event in self._waiting.items():
            if event.entry is not None:
                yield key

    def __len__(self) -> int:
        if not self._waiting and not self._held:
            return len(self._ledger)
        return sum(1 for _ in self)
