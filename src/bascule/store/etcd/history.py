"""The history in etcd: one record beside the tree for each transaction, and what can still be told of other changes.

etcd keeps old values only until it is compacted, and never who changed them or when. So every transaction of ours writes a
record with the values before and after, in the same `Txn`. Changes made around us are read out of etcd's own
revisions while it has them: their time is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from bascule.store.etcd.client import END, EtcdClient, rpc
from bascule.store.etcd.layout import Layout
from bascule.store.interface import HISTORY_BYTES_MAX, Alteration, Record, StoreError, size_of

RECORDS_KEPT: Final = 2_000
PRUNE_EVERY: Final = 50
"""A transaction in so many looks whether there are more."""
FOREIGN_REVISIONS_MAX: Final = 20_000
"""How far back other people's changes are looked for."""
FOREIGN_S: Final = 5.0
QUIET_S: Final = 0.3
PAGE_RECORDS: Final = 100
"""Read at once: at most 50 MiB."""
RECORD_BYTES_MAX: Final = 512 * 1024
"""A record beyond it keeps the names of what changed, not the values: it shares etcd's request with the change itself."""


class _Stored(msgspec.Struct, array_like=True):
    """A record as stored: MessagePack, deflated."""

    at_s: float
    author: str
    message: str
    alterations: tuple[tuple[str, bytes | None, bytes | None], ...]
    complete: bool = True


def encode_record(record: Record) -> bytes:
    """Return a record as it is stored; its revision is the one that its key is created in."""
    stored = _Stored(
        record.at_s, record.author, record.message, tuple((a.key, a.before, a.after) for a in record.alterations)
    )
    data = zlib.compress(msgspec.msgpack.encode(stored), 1)
    if len(data) > RECORD_BYTES_MAX:
        stored.alterations = tuple((a.key, None, None) for a in record.alterations)
        stored.complete = False
        data = zlib.compress(msgspec.msgpack.encode(stored), 1)
    return data


def decode_record(revision: int, data: bytes) -> Record | None:
    """Return a stored record, None for what is none."""
    with contextlib.suppress(zlib.error, msgspec.DecodeError):
        stored = msgspec.msgpack.decode(zlib.decompress(data), type=_Stored)
        alterations = tuple(Alteration(*alteration) for alteration in stored.alterations)
        message = stored.message if stored.complete else f"{stored.message} (values too large for the history)".lstrip()
        return Record(revision, stored.at_s, stored.author, message, alterations)
    return None


