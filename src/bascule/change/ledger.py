"""What the store says, object by object, as far as the watch has told: the master's only copy of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from bascule.change.digest import Digest
from bascule.store.interface import Entry

_SMALL: Final = ("listeners", "hosts")


class Ledger:
    """Entries by key, and which objects stand below which: servers below a backend, middlewares below a frontend."""

    def __init__(self) -> None:
        """See the class."""
        self._entries: dict[str, Entry] = {}
        self._below: dict[str, str | set[str]] = {}
        self.digest = Digest()
        """Of all keys and values."""
        self._top: dict[str, set[str]] = {collection: set() for collection in _SMALL}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, None when there is none."""
        return self._entries.get(key)

    def value(self, key: str) -> bytes | None:
        """Return the value of a key, None when there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, entry: Entry) -> None:
        """Set an entry."""
        key = entry.key
        known = self._entries.get(key)
        self.digest.change(key, None if known is None else known.value, entry.value)
        if known is None:
            owner = owner_of(key)
            if not owner:
                self._in_top(key).add(key)
            else:
                below = self._below.get(owner)
                if below is None:
                    self._below[owner] = key
                elif isinstance(below, str):
                    self._below[owner] = {below, key}
                else:
                    below.add(key)
        self._entries[key] = entry

    def fill(self, entries: Mapping[str, Entry], below: dict[str, str | set[str]]) -> None:
        """Fill an empty ledger; `below` becomes its own: owner's key to the key below it, or a set of several."""
        self._entries = dict(entries)
        self._below = below
        self.digest = Digest((key, entry.value) for key, entry in entries.items())
        for key in entries:
            if key.startswith(("listeners/", "hosts/")):
                self._in_top(key).add(key)

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        gone = self._entries.pop(key, None)
        if gone is None:
            return
        self.digest.change(key, gone.value, None)
        owner = owner_of(key)
        if not owner:
            self._in_top(key).discard(key)
        known = self._below.get(owner) if owner else None
        if isinstance(known, set) and len(known) > 1:
            known.discard(key)
        elif known is not None:
            del self._below[owner]

    def below(self, owner: str) -> list[str]:
        """Return the keys directly below a backend's or frontend's key, sorted."""
        known = self._below.get(owner)
        if known is None:
            return []
        return [known] if isinstance(known, str) else sorted(known)

    def count_below(self, owner: str) -> int:
        """Return the length of `below`, without making it."""
        known = self._below.get(owner)
        return 0 if known is None else 1 if isinstance(known, str) else len(known)

    def top(self, collection: str) -> list[str]:
        """Return the keys directly in a small collection (listeners, hosts), sorted."""
        return sorted(self._top.get(collection, ()))

    def _in_top(self, key: str) -> set[str]:
        collection, _, name = key.partition("/")
        return self._top[collection] if name and collection in self._top else set()

    def keys(self) -> Collection[str]:
        """Return all keys."""
        return self._entries.keys()

    def items(self) -> Iterable[tuple[str, Entry]]:
        """Return all keys and entries, in the order in which they came."""
        return self._entries.items()


def owner_of(key: str) -> str:
    """Return the key of the object that a key stands below, empty when it stands below none."""
    parts = key.split("/", 2)
    return f"{parts[0]}/{parts[1]}" if len(parts) == 3 else ""
