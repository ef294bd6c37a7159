"""The one way in which the admin API writes: may they, is it in order, what would change, commit, wait.

Everything that writes (objects, apply, rollback, drain, registration) ends in `carry_out`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from bascule.admin.api import Api, require
from bascule.admin.endpoint import Call, Role, WaitQuery, WriteQuery
from bascule.admin.errors import ApiError, conflict, refused
from bascule.admin.values import decoded
from bascule.change.diff import Change
from bascule.change.live import Applied
from bascule.model.keys import SETTINGS
from bascule.model.problems import Problem, did_you_mean
from bascule.model.quantities import duration_ms
from bascule.store.interface import Compare, ConflictError, Entry, Put, Remove, Transaction

ATTEMPTS_MAX: Final = 5
RETRY_S: Final = 0.02
WAIT_MAX_MS: Final = 60_000
Operations = Sequence[Put | Remove]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What every write answers."""

    revision: int
    """Of the transaction; with a dry run, or when nothing had to change, the one it was compared with."""
    applied: bool
    """In force in every worker of this node."""
    lagging: tuple[int, ...] = ()
    """Numbers of the workers that are not there yet."""
    held: tuple[str, ...] = ()
    """Gates that keep it out of force: their reasons."""
    changes: tuple[Change, ...] = ()
    """What it changes in meaning."""
    warnings: tuple[Problem, ...] = ()
    """What comes into force and should be looked at all the same: objects that wait, routes in conflict."""
    dry_run: bool = False
    """Nothing was written."""
    lease: str | None = None
    """The lease that was granted with it."""


async def carry_out(
    api: Api,
    call: Call[Any, Any],
    operations: Operations,
    *,
    compares: Sequence[Compare] = (),
    message: str = "",
) -> Written:
    """Validate, commit and wait as the query says; with `dry_run`, only say what would happen. ApiError, StoreError."""
    if any(operation.key == SETTINGS for operation in operations):
        require(call.principal, Role.ADMIN, "changing the program's settings")
    store = api.store()
    preview = await api.live.preview(operations)
    if not preview.ok:
        raise refused(preview.problems)
    query = call.query
    if isinstance(query, WriteQuery) and query.dry_run:
        reading = await store.read()
        for compare in compares:
            entry = reading.entries.get(compare.key)
            if (entry.modified if entry else 0) != compare.modified:
                raise conflict(compare.key, entry.modified if entry else 0)
        return Written(
            revision=reading.revision,
            applied=False,
            changes=preview.changes,
            warnings=preview.problems,
            dry_run=True,
        )
    transaction = Transaction(
        operations=tuple(operations),
        compares=tuple(compares),
        author=call.principal.name,
        message=message or call.message,
    )
    with _place_to_wait(api, query):
        try:
            revision = await store.commit(transaction)
        except ConflictError as error:
            api.committed = max(api.committed, error.modified)  # what is read next shall know of it
            raise
        api.committed = max(api.committed, revision)
        api.program.audit(call.principal.name, "change", revision=revision, keys=_summary(operations))
        applied = await _wait(api, query, revision)
    return written(revision, applied, changes=preview.changes, warnings=preview.problems)


async def unchanged(api: Api, call: Call[Any, Any], revision: int, compares: Sequence[Compare] = ()) -> Written:
    """Answer a write that has nothing to change: no difference, no work. Its comparisons have been made already."""
    dry_run = isinstance(call.query, WriteQuery) and call.query.dry_run
    if dry_run:
        return Written(revision=revision, applied=False, dry_run=True)
    return written(revision, await outcome(api, call.query, revision))


async def outcome(api: Api, query: object, revision: int) -> Applied:
    """Return how far a revision has come: now, or when it is applied or time is up, as the query says."""
    with _place_to_wait(api, query):
        return await _wait(api, query, revision)


def _place_to_wait(api: Api, query: object) -> contextlib.AbstractContextManager[None]:
    """Reserve it before anything is written: afterwards is too late to say that there is none."""
    return api.waiters.one() if isinstance(query, WaitQuery) and query.wait else contextlib.nullcontext()