class History:
    """The history of one tree."""

    def __init__(self, client: EtcdClient, layout: Layout) -> None:
        """See the module."""
        self._client = client
        self._layout = layout
        self._until_prune = random.randrange(PRUNE_EVERY)  # noqa: S311 - no secret

    async def read(self, limit: int, before: int) -> Sequence[Record]:
        """Return the latest records before a revision (0: all), newest first."""
        if limit <= 0:
            return ()
        known, newest, full = await self._records(limit, before)
        end = before or newest + 1
        start = min(known) if full else 1
        for record in await self._foreign(max(start, end - FOREIGN_REVISIONS_MAX), end, known):
            known[record.revision] = record
        return [known[revision] for revision in sorted(known, reverse=True) if known[revision].alterations][:limit]

    async def _records(self, limit: int, before: int) -> tuple[dict[int, Record], int, bool]:
        """Return the latest records of ours before a revision (0: all), etcd's revision, and whether there may be older ones.

        A transaction that changed nothing has a record (it says that it was carried out) and is no history: as many as
        `limit` are of those that did, so that a short answer is the end.
        """
        known: dict[int, Record] = {}
        newest, telling, total = 0, 0, 0
        while True:
            request = rpc.RangeRequest(
                key=self._layout.history_start,
                range_end=self._layout.history_end,
                limit=PAGE_RECORDS if newest else min(limit, PAGE_RECORDS),
                sort_order=rpc.RangeRequest.DESCEND,
                sort_target=rpc.RangeRequest.CREATE,
                max_create_revision=max(0, before - 1),
            )
            response = await self._client.call("KV", "Range", request)
            newest = newest or int(response.header.revision)
            for kv in response.kvs:
                record = decode_record(kv.create_revision, kv.value)
                if record is not None:
                    known[record.revision] = record
                    telling += bool(record.alterations)
                    total += size_of(record)
                if telling >= limit or total > HISTORY_BYTES_MAX:
                    return known, newest, True
            if not response.more:
                return known, newest, False
            before = response.kvs[-1].create_revision

    async def _foreign(self, start: int, end: int, known: dict[int, Record]) -> Sequence[Record]:
        """Return what others changed from revision `start` to (not with) `end`, as far as etcd still knows."""
        revisions: dict[int, list[Any]] = {}
        for _ in range(2):
            oldest = await self._replay(start, end, revisions)
            if not oldest:
                break
            start = oldest + 1  # what that revision replaced is not known
        found = []
        leases: dict[int, bool] = {0: False}
        for revision, events in revisions.items():
            if revision in known:
                continue
            if all(event.type == 1 for event in events) and await self._ended(events, leases):
                continue
            alterations = tuple(self._alterations(events))
            if alterations:
                found.append(Record(revision, 0.0, "", "", alterations))
        return found

    def _alterations(self, events: Iterable[Any]) -> Iterable[Alteration]:
        for event in events:
            name = self._layout.name(event.kv.key)
            if not event.prev_kv.mod_revision and event.kv.version != 1:
                continue  # there was a value, and it has been compacted away
            before = event.prev_kv.value if event.prev_kv.mod_revision else None
            after = event.kv.value if event.type == 0 else None
            if name is not None and before != after:  # the same value again is a heartbeat
                yield Alteration(name, before, after)

    async def _ended(self, events: Sequence[Any], leases: dict[int, bool]) -> bool:
        """Tell whether a revision that only removed was the end of a lease."""
        for event in events:
            lease = event.prev_kv.lease
            if lease not in leases:
                request = rpc.LeaseTimeToLiveRequest(ID=lease)
                leases[lease] = (await self._client.call("Lease", "LeaseTimeToLive", request)).TTL <= 0
            if not leases[lease]:
                return False
        return True

    async def _replay(self, start: int, end: int, revisions: dict[int, list[Any]]) -> int:
        """Collect the tree's events from `start` to `end`; return the oldest revision kept when `start` is not, else 0.

        A watch of a moment: etcd has no other way to ask for what was. It says when it has caught up in no way that can
        be relied on (see reader.py), so it has when the tree's latest put has come, and nothing more for QUIET_S.
        """
        if start >= end:
            return 0
        last = min(await self._last_put(), end - 1)
        async with self._client.using() as link:
            call = link.services["Watch"].Watch(metadata=await self._client.metadata())
            create = rpc.WatchCreateRequest(
                key=self._layout.start, range_end=self._layout.end, start_revision=start, prev_kv=True
            )
            try:
                await asyncio.wait_for(call.write(rpc.WatchRequest(create_request=create)), FOREIGN_S)
                come = 0
                while come < end - 1:
                    response = await asyncio.wait_for(
                        call.read(), QUIET_S if come >= last or last < start else FOREIGN_S
                    )
                    if response is END:
                        break
                    if response.canceled:
                        return int(response.compact_revision)
                    for event in response.events:
                        come = event.kv.mod_revision
                        if come < end:
                            revisions.setdefault(come, []).append(event)
            except TimeoutError:
                pass
            except Exception as error:
                raise self._client.failed(link, error) from None
            finally:
                call.cancel()
        return 0

    async def _last_put(self) -> int:
        """Return the latest revision that put something into the tree. A removal later than it is not found by this."""
        request = rpc.RangeRequest(
            key=self._layout.start,
            range_end=self._layout.end,
            limit=1,
            keys_only=True,
            sort_order=rpc.RangeRequest.DESCEND,
            sort_target=rpc.RangeRequest.MOD,
        )
        response = await self._client.call("KV", "Range", request)
        return int(response.kvs[0].mod_revision) if response.kvs else 0

    async def prune(self) -> None:
        """Once in a while, remove the oldest records beyond RECORDS_KEPT. Failing is no harm: the next one does it."""
        self._until_prune -= 1
        if self._until_prune >= 0:
            return
        self._until_prune = PRUNE_EVERY
        with contextlib.suppress(StoreError):
            await self.prune_to(RECORDS_KEPT)

    async def prune_to(self, kept: int) -> None:
        """Remove the oldest records until `kept` are left."""
        start, end = self._layout.history_start, self._layout.history_end
        counted = await self._client.call("KV", "Range", rpc.RangeRequest(key=start, range_end=end, count_only=True))
        surplus = counted.count - kept
        if surplus <= 0:
            return
        request = rpc.RangeRequest(key=start, range_end=end, limit=surplus, keys_only=True)
        oldest = (await self._client.call("KV", "Range", request)).kvs
        gone = rpc.DeleteRangeRequest(key=start, range_end=oldest[-1].key + b"\0")
        await self._client.call("KV", "DeleteRange", gone)
