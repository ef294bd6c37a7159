"""The store in etcd: our layout below a prefix, the history beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from bascule.model.tree import EtcdOptions
from bascule.store.etcd.client import EtcdClient
from bascule.store.etcd.history import History
from bascule.store.etcd.layout import Layout
from bascule.store.etcd.leases import Leases
from bascule.store.etcd.reader import RangeReader
from bascule.store.etcd.transactions import Committer
from bascule.store.interface import Batch, Kind, Reading, Record, RefusedError, Remove, Transaction


class EtcdStore:
    """A Store (see store/interface.py) in etcd 3.4 or newer.

    In steady state it holds one watch stream, and one stream of heartbeats once there is a lease to keep; it reads nothing.
    """

    kind: Kind = "etcd"
    writable = True

    def __init__(self, options: EtcdOptions) -> None:
        """Nothing is connected before the first call."""
        self.client = EtcdClient(options)
        self._layout = Layout(options.prefix)
        self.place = ",".join(str(endpoint) for endpoint in self.client.endpoints) + options.prefix
        self._reader = RangeReader(
            self.client, self._layout.start, self._layout.end, self._layout.name, self._layout.mark
        )
        self._committer = Committer(self.client, self._layout)
        self._history = History(self.client, self._layout)
        self._leases = Leases(self.client)

    async def read(self, at: int = 0) -> Reading:
        """See Store.read."""
        return await self._reader.read(at)

    def watch(self, after: int) -> AsyncIterator[Batch]:
        """See Store.watch. Called again after an error, it waits by itself (RangeReader.watch)."""
        return self._reader.watch(after)

    async def commit(self, transaction: Transaction) -> int:
        """See Store.commit."""
        revision = await self._committer.commit(transaction)
        await self._history.prune()
        return revision

    async def history(self, limit: int = 100, before: int = 0) -> Sequence[Record]:
        """See Store.history. Changes made around us are in it until etcd is compacted, at time 0."""
        return await self._history.read(limit, before)

    async def grant(self, ttl_ms: int) -> int:
        """See Store.grant. etcd raises a time below its election timeout (about 2 s) to that."""
        return await self._leases.grant(ttl_ms)

    async def keep_alive(self, lease: int) -> int:
        """See Store.keep_alive."""
        return await self._leases.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        """See Store.revoke.

        What lives by the lease is removed by a transaction of its own first, because etcd does not tell those who watch
        that a lease was ended by somebody's word. RefusedError for a lease that keys outside of the prefix live by, too:
        it belongs to another program, whose locks or sessions a client of ours is not to end.
        """
        keys = await self._leases.keys(lease)
        if keys is None:
            return
        if not all(map(self._layout.holds, keys)):
            raise RefusedError(
                f"lease {lease} is not ours alone: keys outside of {self._layout.start.decode()} live by it",
                "end it where it was granted: etcdctl lease revoke",
            )
        names = sorted(name for key in keys if (name := self._layout.name(key)) is not None)
        for first in range(0, len(names), REVOKED_AT_ONCE):
            operations = tuple(Remove(name, below=False) for name in names[first : first + REVOKED_AT_ONCE])
            await self._committer.commit(Transaction(operations, message="left"), lease=lease)
        await self._leases.revoke(lease)

    async def close(self) -> None:
        """See Store.close."""
        await self._leases.close()
        await self.client.close()


REVOKED_AT_ONCE = 60
