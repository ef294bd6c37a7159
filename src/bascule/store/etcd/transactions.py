"""Transactions in etcd: what was there is read first, so that the history keeps it, and compared when it is written.

One transaction is one `Txn`: comparisons, changes, and the record of them for the history, or nothing at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec

from bascule.store.etcd.client import EtcdClient, pause_s, rpc
from bascule.store.etcd.history import encode_record
from bascule.store.etcd.layout import Layout
from bascule.store.etcd.reader import entry_of
from bascule.store.interface import (
    LEASE_MAX,
    Alteration,
    ConflictError,
    Entry,
    LeaseLostError,
    Put,
    Record,
    RefusedError,
    Remove,
    Transaction,
    UnavailableError,
)

RACES_MAX: Final = 16
OPERATIONS_AT_ONCE: Final = 128
"""etcd's default --max-txn-ops: reads are made in parts of this size."""


class Seen(msgspec.Struct):
    """What a transaction found before it began."""

    revision: int
    entries: dict[str, Entry]
    """All that is there of the keys it compares, puts and removes."""


class Committer:
    """Carries transactions out."""

    def __init__(self, client: EtcdClient, layout: Layout) -> None:
        """See the module."""
        self._client = client
        self._layout = layout

    async def commit(self, transaction: Transaction, *, lease: int = 0) -> int:
        """See Store.commit. Carried out once, also when an answer is lost and it has to be asked again. With `lease`, it
        removes only what lives by that.

        The key of its history record is in no other transaction, so whether it is there says whether it was done; and a
        comparison on it keeps a request that was delayed on its way from being carried out after its repetition.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + 2 * self._client.timeout_s
        place, unsure, tries, races = self._layout.record(time.time()), False, 0, 0
        while True:
            try:
                if unsure and (revision := await self._carried_out(place)):
                    return revision
                seen = await self._see(transaction)
                compare(transaction, seen)
                written_twice(transaction)
                request = self._request(living_by(lease, transaction, seen) if lease else transaction, seen, place)
                unsure = True
                response = await self._client.call("KV", "Txn", request, repeat=False)
            except UnavailableError:
                tries += 1
                if loop.time() + pause_s(tries) >= end:
                    raise
                await asyncio.sleep(pause_s(tries))
                continue
            if response.succeeded:
                return int(response.header.revision)
            races += 1
            if races >= RACES_MAX:
                raise UnavailableError("others keep changing the same keys", "try again")
            await asyncio.sleep(pause_s(1) * races / 4)

    async def _carried_out(self, place: bytes) -> int:
        response = await self._client.call("KV", "Range", rpc.RangeRequest(key=place, keys_only=True))
        return int(response.kvs[0].create_revision) if response.kvs else 0

    async def _see(self, transaction: Transaction) -> Seen:
        """Read what is there of every key that is compared or written, all at one revision."""
        single = {compare.key for compare in transaction.compares} | {op.key for op in transaction.operations}
        ranges = [rpc.RangeRequest(key=self._layout.key(name)) for name in sorted(single)]
        for operation in transaction.operations:
            if isinstance(operation, Remove) and operation.below:
                start, end = self._layout.below(operation.key)
                ranges.append(rpc.RangeRequest(key=start, range_end=end))
        seen = Seen(0, {})
        for first in range(0, len(ranges), OPERATIONS_AT_ONCE):
            part = ranges[first : first + OPERATIONS_AT_ONCE]
            for request in part:
                request.revision = seen.revision
            request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=request) for request in part])
            response = await self._client.call("KV", "Txn", request)
            seen.revision = seen.revision or response.header.revision
            for answer in response.responses:
                for kv in answer.response_range.kvs:
                    name = self._layout.name(kv.key)
                    if name is not None:
                        seen.entries[name] = entry_of(name, kv)
        return seen

    def _request(self, transaction: Transaction, seen: Seen, place: bytes) -> Any:
        """Write the transaction as etcd's: on condition that all is as it was seen."""
        layout, names = self._layout, {compare.key for compare in transaction.compares}
        conditions = [_created(place, 0)]
        changes: list[Any] = []
        for operation in transaction.operations:
            names.add(operation.key)
            if isinstance(operation, Put):
                if not 0 <= operation.lease <= LEASE_MAX:
                    raise LeaseLostError(f"lease {operation.lease} is none", "grant one, and put everything by that")
                put = rpc.PutRequest(key=layout.key(operation.key), value=operation.value, lease=operation.lease)
                changes.append(rpc.RequestOp(request_put=put))
                continue
            if operation.key in seen.entries:
                gone = rpc.DeleteRangeRequest(key=layout.key(operation.key))
                changes.append(rpc.RequestOp(request_delete_range=gone))
            if operation.below:
                start, end = layout.below(operation.key)
                conditions.append(_unchanged(start, end, seen.revision))
                if any(name.startswith(operation.key + "/") for name in seen.entries):
                    changes.append(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=start, range_end=end)))
        for name in sorted(names):
            entry = seen.entries.get(name)
            conditions.append(_modified(layout.key(name), entry.modified if entry else 0))
        if not any(isinstance(operation, Put) for operation in transaction.operations):
            changes.append(rpc.RequestOp(request_put=rpc.PutRequest(key=layout.mark)))
        record = encode_record(
            Record(0, time.time(), transaction.author, transaction.message, alterations(transaction, seen))
        )
        changes.append(rpc.RequestOp(request_put=rpc.PutRequest(key=place, value=record)))
        return rpc.TxnRequest(compare=conditions, success=changes)


