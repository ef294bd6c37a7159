"""Stored objects, each for itself: decoded, validated, and every error of each with its path and remedy.

Values come from whoever can write to the store, so nothing about them is taken for granted: not their size, their depth,
their encoding nor their being JSON. Whatever is wrong with an object is a problem of that object and of nobody else.
Healthy objects cost one msgspec call each and one pass of change/validate.py for all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from bascule.change.decode import decode
from bascule.change.validate import validate
from bascule.model import keys, limits
from bascule.model.keys import ObjectKey, format_key, parse_key
from bascule.model.problems import Path, Problem
from bascule.model.refusal import refusal_problems
from bascule.model.tree import Backend, Frontend, Host, Listener, Middleware, Record, Server, Settings, Tree

PROBLEMS_MAX: Final = 20
"""Of one object: more say nothing new."""
TEXT_MAX: Final = 400
"""Characters of one problem's message: it repeats what was stored."""

_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(keys.record_type(kind))
    for kind in ("settings", "listener", "host", "backend", "server", "frontend", "middleware")
}
_BELOW: Final = {"backend": "servers", "frontend": "middlewares"}
_STAND_IN_BACKEND: Final = Backend()
_STAND_IN_FRONTEND: Final = Frontend(route='PathPrefix("/")', backend="any")


class Examined(msgspec.Struct, frozen=True, gc=False):
    """What a number of stored objects are. A key is in exactly one of the two."""

    records: dict[str, Record]
    problems: dict[str, tuple[Problem, ...]]
    warnings: dict[str, tuple[Problem, ...]]
    """Of objects that are in order."""


def path_of(key: str) -> Path:
    """Return a key as the path that problems and differences use."""
    return tuple(key.split("/"))


def decode_record(parsed: ObjectKey, value: bytes) -> Record:
    """Return a value that has been found in order before; msgspec.DecodeError when it was not."""
    record: Record = _DECODERS[parsed.kind].decode(value)
    return record


def examine(objects: Iterable[tuple[str, bytes]]) -> Examined:
    """Decode and validate objects (key, value), each for itself; never raises."""
    records: dict[str, Record] = {}
    found: dict[str, list[Problem]] = {}
    for key, value in objects:
        parsed = parse_key(key) if len(key) <= limits.KEY_BYTES_MAX else None
        if parsed is None:
            found[key] = [_unknown_key(key)]
            continue
        record, problems = _decode(parsed, key, value)
        if record is None:
            found[key] = problems
        else:
            records[key] = record
    warnings: dict[str, list[Problem]] = {}
    listeners: dict[str, Record] = {key: record for key, record in records.items() if isinstance(record, Listener)}
    others = {key: record for key, record in records.items() if key not in listeners} if listeners else records
    try:
        _validate(others, found, warnings)
    except Exception:  # a rule that cannot bear a value: find out whose it is
        _validate_each(others, found, warnings)
    _validate_each(listeners, found, warnings)  # together, they would be blamed for each other's addresses
    for key in found:
        records.pop(key, None)
    return Examined(
        records,
        {key: _bounded(problems) for key, problems in found.items()},
        {key: _bounded(problems) for key, problems in warnings.items() if key in records},
    )


def _unknown_key(key: str) -> Problem:
    return Problem(
        path=path_of(key[: limits.KEY_BYTES_MAX]),
        message="no object has such a key",
        remedy="remove it; keys are settings, listeners/<id>, hosts/<name>, backends/<id>, "
        "backends/<id>/servers/<id>, frontends/<id> and frontends/<id>/middlewares/<id>",
    )


def _decode(parsed: ObjectKey, key: str, value: bytes) -> tuple[Record | None, list[Problem]]:
    if len(value) > limits.VALUE_BYTES_MAX:
        message = f"the value is {len(value)} bytes long; {limits.VALUE_BYTES_MAX} is the most"
        return None, [Problem(path=path_of(key), message=message, remedy="shorten it, or split the object")]
    try:
        record: Record = _DECODERS[parsed.kind].decode(value)
    except Exception:  # not only msgspec's own: RecursionError of a deep one, UnicodeDecodeError
        return None, _explain(parsed, key, value)
    below = _BELOW.get(parsed.kind)
    if below is not None and getattr(record, below):
        return None, [_not_inside(key, below)]
    return record, []


def _not_inside(key: str, below: str) -> Problem:
    return Problem(
        path=(*path_of(key), below),
        message=f"{below} are objects of their own in a store",
        remedy=f"put each at {key}/{below}/<id>, and leave the field away here",
    )


