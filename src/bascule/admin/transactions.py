"""Many objects in one transaction: a whole tree, or a list of operations."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bascule.admin.api import Api
from bascule.admin.endpoint import REVISION_MAX, Answer, Call, WriteQuery
from bascule.admin.errors import ApiError, conflict, refused
from bascule.admin.objects import body_object, known_key
from bascule.admin.values import objects_of, same, tree_of
from bascule.admin.writes import ATTEMPTS_MAX, RETRY_S, carry_out, unchanged
from bascule.change.ledger import owner_of
from bascule.model.keys import SETTINGS
from bascule.store.interface import LEASE_MAX, Compare, ConflictError, Entry, Put, Reading, Remove


class PutOperation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    """Set an object."""

    key: str
    value: msgspec.Raw
    lease: Annotated[str, Meta(pattern="^[0-9]{1,19}$", description="Lease that it lives by; 0: none.")] = "0"


class RemoveOperation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="remove"):
    """Remove an object and, with `below`, what is below it. Absent is no error."""

    key: str
    below: bool = True


class CompareIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The transaction is carried out only if this key was last modified by this revision; 0: is absent."""

    key: str
    modified: Annotated[int, Meta(ge=0, le=REVISION_MAX)]


class ApplyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Either `tree` or `operations`."""

    tree: Annotated[dict[str, Any] | None, Meta(description="Objects as in a file.")] = None
    operations: Annotated[tuple[PutOperation | RemoveOperation, ...] | None, Meta(description="In no order.")] = None
    prune: Annotated[
        bool,
        Meta(
            description="Remove what the tree does not name; but never the settings, nor what lives by a lease: that "
            "belongs to whoever registered it."
        ),
    ] = False
    compares: tuple[CompareIn, ...] = ()
    message: Annotated[str, Meta(max_length=1000, description="Why, for the history.")] = ""


class RevisionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At which revision."""

    revision: Annotated[int, Meta(ge=0, le=REVISION_MAX, description="0: now.")] = 0


class TreeAnswer(msgspec.Struct, frozen=True):
    """The whole tree as stored."""

    revision: int
    identity: str
    """Which store this is: revisions of another one mean something else."""
    tree: dict[str, Any]


async def get_tree(api: Api, call: Call[RevisionQuery, None]) -> Answer:
    """Answer everything that is stored, as one tree."""
    reading = await api.reading(call.query.revision)
    entries = dict(reading.entries)  # a reading of now is a view, which changes beside the thread
    tree = await asyncio.to_thread(tree_of, entries)
    return Answer(value=TreeAnswer(reading.revision, reading.identity, tree))


async def apply(api: Api, call: Call[WriteQuery, ApplyBody]) -> Answer:
    """Carry out a whole tree or a list of operations in one transaction. What is equal already is not written."""
    body = call.body
    api.store()
    if (body.tree is None) == (body.operations is None):
        raise ApiError(400, "the body has neither a tree nor operations, or both", "send exactly one of them")
    if body.prune and body.tree is None:
        raise ApiError(400, "prune needs a tree", "send the whole tree, or remove operations")
    for item in body.compares:
        known_key(item.key)
    compares = [Compare(item.key, item.modified) for item in body.compares]
    for attempt in range(1, ATTEMPTS_MAX + 1):
        reading = await api.reading()
        for compare in compares:
            entry = reading.entries.get(compare.key)
            if (entry.modified if entry else 0) != compare.modified:
                raise conflict(compare.key, entry.modified if entry else 0)
        operations = _listed(body) if body.tree is None else await _of_tree(body.tree, body.prune, reading)
        if not operations:
            return Answer(value=await unchanged(api, call, reading.revision))
        try:
            return Answer(value=await carry_out(api, call, operations, compares=compares, message=body.message))
        except ConflictError as error:  # below something that is pruned, somebody has put an object meanwhile
            if error.key in {compare.key for compare in compares} or attempt == ATTEMPTS_MAX:
                raise
            await asyncio.sleep(RETRY_S * attempt)
    raise AssertionError("unreachable")


def _listed(body: ApplyBody) -> list[Put | Remove]:
    """Return a body's operations; ApiError when two write one key. What goes with its owner need not be named, and may be."""
    operations: list[Put | Remove] = []
    seen: set[str] = set()
    owners = {item.key for item in body.operations or () if isinstance(item, RemoveOperation) and item.below}
    for operation in body.operations or ():
        known_key(operation.key)
        if operation.key in seen:
            raise ApiError(422, f"{operation.key} is written twice", "a transaction writes each key once")
        seen.add(operation.key)
        with_owner = owner_of(operation.key) in owners
        if isinstance(operation, PutOperation):
            if with_owner:
                raise ApiError(
                    422,
                    f"{operation.key} is put, and removed with {owner_of(operation.key)}",
                    'remove only what is to go: {"op": "remove", "key", "below": false}',
                )
            operations.append(Put(operation.key, body_object(operation.value), _lease(operation.lease)))
        elif not with_owner:
            operations.append(Remove(operation.key, operation.below))
    return operations


def _lease(text: str) -> int:
    lease = int(text)
    if lease > LEASE_MAX:
        raise ApiError(404, f"there is no lease {lease}", "send the `lease` that the registration answered")
    return lease


async def _of_tree(tree: dict[str, Any], prune: bool, reading: Reading) -> list[Put | Remove]:
    entries = dict(reading.entries)  # a reading of now is a view, which changes beside the thread

    def work() -> list[Put | Remove]:
        objects, problems = objects_of(tree)
        if problems:
            raise refused(problems, "the tree")
        return difference(entries, objects, prune=prune, known=reading.revision)

    return await asyncio.to_thread(work)  # the largest trees take a second, and the master has other things to do


def difference(
    entries: Mapping[str, Entry], objects: Mapping[str, bytes], *, prune: bool, known: int = 0
) -> list[Put | Remove]:
    """Return what makes the stored objects, as they were at the revision `known`, those of a tree; equal ones are left alone."""
    operations: list[Put | Remove] = [
        Put(key, value)
        for key, value in objects.items()
        if key not in entries or not same(key, entries[key].value, value)
    ]
    if prune:
        gone = {key for key, entry in entries.items() if key not in objects and not entry.lease and key != SETTINGS}
        operations += removals(gone, entries, {operation.key for operation in operations}, known)
    return operations


def removals(gone: set[str], entries: Mapping[str, Entry], written: Collection[str], known: int = 0) -> list[Remove]:
    """Return the fewest operations that remove exactly these keys: an owner takes what is below it along, when all
    of that goes and nothing is `written` there in the same transaction, nor (the store sees to that) was put there since the
    entries were read at the revision `known`."""
    below: dict[str, list[str]] = {}
    for key in entries:
        if key.count("/") > 1:
            below.setdefault("/".join(key.split("/")[:2]), []).append(key)
    kept = {"/".join(key.split("/")[:2]) for key in written}
    found = []
    covered: set[str] = set()
    for key in sorted(gone):
        if key in covered:
            continue
        children = below.get(key, [])
        whole = key not in kept and all(child in gone for child in children)
        below_too = whole and bool(children)
        found.append(Remove(key, below=below_too, known=known if below_too else 0))
        if whole:
            covered.update(children)
    return found
