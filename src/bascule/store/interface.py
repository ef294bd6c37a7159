"""What every store gives: a consistent reading, a watch, transactions with compare, leases, history.

A store holds objects: a key such as `backends/app/servers/a1` (relative to its prefix; `model/keys.py` says which there
are) and a JSON value. Every transaction makes one revision; revisions only grow, by one or more. The model is etcd's
(v3 API), because the other stores can give all of it and callers need all of it. tests/store/acceptance.py is the same
promise as tests, run against every store.

An error is never data: a store that cannot be read raises, it never gives an empty reading.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec

from bascule.model.problems import Problem

Kind = Literal["embedded", "etcd", "file", "vulcand"]
LEASE_MAX: Final = (1 << 63) - 1
"""Leases are numbers from 1 to this one."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One object as stored. `value` is JSON, not looked at by the store."""

    key: str
    value: bytes
    created: int
    """Revision that put it first since it was last absent."""
    modified: int
    """Revision that put it last: what compare-and-set compares."""
    lease: int = 0
    """Lease that it lives by; 0 is none."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """Everything at one revision."""

    identity: str
    """Which store this is: another text is another history (etcd's cluster id, a UUID of a database)."""
    revision: int
    entries: Mapping[str, Entry]


class Event(msgspec.Struct, frozen=True, gc=False):
    """What one revision did to one key."""

    key: str
    entry: Entry | None
    """None when it was removed."""
    expired: bool = False
    """Removed because its lease ended unasked: it *vanished*. A removal by somebody's word is not one: it *left*."""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One whole revision. Without events it only says that the watch is alive and complete up to `revision`.

    Where revisions follow each other closely a store may give several at once: the events of all of them, in order.
    """

    identity: str
    revision: int
    events: tuple[Event, ...] = ()
    revisions: int = 1


class Compare(msgspec.Struct, frozen=True, gc=False):
    """The key was last modified by exactly this revision; 0: it is absent."""

    key: str
    modified: int


class Put(msgspec.Struct, frozen=True, gc=False):
    """Set a key. `lease` 0 takes it off any lease."""

    key: str
    value: bytes
    lease: int = 0


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Remove a key and, with `below`, everything below it (`<key>/...`, never `<key>0`). Absent is no error.

    With `known`, ConflictError when something below it was put after that revision: whoever wrote the transaction has not
    seen it, and cannot mean it.
    """

    key: str
    below: bool = True
    known: int = 0


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """All of it in one revision, or nothing. No key may be written twice."""

    operations: tuple[Put | Remove, ...]
    compares: tuple[Compare, ...] = ()
    author: str = ""
    """Who, for the history: a token's name, or the user of a socket."""
    message: str = ""
    """Why, for the history."""


class Alteration(msgspec.Struct, frozen=True, gc=False):
    """One key in a history record: what it was and became; None is absent."""

    key: str
    before: bytes | None
    after: bytes | None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One transaction in the history. Heartbeats and expiries are not in it; changes made around us (etcdctl) are, with
    an empty author, as far as the store can tell."""

    revision: int
    at_s: float
    """Unix time."""
    author: str
    message: str
    alterations: tuple[Alteration, ...]


HISTORY_BYTES_MAX: Final = 32 << 20
"""Of values before and after in one answer of `Store.history`, but for its last record: a thousand applies of a whole tree
would be 16 GB."""


def size_of(record: Record) -> int:
    """Return how many bytes the values of a record have."""
    return sum(len(item.before or b"") + len(item.after or b"") for item in record.alterations)


def large(records: Iterable[Record]) -> bool:
    """Tell whether so many records are all that one answer of `Store.history` gives."""
    return sum(map(size_of, records)) > HISTORY_BYTES_MAX


class StoreError(Exception):
    """What every failure of a store is. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class UnavailableError(StoreError):
    """Nobody answers, or not in time; try again later. Whether a transaction was carried out is not known."""


class RefusedError(StoreError):
    """The store answered no: wrong password, no permission, quota used up, too large."""


class ReadOnlyError(RefusedError):
    """This store is changed by other means; the remedy says by which."""


class ConflictError(StoreError):
    """A comparison failed: nothing was written."""

    def __init__(self, key: str, modified: int) -> None:
        """`modified` is the revision that the key has now, 0 when it is absent, -1 when that is not known."""
        super().__init__(f"{key} was changed by somebody else", "read it again, and repeat the change on what is there")
        self.key = key
        self.modified = modified


class CompactedError(StoreError):
    """That revision is no longer kept. `oldest` is the first one that is, 0 when that is not known."""

    def __init__(self, oldest: int) -> None:
        """See the class."""
        super().__init__("that revision is no longer kept", "read the present state, and go on from there")
        self.oldest = oldest


class LeaseLostError(StoreError):
    """The lease has ended; what lived by it is gone. Grant another one and put everything again."""


class Store(Protocol):
    """One store. All methods may raise UnavailableError or RefusedError; cancelling any of them is safe."""

    kind: Kind
    place: str
    """For people: `/var/lib/bascule/store.sqlite`, `http://127.0.0.1:2379/bascule`. Never a secret."""
    writable: bool

    async def read(self, at: int = 0) -> Reading:
        """Return everything at a revision (0: now); CompactedError when that one is no longer kept."""
        ...

    def watch(self, after: int) -> AsyncIterator[Batch]:
        """Yield every revision after `after`, in order, each once, and a Batch without events at least every 10 s.

        Ends only by an error: CompactedError when there is a gap, UnavailableError when the connection is lost (watch
        again after the last batch, nothing is missed). A batch with another identity is a restored or other store.
        """
        ...

    async def commit(self, transaction: Transaction) -> int:
        """Carry out a transaction and return its revision; ConflictError, ReadOnlyError, LeaseLostError."""
        ...

    async def history(self, limit: int = 100, before: int = 0) -> Sequence[Record]:
        """Return the latest records, newest first, those before a revision when one is given; fewer than `limit` when they are
        `large`: what comes before them is for another call."""
        ...

    async def grant(self, ttl_ms: int) -> int:
        """Return a new lease that ends after `ttl_ms` unless kept alive (etcd rounds up to seconds)."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Begin the lease's time anew and return it in ms; LeaseLostError when it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease by its owner's word: what lived by it *left*. One that has ended is no error."""
        ...

    async def close(self) -> None:
        """Let go of everything. Leases go on until they end."""
        ...


@runtime_checkable
class Translator(Protocol):
    """What a store has besides when it puts another program's configuration (vulcand's) into our words.

    An object that cannot be put so is among the entries all the same, with a value that says why (model/refusal.py), so that
    it is quarantined and its last good form stays; one that is not safe to serve without what it lacks is not among them.
    """

    def problems(self) -> Sequence[Problem]:
        """Return what is not served (errors) and what is left out (warnings), of the latest state, by key."""
        ...
