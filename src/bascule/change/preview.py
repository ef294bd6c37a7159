"""What a transaction would do, without doing it: every error of what it puts, and what would differ afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bascule.change.check import compile_offline, compiled_problems
from bascule.change.clashes import clashes
from bascule.change.diff import Change, diff
from bascule.change.examine import decode_record, examine, path_of, tree_of
from bascule.change.ledger import owner_of
from bascule.change.live import Preview
from bascule.change.objects import ObjectTable
from bascule.model.keys import parse_key
from bascule.model.problems import Path, Problem, did_you_mean
from bascule.model.tree import Backend, Frontend, Listener, Record, Tree
from bascule.store.interface import Put, Remove

SUGGEST_MAX = 2000
"""Among more backends than this nobody looks for the one that was meant."""


def preview(table: ObjectTable, operations: Sequence[Put | Remove]) -> Preview:
    """Judge operations as if they were made on what the store says now, as far as the table has heard of it."""
    after = _overlay(table, operations)
    examined = examine((key, value) for key, value in after.items() if value is not None)
    problems = [problem for found in examined.problems.values() for problem in found]
    problems += _routes(examined.records)
    problems += _listener_clashes(table, after, examined.records)
    warnings = [problem for found in examined.warnings.values() for problem in found]
    warnings += _waiting(table, after, examined.records)
    errors = [problem for problem in problems if not problem.warning]
    warnings += [problem for problem in problems if problem.warning]
    before = _records(table, after)
    return Preview((*errors, *warnings), tuple(_changes(before, examined.records)))


def _overlay(table: ObjectTable, operations: Iterable[Put | Remove]) -> dict[str, bytes | None]:
    """Return what every key that the operations name holds after them."""
    after: dict[str, bytes | None] = {}
    for operation in operations:
        if isinstance(operation, Put):
            after[operation.key] = operation.value
            continue
        after[operation.key] = None
        if operation.below:
            after.update(dict.fromkeys(table.ledger.below(operation.key)))
    return after


def _records(table: ObjectTable, keys: Iterable[str]) -> dict[str, Record]:
    """Return what the store says now of these keys, in its last good form where the present one is refused."""
    found: dict[str, Record] = {}
    for key in keys:
        value = table.in_force(key) or table.ledger.value(key)
        parsed = parse_key(key)
        if value is None or parsed is None:
            continue
        try:
            found[key] = decode_record(parsed, value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return found


def _changes(before: Mapping[str, Record], after: Mapping[str, Record]) -> list[Change]:
    """Return the semantic differences; what stands below an object that is not touched has a stand-in in both."""
    owners = {owner_of(key) for key in (*before, *after)} - {""}
    common = {key: _stand_in(key) for key in owners if key not in before and key not in after}
    old = tree_of({**common, **before}.items())
    new = tree_of({**common, **after}.items())
    return diff(old, new)


def _stand_in(key: str) -> Record:
    return Backend() if key.startswith("backends/") else Frontend(route="", backend="")


def _routes(records: Mapping[str, Record]) -> list[Problem]:
    """Compile the routes that are put, each leading to an empty backend."""
    frontends = {
        key.partition("/")[2]: Frontend(route=record.route, backend="any", priority=record.priority)
        for key, record in records.items()
        if isinstance(record, Frontend)
    }
    if not frontends:
        return []
    return compiled_problems(compile_offline(Tree(backends={"any": Backend()}, frontends=frontends)))


def _listener_clashes(
    table: ObjectTable, after: Mapping[str, bytes | None], records: Mapping[str, Record]
) -> list[Problem]:
    put = {key.partition("/")[2]: found for key, found in records.items() if isinstance(found, Listener)}
    if not put:
        return []
    wanted = {name: found for name, found in table.listeners().items() if f"listeners/{name}" not in after}
    return list(clashes({**wanted, **put}, table.listeners()).values())


def _waiting(table: ObjectTable, after: Mapping[str, bytes | None], records: Mapping[str, Record]) -> list[Problem]:
    """Return a warning for everything put that would wait for an object which is not there."""

    def there(key: str) -> bool:
        return key in records if key in after else key in table.ledger

    found = []
    for key, record in records.items():
        needed: list[str] = [owner] if (owner := owner_of(key)) else []
        if isinstance(record, Frontend):
            needed.append(f"backends/{record.backend}")
        found += [_waits(table, _place(key, record), missing) for missing in needed if not there(missing)]
    return found


def _place(key: str, record: Record) -> Path:
    return (*path_of(key), "backend") if isinstance(record, Frontend) else path_of(key)


def _waits(table: ObjectTable, path: Path, missing: str) -> Problem:
    near = ""
    if missing.startswith("backends/") and table.count("backend") <= SUGGEST_MAX:
        names = (key.partition("/")[2] for key in table.ledger if key.startswith("backends/") and key.count("/") == 1)
        near = did_you_mean(missing.partition("/")[2], names)
    return Problem(
        path=path,
        message=f"waits for {missing}, which is not there",
        remedy=near or f"put {missing} too; until then it takes no requests",
        warning=True,
    )
