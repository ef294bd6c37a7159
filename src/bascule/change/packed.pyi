"""Many small texts with values in few large blocks: 60 bytes an entry beside its text, where Python's own objects take 290."""

from collections.abc import Iterable, Iterator

from bascule.store.interface import Entry

class Packed:
    """Entries by key, and which keys an owner has: a text that some keys begin with.

    Not for two threads at once. Iterating goes by the order in which keys came; RuntimeError when keys come or go
    meanwhile.
    """

    def put(
        self, key: str, value: bytes = b"", created: int = 0, modified: int = 0, lease: int = 0, owner_length: int = 0
    ) -> None:
        """Set an entry. `owner_length` bytes of the key are its owner (0: none); a key keeps the owner it came with."""

    def fill(self, entries: Iterable[Entry]) -> int:
        """Set many entries; what is before the second slash of a key is its owner. Return the sum of their hashes modulo 2^64
        (change/digest.py)."""

    def remove(self, key: str) -> bool:
        """Forget a key; False when it was not there."""

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key."""

    def value(self, key: str) -> bytes | None:
        """Return the value of a key."""

    def holds(self, key: str, value: bytes) -> bool:
        """Tell whether a key has this value."""

    def members(self, owner: str) -> list[str]:
        """Return the keys of an owner, in no order."""

    def count_members(self, owner: str) -> int:
        """Return the length of `members`."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""

    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