async def _wait(api: Api, query: object, revision: int) -> Applied:
    timeout_ms = min(duration_ms(query.timeout), WAIT_MAX_MS) if isinstance(query, WaitQuery) and query.wait else 0
    applied = await api.live.until_applied(revision, timeout_ms / 1000)
    if api.live.freeze_state() is not None:
        # What is in force may come from another store, whose revisions cannot be compared with this one.
        return msgspec.structs.replace(applied, applied=False)
    return applied


def written(revision: int, applied: Applied, **more: Any) -> Written:
    """Put a write's answer together."""
    return Written(revision=revision, applied=applied.applied, lagging=applied.lagging, held=applied.held, **more)


async def amend(
    api: Api, call: Call[Any, Any], key: str, change: Callable[[dict[str, Any]], object], *, create: bool = False
) -> Written:
    """Read one object, change its value, and write it back on condition that nobody was faster; then once more.

    With If-Match, once only. The object keeps its lease. With `create`, an absent one counts as empty.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        reading = await api.reading()
        entry = reading.entries.get(key)
        if entry is None and not create:
            raise absent(key, reading.entries)
        check_if_match(call, key, entry)
        before = decoded(entry.value) if entry is not None else {}
        if before is None:
            raise ApiError(422, f"{key} as stored is not a JSON object", "replace it as a whole, with PUT")
        after = msgspec.json.encode(change(before))
        put = Put(key, after, entry.lease if entry is not None else 0)
        compare = Compare(key, entry.modified if entry is not None else 0)
        try:
            return await carry_out(api, call, [put], compares=[compare])
        except ConflictError:
            if call.if_match or attempt == ATTEMPTS_MAX:
                raise
            await asyncio.sleep(RETRY_S * attempt)
    raise AssertionError("unreachable")


# ---- conditions


def check_if_match(call: Call[Any, Any], key: str, entry: Entry | None) -> None:
    """ApiError 412 unless If-Match and If-None-Match allow a write on what is there (RFC 9110 section 13.1)."""
    modified = entry.modified if entry is not None else 0
    if call.if_none_match and (call.if_none_match != "*" or entry is not None):
        raise _only_star() if call.if_none_match != "*" else _exists(key, modified)
    if call.if_match and (entry is None if call.if_match == "*" else modified not in _revisions(call.if_match)):
        raise conflict(key, modified)


def compares_of(call: Call[Any, Any], key: str, entry: Entry | None) -> list[Compare]:
    """Check the conditions against what was read, and return what the store has to check again as it writes."""
    check_if_match(call, key, entry)
    if not call.if_match and not call.if_none_match:
        return []
    return [Compare(key, entry.modified if entry is not None else 0)]


def absent(key: str, entries: Any) -> ApiError:
    """Return the error for an object that does not exist, with the nearest one that does."""
    parent = key.rpartition("/")[0]
    siblings = [other for other in entries if other.rpartition("/")[0] == parent]
    return ApiError(
        404, f"there is no {key}", did_you_mean(key, siblings) or f"list what there is: bascule get {parent}"
    )


def _revisions(header: str) -> list[int]:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    if not all(tag.isascii() and tag.isdigit() and len(tag) < 20 for tag in tags):
        raise ApiError(400, f"If-Match: {header[:100]} is no ETag of ours", 'send the ETag of a GET, such as "17"')
    return [int(tag) for tag in tags]


def _exists(key: str, modified: int) -> ApiError:
    error = conflict(key, modified)
    return ApiError(412, f"{key} exists already", "send its ETag in If-Match to replace it", headers=error.headers)


def _only_star() -> ApiError:
    return ApiError(400, "If-None-Match can only be * here", "leave it out, or send If-None-Match: *")


def _summary(operations: Operations) -> str:
    """Return which keys an operation writes, for the log: the first few and how many more."""
    keys = [("-" if isinstance(operation, Remove) else "") + operation.key for operation in operations]
    return " ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
