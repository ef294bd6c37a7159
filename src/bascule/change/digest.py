"""Periodic reconciliation: is what the watch has told still what the store holds?

A watch can lose events without a word (etcd issues 17529, 18089 and 19179; Debian 12 ships a version older than the
mending). So from time to time the whole store is read at one revision and compared:

    wait (interval, jittered) ──► note digest and revision ──► read at that revision ──► equal? ──yes──► wait
                                                                                           │ no
                                                           count, log the keys, `mend`: read anew, apply through the gates

The digest is a sum of hashes, so it does not depend on the order and follows every change at the cost of two hashes. It is only
compared within one process, so Python's own hash of bytes will do: SipHash with a random key, 64 bits, and a difference is missed
once in 2^64. (The hash of a tuple of key and value will not: it is so linear that sums of a few of them are often equal.)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Final, Protocol

import msgspec

from bascule.store.interface import CompactedError, Entry, Reading, StoreError

INTERVAL_S: Final = 300.0
JITTER: Final = 0.2
"""The interval is longer or shorter by up to this share, so that many nodes do not ask at once."""
KEYS_SHOWN: Final = 20
_SLICE: Final = 2048
_MASK: Final = (1 << 64) - 1


def hash_of(key: str, value: bytes) -> int:
    """Return the hash of one object. No key holds a NUL."""
    return hash(b"%b\0%b" % (key.encode(), value))


class Digest:
    """The sum of the hashes of all (key, value) of a table, maintained change by change."""

    __slots__ = ("value",)

    def __init__(self, entries: Iterable[tuple[str, bytes]] = ()) -> None:
        """Begin with these entries."""
        self.value = 0
        for key, value in entries:
            self.value += hash_of(key, value)
        self.value &= _MASK

    def change(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """Follow one change; None is absent."""
        if before is not None:
            self.value -= hash_of(key, before)
        if after is not None:
            self.value += hash_of(key, after)
        self.value &= _MASK


class Ledger(Protocol):
    """What the watch has told so far, as the comparison needs it."""

    @property
    def identity(self) -> str:
        """Return the store's identity, empty before the first reading."""
        ...

    @property
    def revision(self) -> int:
        """Return the revision up to which the watch has told."""
        ...

    @property
    def digest(self) -> int:
        """Return the digest at that revision."""
        ...

    def value(self, key: str) -> bytes | None:
        """Return the value of a key, None when it is absent."""
        ...

    def modified(self, key: str) -> int:
        """Return the revision that put a key last, 0 when it is absent."""
        ...

    def keys(self) -> Collection[str]:
        """Return all keys."""
        ...

    def kept_back(self) -> Mapping[str, object]:
        """Return the keys that a gate holds: gone from the store and still in the ledger."""
        ...


class ReconcileStatus(msgspec.Struct, frozen=True):
    """How the comparisons went; what metrics and status show."""

    compared: int = 0
    mismatches: int = 0
    keys_mended: int = 0
    failures: int = 0
    """Comparisons that the store did not allow: unreachable, refused."""
    at_s: float = 0.0
    """Unix time of the last one that was made, 0 for none."""
    took_ms: float = 0.0
    last_keys: tuple[str, ...] = ()
    """Some of the keys of the last mismatch."""


class Reconciler:
    """Compares a ledger with its store, now and then. Owner: the master's event loop."""

    def __init__(
        self,
        ledger: Ledger,
        read: Callable[[int], Awaitable[Reading]],
        mend: Callable[[], Awaitable[None]],
        warn: Callable[[str], None],
        *,
        interval_s: float = INTERVAL_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`read` is the store's; `mend` has the store read anew and the difference applied, through the gates. An interval
        of 0 compares never."""
        self._ledger = ledger
        self._read = read
        self._mend = mend
        self._warn = warn
        self._interval_s = interval_s
        self._chance = chance
        self.status = ReconcileStatus()

    async def run(self) -> None:
        """Compare for ever; a store that does not answer is asked again after the next interval."""
        while self._interval_s > 0:
            await asyncio.sleep(self.pause_s())
            try:
                await self.compare()
            except StoreError:
                self.status = msgspec.structs.replace(self.status, failures=self.status.failures + 1)
            except Exception as error:  # whatever it is, the next comparison is made
                self.status = msgspec.structs.replace(self.status, failures=self.status.failures + 1)
                self._warn(f"the comparison with the store failed: {type(error).__name__}: {error}; report this")

    def pause_s(self) -> float:
        """Return how long to wait before the next comparison."""
        return self._interval_s * (1 + JITTER * (2 * self._chance() - 1))

    async def compare(self) -> tuple[str, ...]:
        """Compare once, mend what differs and return the keys that did; StoreError when the store cannot be read."""
        ledger = self._ledger
        identity, revision, digest = ledger.identity, ledger.revision, ledger.digest
        if not identity:
            return ()
        begin_s = time.monotonic()
        kept_back = {key: value for key in ledger.kept_back() if (value := ledger.value(key)) is not None}
        try:
            reading = await self._read(revision)
        except CompactedError:
            return ()  # it was compacted in between; the next comparison is at a newer one
        if reading.identity != identity:
            return ()  # another store: the gates freeze that, by the watch
        found = await _digest_of(reading.entries, kept_back)
        keys: tuple[str, ...] = ()
        if found != digest:
            keys = await self._differing(reading, revision, kept_back)
        took_ms = (time.monotonic() - begin_s) * 1000
        self.status = msgspec.structs.replace(
            self.status, compared=self.status.compared + 1, at_s=time.time(), took_ms=took_ms
        )
        if keys:
            await self._mismatch(keys, revision)
        return keys

    async def _differing(self, reading: Reading, revision: int, kept_back: Mapping[str, bytes]) -> tuple[str, ...]:
        """Return the keys that differed at `revision`; what has changed since is left out, unless it went the wrong way."""
        ledger, entries = self._ledger, reading.entries
        found = []
        for number, key in enumerate([*ledger.keys(), *(key for key in entries if ledger.value(key) is None)]):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            entry = entries.get(key)
            wanted = kept_back.get(key) if entry is None else entry.value
            if ledger.value(key) != wanted and ledger.modified(key) <= revision:
                found.append(key)
        return tuple(found)

    async def _mismatch(self, keys: tuple[str, ...], revision: int) -> None:
        status = self.status
        self.status = msgspec.structs.replace(
            status,
            mismatches=status.mismatches + 1,
            keys_mended=status.keys_mended + len(keys),
            last_keys=keys[:KEYS_SHOWN],
        )
        shown = ", ".join(keys[:KEYS_SHOWN]) + (f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else "")
        self._warn(
            f"the store's watch has lost events: at revision {revision}, {len(keys)} objects are not what the store says "
            f"({shown}); reading it anew. etcd before 3.4.34 and 3.5.14 is known for it: update it"
        )
        await self._mend()


async def _digest_of(entries: Mapping[str, Entry], kept_back: Mapping[str, bytes]) -> int:
    """Return the digest of a reading as the ledger would have it; lets the loop go on in between."""
    total = sum(hash_of(key, value) for key, value in kept_back.items() if key not in entries)
    rest = iter(entries.values())
    while some := list(islice(rest, _SLICE)):
        total += sum(hash_of(entry.key, entry.value) for entry in some)
        await asyncio.sleep(0)
    return total & _MASK