def _explain(parsed: ObjectKey, key: str, value: bytes) -> list[Problem]:
    """Return every reason why a value does not decode."""
    refused = refusal_problems(value)
    if refused:
        return list(refused)
    path = path_of(key)
    try:
        plain = msgspec.json.decode(value)
        problems = [problem for problem in decode(_nested(parsed, plain)).problems if problem.path[: len(path)] == path]
    except Exception as error:
        reason = str(error).replace("JSON is malformed: ", "") or type(error).__name__
        return [Problem(path=path, message=f"not JSON: {reason}", remedy="put a JSON object")]
    if problems:
        return problems
    return [Problem(path=path, message="cannot be decoded", remedy="compare it with docs/configuration.md")]


def _nested(parsed: ObjectKey, plain: object) -> dict[str, Any]:
    """Return the tree that has a plain value at its place and what it needs around it."""
    if parsed.kind == keys.SETTINGS:
        return {"settings": plain}
    if parsed.kind == "server":
        return {"backends": {parsed.owner: {"servers": {parsed.id: plain}}}}
    if parsed.kind == "middleware":
        around = {"route": _STAND_IN_FRONTEND.route, "backend": "any", "middlewares": {parsed.id: plain}}
        return {"frontends": {parsed.owner: around}}
    collection = format_key(parsed.kind, "x").partition("/")[0]
    return {collection: {parsed.id: plain}}


# ---- validation


def tree_of(records: Iterable[tuple[str, Record]], *, stand_ins: bool = True) -> Tree:
    """Put records (by key) together to a tree, which shares no dictionary with them.

    A server or middleware without its owner gets a stand-in, or is left out.
    """
    tree = Tree(listeners={}, hosts={}, backends={}, frontends={})
    below: list[tuple[ObjectKey, Record]] = []
    settings: Settings | None = None
    for key, record in records:
        parsed = parse_key(key)
        assert parsed is not None
        if parsed.owner:
            below.append((parsed, record))
        elif isinstance(record, Backend):
            tree.backends[parsed.id] = msgspec.structs.replace(record, servers={})
        elif isinstance(record, Frontend):
            tree.frontends[parsed.id] = msgspec.structs.replace(record, middlewares={})
        elif isinstance(record, Listener):
            tree.listeners[parsed.id] = record
        elif isinstance(record, Host):
            tree.hosts[parsed.id] = record
        elif isinstance(record, Settings):
            settings = record
    for parsed, record in below:
        place_below(tree, parsed, record, stand_ins=stand_ins)
    return tree if settings is None else msgspec.structs.replace(tree, settings=settings)


def place_below(tree: Tree, parsed: ObjectKey, record: Record, *, stand_ins: bool) -> None:
    """Put a server into its backend, a middleware into its frontend; see `tree_of`."""
    if parsed.kind == "server":
        backend = tree.backends.get(parsed.owner)
        if backend is None and stand_ins:
            backend = tree.backends[parsed.owner] = msgspec.structs.replace(_STAND_IN_BACKEND, servers={})
        if backend is not None and isinstance(record, Server):
            backend.servers[parsed.id] = record
        return
    frontend = tree.frontends.get(parsed.owner)
    if frontend is None and stand_ins:
        frontend = tree.frontends[parsed.owner] = msgspec.structs.replace(_STAND_IN_FRONTEND, middlewares={})
    if frontend is not None and isinstance(record, Middleware):
        frontend.middlewares[parsed.id] = record


def _validate(records: dict[str, Record], found: dict[str, list[Problem]], warnings: dict[str, list[Problem]]) -> None:
    if not records:
        return
    for problem in validate(tree_of(records.items()), dangling=True):
        key = _blamed(problem.path, records)
        if key:
            (warnings if problem.warning else found).setdefault(key, []).append(problem)


def _blamed(path: Path, records: dict[str, Record]) -> str:
    """Return the key of the object that a problem is of; empty for one of several objects together (too many servers,
    say), which only somebody who knows them all can judge."""
    for length in (4, 2, 1):
        key = "/".join(path[:length])
        if len(path) >= length and key in records:
            return "" if length == 2 and len(path) == 3 and path[2] in _BELOW.values() else key
    return ""


def _validate_each(
    records: dict[str, Record], found: dict[str, list[Problem]], warnings: dict[str, list[Problem]]
) -> None:
    for key, record in list(records.items()):
        try:
            _validate({key: record}, found, warnings)
        except Exception as error:
            message = f"cannot be judged: {type(error).__name__}: {error}"
            problem = Problem(path=path_of(key), message=message, remedy="compare it with docs/configuration.md")
            found.setdefault(key, []).append(problem)


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(
        problem
        if len(problem.message) <= TEXT_MAX and len(problem.remedy) <= TEXT_MAX
        else msgspec.structs.replace(
            problem, message=_cut(problem.message), remedy=_cut(problem.remedy), path=tuple(map(_cut, problem.path))
        )
        for problem in problems[:PROBLEMS_MAX]
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."