def compare(transaction: Transaction, seen: Seen) -> None:
    """Make the transaction's comparisons, those of its removals too; ConflictError for the first one that fails."""
    for wanted in transaction.compares:
        modified = seen.entries[wanted.key].modified if wanted.key in seen.entries else 0
        if modified != wanted.modified:
            raise ConflictError(wanted.key, modified)
    for operation in transaction.operations:
        if isinstance(operation, Remove) and operation.below and operation.known:
            for name, entry in seen.entries.items():
                if entry.modified > operation.known and name.startswith(operation.key + "/"):
                    raise ConflictError(name, entry.modified)


def alterations(transaction: Transaction, seen: Seen) -> tuple[Alteration, ...]:
    """Return what a transaction changes, by key; what it leaves as it was is not in it."""
    found: dict[str, Alteration] = {}
    for operation in transaction.operations:
        entry = seen.entries.get(operation.key)
        if isinstance(operation, Put):
            before = entry.value if entry else None
            if before != operation.value:
                found[operation.key] = Alteration(operation.key, before, operation.value)
            continue
        if entry:
            found[operation.key] = Alteration(operation.key, entry.value, None)
        if operation.below:
            for name, below in seen.entries.items():
                if name.startswith(operation.key + "/"):
                    found[name] = Alteration(name, below.value, None)
    return tuple(found[name] for name in sorted(found))


def living_by(lease: int, transaction: Transaction, seen: Seen) -> Transaction:
    """Return the transaction without what does not live by the lease (any more)."""
    alive = tuple(op for op in transaction.operations if op.key in seen.entries and seen.entries[op.key].lease == lease)
    return msgspec.structs.replace(transaction, operations=alive)


def written_twice(transaction: Transaction) -> None:
    """RefusedError when two operations write one key."""
    keys: set[str] = set()
    removed: list[str] = []
    for operation in transaction.operations:
        if operation.key in keys:
            raise RefusedError(f"{operation.key} is written twice in one transaction", "write each key once")
        keys.add(operation.key)
        if isinstance(operation, Remove) and operation.below:
            removed.append(operation.key + "/")
    if not removed:
        return
    above = tuple(removed)
    for key in keys:
        if key.startswith(above):
            raise RefusedError(
                f"{key} is written twice in one transaction: what is above it is removed", "write each key once"
            )


def _modified(key: bytes, revision: int) -> Any:
    """The key was last modified by exactly this revision; 0: it is absent."""
    return rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision)


def _created(key: bytes, revision: int) -> Any:
    return rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=revision)


def _unchanged(start: bytes, end: bytes, revision: int) -> Any:
    """Nothing in the range was put after a revision."""
    return rpc.Compare(
        key=start, range_end=end, target=rpc.Compare.MOD, result=rpc.Compare.LESS, mod_revision=revision + 1
    )
