"""The store that reads vulcand's tree in etcd and never writes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, NoReturn

from bascule.model.problems import Problem
from bascule.model.tree import EtcdOptions
from bascule.store.etcd.client import EtcdClient, rpc
from bascule.store.etcd.reader import RangeReader
from bascule.store.interface import (
    Batch,
    CompactedError,
    Kind,
    Reading,
    ReadOnlyError,
    Record,
    Transaction,
)
from bascule.store.vulcand.state import VulcandState


class _Prefix:
    """One way of writing the prefix: with a slash before it, as vulcand's documents do, or without, as it does itself."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self.text = prefix
        self.start, self.end = f"{prefix}/".encode(), f"{prefix}0".encode()
        self.reader = RangeReader(client, self.start, self.end, self._name)

    def _name(self, key: bytes) -> str | None:
        return key[len(self.start) :].decode("utf-8", "backslashreplace")


class VulcandStore:
    """A read-only Store (see store/interface.py) of what a vulcand tree says, in our words.

    Besides the promise it has `problems()`: what has no match here. An object that is refused is among the entries, with
    a value that says why (model/refusal.py); a frontend that is not safe to serve is not among them.
    """

    kind: Kind = "vulcand"
    writable = False

    def __init__(self, options: EtcdOptions) -> None:
        """Nothing is connected before the first call."""
        self.client = EtcdClient(options)
        bare = options.prefix.strip("/")
        given = options.prefix.rstrip("/")
        self._prefixes = tuple(_Prefix(self.client, text) for text in (given, bare if given != bare else f"/{bare}"))
        self._chosen = self._prefixes[0]
        self.place = ",".join(str(endpoint) for endpoint in self.client.endpoints) + given
        self._state: VulcandState | None = None
        """Of the last reading or watch, as far as it came; taken by a watch that goes on from there."""
        self._latest: VulcandState | None = None
        self._other_keys = 0

    def problems(self) -> Sequence[Problem]:
        """Return what of the tree has no match here: errors for what is not served, warnings for what is left out."""
        found = self._latest.problems() if self._latest else []
        if self._other_keys:
            other = next(prefix for prefix in self._prefixes if prefix is not self._chosen)
            message = f"{self._other_keys} keys below {other.text!r} are not read: the tree is read from {self._chosen.text!r}"
            found.append(Problem(message=message, remedy="vulcand, too, reads only one of the two", warning=True))
        return found

    async def read(self, at: int = 0) -> Reading:
        """See Store.read."""
        state, identity = await self._read(at)
        if not at:
            self._state = self._latest = state
        return Reading(identity, state.revision, state.entries())

    async def _read(self, at: int) -> tuple[VulcandState, str]:
        reading = await self._chosen.reader.read(at)
        if not at:
            other = next(prefix for prefix in self._prefixes if prefix is not self._chosen)
            count = await self._count(other)
            if not reading.entries and count:
                self._chosen, other = other, self._chosen
                reading, count = await self._chosen.reader.read(at), 0
            self._other_keys = count
        return VulcandState(reading.revision, reading.entries.values()), reading.identity

    async def _count(self, prefix: _Prefix) -> int:
        request = rpc.RangeRequest(key=prefix.start, range_end=prefix.end, count_only=True)
        return int((await self.client.call("KV", "Range", request)).count)

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        """See Store.watch. What one revision does to one object may change another: a middleware its frontend."""
        state, self._state = self._state, None
        if state is None or state.revision != after:
            state, _ = await self._read(after)
        self._latest = state
        try:
            async for batch in self._chosen.reader.watch(after):
                events = state.apply(batch.revision, batch.events) if batch.events else ()
                state.revision = max(state.revision, batch.revision)
                yield Batch(batch.identity, batch.revision, events, batch.revisions)
                if not batch.events and not state.size:
                    await self._look_elsewhere()
        finally:
            self._state = state

    async def _look_elsewhere(self) -> None:
        """While the tree is empty, see whether it has been written with the other prefix."""
        other = next(prefix for prefix in self._prefixes if prefix is not self._chosen)
        if await self._count(other):
            raise CompactedError(0)

    async def commit(self, transaction: Transaction) -> int:
        """Raise ReadOnlyError."""
        self._refuse()

    async def history(self, limit: int = 100, before: int = 0) -> Sequence[Record]:
        """Return nothing: who changes a vulcand tree, and when, is not kept."""
        return ()

    async def grant(self, ttl_ms: int) -> int:
        """Raise ReadOnlyError."""
        self._refuse()

    async def keep_alive(self, lease: int) -> int:
        """Raise ReadOnlyError."""
        self._refuse()

    async def revoke(self, lease: int) -> None:
        """Raise ReadOnlyError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnlyError(f"the vulcand tree at {self.place} is only read", _REMEDY)

    async def close(self) -> None:
        """See Store.close."""
        await self.client.close()


_REMEDY: Final = (
    "change it with vctl, or as its programs do; or convert it with `bascule import vulcand` and apply it to a store of "
    "Bascule's own"
)
