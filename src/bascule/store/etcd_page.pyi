"""A page of etcd's answer to a range request, taken apart: 0.4 us a key, where messages and attributes take 3."""

from collections.abc import Callable

from bascule.store.interface import Entry

class Page:
    """A RangeResponse (etcd's rpc.proto) as it came. Immutable."""

    cluster_id: int
    revision: int
    """The store's, now."""
    more: bool
    """Whether keys of the range are left."""
    last_key: bytes
    """Empty when there is no key."""
    count: int
    """Keys in this page."""
    total: int
    """Keys in the whole range that was asked for, as etcd counts them for every page of it."""

    def __init__(self, data: bytes) -> None:
        """ValueError when the bytes are no such message."""

    def __len__(self) -> int:
        """Return the size in bytes."""

    def take(
        self,
        entries: dict[str, Entry],
        first: int,
        count: int,
        *,
        start: bytes = b"",
        mark: bytes = b"",
        name_of: Callable[[bytes], str | None] | None = None,
    ) -> None:
        """Put `count` of the keys, from `first` on, into `entries`. A name is what follows `start` in a key; one that does not
        begin so, and the key `mark`, is left out. Or `name_of` gives the name, None to leave it out."""
