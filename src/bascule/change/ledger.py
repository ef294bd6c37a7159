"""What the store says, object by object, as far as the watch has told: the master's only copy of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from bascule.change.digest import Digest
from bascule.change.packed import Packed
from bascule.store.interface import Entry

_SMALL: Final = ("listeners", "hosts")


class Ledger:
    """Entries by key, and which objects stand below which: servers below a backend, middlewares below a frontend."""

    def __init__(self) -> None:
        """See the class."""
        self._entries = Packed()
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
        return self._entries.value(key)

    def holds(self, key: str, value: bytes) -> bool:
        """Tell whether this is the value of a key."""
        return self._entries.holds(key, value)

    def put(self, entry: Entry) -> None:
        """Set an entry."""
        key = entry.key
        self.digest.change(key, self._entries.value(key), entry.value)
        owner = owner_of(key)
        self._entries.put(key, entry.value, entry.created, entry.modified, entry.lease, len(owner.encode()))
        self._in_top(key).add(key)

    def fill(self, entries: Mapping[str, Entry]) -> None:
        """Fill an empty ledger."""
        self.digest.value = self._entries.fill(entries.values())
        for key in entries:
            if key.startswith(_SMALL):
                self._in_top(key).add(key)

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is no error."""
        gone = self._entries.value(key)
        if gone is not None:
            self.digest.change(key, gone, None)
            self._entries.remove(key)
            self._in_top(key).discard(key)

    def below(self, owner: str) -> list[str]:
        """Return the keys directly below a backend's or frontend's key, sorted."""
        return sorted(self._entries.members(owner))

    def count_below(self, owner: str) -> int:
        """Return the length of `below`, without making it."""
        return self._entries.count_members(owner)

    def top(self, collection: str) -> list[str]:
        """Return the keys directly in a small collection (listeners, hosts), sorted."""
        return sorted(self._top.get(collection, ()))

    def _in_top(self, key: str) -> set[str]:
        collection, _, name = key.partition("/")
        return self._top[collection] if name and collection in self._top and "/" not in name else set()

    def keys(self) -> Collection[str]:
        """Return all keys."""
        return list(self._entries)

    def items(self) -> Iterable[tuple[str, Entry]]:
        """Return all keys and entries, in the order in which they came."""
        for key in self._entries:
            entry = self._entries.get(key)
            assert entry is not None
            yield key, entry


def owner_of(key: str) -> str:
    """Return the key of the object that a key stands below, empty when it stands below none."""
    parts = key.split("/", 2)
    return f"{parts[0]}/{parts[1]}" if len(parts) == 3 else ""
