"""What was changed by whom, and the way back."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from bascule.admin.actions import Action
from bascule.admin.api import Api
from bascule.admin.endpoint import PAGE_MAX, REVISION_MAX, Answer, Call, NoQuery, WriteQuery
from bascule.admin.errors import ApiError
from bascule.admin.objects import known_key
from bascule.admin.transactions import removals
from bascule.admin.values import changes_of, same, shown
from bascule.admin.writes import ATTEMPTS_MAX, RETRY_S, carry_out, unchanged
from bascule.change.diff import Change
from bascule.store.interface import Compare, ConflictError, Put, Reading, Record, Remove, large


class HistoryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which records."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Records in one answer.")] = 100
    before: Annotated[
        int, Meta(ge=0, le=REVISION_MAX, description="Only revisions before this one; 0: the latest.")
    ] = 0


class HistoryItem(msgspec.Struct, frozen=True):
    """One transaction."""

    revision: int
    at_s: float
    """Unix time; 0: not known, as of a change that was made around the load balancer."""
    author: str
    """Empty when it was made around the load balancer (etcdctl)."""
    message: str
    changes: tuple[Change, ...]


class History(msgspec.Struct, frozen=True):
    """Records, newest first."""

    items: tuple[HistoryItem, ...]
    next: int | None = None
    """`before` of the next page."""
    actions: tuple[Action, ...] = ()
    """What was done to this node (freezes, adoptions, tokens), newest first; with the first page alone."""


class AlterationOut(msgspec.Struct, frozen=True):
    """One key: what it was and became; null is absent."""

    key: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None


class HistoryDetail(HistoryItem, frozen=True):
    """One transaction with the values before and after it."""

    alterations: tuple[AlterationOut, ...] = ()


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to go back to."""

    revision: Annotated[int, Meta(ge=1, le=REVISION_MAX, description="The state right after this revision.")]
    keys: Annotated[
        tuple[str, ...], Meta(description="Only these objects, each with what is below it; none: everything.")
    ] = ()
    message: Annotated[str, Meta(max_length=1000, description="Why, for the history.")] = ""


async def list_history(api: Api, call: Call[HistoryQuery, None]) -> Answer:
    """Answer the latest records, newest first."""
    records = await api.store().history(call.query.limit, call.query.before)
    items = tuple(_item(record) for record in records)
    more = len(items) == call.query.limit or large(records)
    actions = () if call.query.before else tuple(api.program.actions(call.query.limit))
    return Answer(value=History(items, items[-1].revision if more else None, actions))


async def get_record(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer one record, with the values before and after."""
    text = call.place["revision"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(404, f"{text[:50]!r} is no revision", "write its number; list them: bascule history")
    revision = int(text)
    records = await api.store().history(1, revision + 1)
    if not records or records[0].revision != revision:
        raise ApiError(404, f"no record of revision {revision} is kept", "list what there is: bascule history")
    item = _item(records[0])
    alterations = tuple(
        AlterationOut(entry.key, _shown(entry.before), _shown(entry.after)) for entry in records[0].alterations
    )
    fields = {name: getattr(item, name) for name in item.__struct_fields__}
    return Answer(value=HistoryDetail(**fields, alterations=alterations))


async def rollback(api: Api, call: Call[WriteQuery, RollbackBody]) -> Answer:
    """Restore the state after a revision by one new transaction: the history only grows.

    Registered objects (they live by a lease) are left as they are: one that has left is not running any more.
    """
    body = call.body
    api.store()
    for key in body.keys:
        known_key(key)
    message = body.message or call.message or f"rollback to revision {body.revision}"
    then = await api.reading(body.revision)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        now = await api.reading()
        if then.identity != now.identity:
            raise ApiError(409, "that revision belongs to another store", "choose one that is listed: bascule history")
        operations, compares = way_back(now, then, body.keys)
        if not operations:
            return Answer(value=await unchanged(api, call, now.revision))
        try:
            written = await carry_out(api, call, operations, compares=compares, message=message)
            return Answer(value=written)
        except ConflictError:
            if attempt == ATTEMPTS_MAX:
                raise
            await asyncio.sleep(RETRY_S * attempt)
    raise AssertionError("unreachable")


def way_back(now: Reading, then: Reading, keys: tuple[str, ...]) -> tuple[list[Put | Remove], list[Compare]]:
    """Return what makes everything (or some keys) as it was, on condition that none of it has changed since."""

    def wanted(key: str) -> bool:
        return not keys or any(key == chosen or key.startswith(chosen + "/") for chosen in keys)

    operations: list[Put | Remove] = []
    for key, entry in then.entries.items():
        present = now.entries.get(key)
        if not wanted(key) or entry.lease or (present is not None and present.lease):
            continue
        if present is None or not same(key, present.value, entry.value):
            operations.append(Put(key, entry.value))
    gone = {key for key, entry in now.entries.items() if wanted(key) and key not in then.entries and not entry.lease}
    removed = removals(gone, now.entries, {operation.key for operation in operations}, now.revision)
    touched = [*(operation.key for operation in operations), *sorted(gone)]
    compares = [Compare(key, now.entries[key].modified if key in now.entries else 0) for key in touched]
    return [*operations, *removed], compares


def _item(record: Record) -> HistoryItem:
    return HistoryItem(record.revision, record.at_s, record.author, record.message, changes_of(record.alterations))


def _shown(value: bytes | None) -> msgspec.Raw | None:
    return None if value is None else shown(value)
