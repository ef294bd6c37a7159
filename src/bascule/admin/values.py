"""Stored values as JSON documents, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from bascule.change.diff import Change, FieldChange
from bascule.model.keys import CHILDREN, KINDS, SETTINGS, ObjectKey, parse_key, record_type
from bascule.model.problems import Problem
from bascule.store.interface import Alteration, Entry

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a text that is no JSON, or is nested a thousand deep."""


def shown(value: bytes) -> msgspec.Raw:
    """Return a stored value for an answer. What is not JSON (somebody else wrote it) is shown as a text, which no
    object can be."""
    try:
        msgspec.json.decode(value)
    except NOT_JSON:
        return msgspec.Raw(msgspec.json.encode(value.decode("utf-8", "replace")))
    return msgspec.Raw(value)


def decoded(value: bytes) -> dict[str, Any] | None:
    """Return a stored value's fields; None when it is not a JSON object."""
    try:
        document = msgspec.json.decode(value)
    except NOT_JSON:
        return None
    return document if isinstance(document, dict) else None


def merge_patch(target: object, patch: object) -> object:
    """Apply a JSON merge patch (RFC 7396 section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


# ---- trees


def tree_of(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Return stored objects as one tree, as a file would have it."""
    tree: dict[str, Any] = {}
    for key in sorted(entries):  # an owner sorts before what is below it
        value = msgspec.json.decode(shown(entries[key].value))
        place = parse_key(key)
        if place is None:
            continue
        if place.kind == SETTINGS:
            tree[SETTINGS] = value
            continue
        parts = key.split("/")
        collection = tree.setdefault(parts[0], {})
        if place.owner:
            owner = collection.setdefault(parts[1], {})
            # A value that is no object, or has a field of that name, was put by somebody else, and is refused as it is.
            if isinstance(owner, dict) and isinstance(below := owner.setdefault(parts[2], {}), dict):
                below[parts[3]] = value
        else:
            collection[parts[1]] = value
    return tree


def objects_of(tree: Mapping[str, Any]) -> tuple[dict[str, bytes], list[Problem]]:
    """Take a tree apart into stored values by key, and say what has no place in one.

    What is wrong inside of an object is validation's business. A `store` table is left out: it says where a file's
    tree lives, and this one comes to live somewhere else.
    """
    objects: dict[str, bytes] = {}
    problems: list[Problem] = []
    for collection, members in tree.items():
        if collection == SETTINGS:
            objects[SETTINGS] = msgspec.json.encode(members)
        elif collection in KINDS:
            _collect((collection,), members, objects, problems)
        elif collection != "store":
            known = ", ".join([*KINDS, SETTINGS])
            problems.append(Problem(path=(collection,), message="no part of a tree", remedy=f"known are: {known}"))
    return objects, problems


def _collect(place: tuple[str, ...], members: object, objects: dict[str, bytes], problems: list[Problem]) -> None:
    if not isinstance(members, dict):
        problems.append(Problem(path=place, message="expected objects by id", remedy='write {"<id>": {...}}'))
        return
    for name, value in members.items():
        key = "/".join((*place, name))
        if parse_key(key) is None:
            remedy = "use letters, digits, dots, dashes and underscores"
            problems.append(Problem(path=(*place, name), message=f"{name!r} cannot be an id", remedy=remedy))
            continue
        nested = CHILDREN.get(place[0]) if len(place) == 1 else None
        if nested is not None and isinstance(value, dict) and nested[0] in value:
            _collect((*place, name, nested[0]), value[nested[0]], objects, problems)
            value = {field: content for field, content in value.items() if field != nested[0]}
        objects[key] = msgspec.json.encode(value)


# ---- differences


def same(key: str, before: bytes | None, after: bytes | None) -> bool:
    """Tell whether two stored values mean the same: defaults written out and order of fields are no difference."""
    return before == after or _change(key, before, after) is None


def changes_of(alterations: Iterable[Alteration]) -> tuple[Change, ...]:
    """Return the semantic differences of a history record, by key."""
    found = (_change(item.key, item.before, item.after) for item in alterations)
    return tuple(sorted((change for change in found if change is not None), key=lambda change: change.path))


def _change(key: str, before: bytes | None, after: bytes | None) -> Change | None:
    path = tuple(key.split("/"))
    if before is None or after is None:
        return None if before is after else Change("added" if before is None else "removed", path)
    old, new = _fields(key, before), _fields(key, after)
    if old is None or new is None:
        if before == after:
            return None
        return Change("changed", path, (FieldChange("", _plain(before), _plain(after)),))
    fields = tuple(
        FieldChange(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
    return Change("changed", path, fields) if fields else None


def _fields(key: str, value: bytes) -> dict[str, Any] | None:
    """Return an object's fields, defaults included when it is in order."""
    document = decoded(value)
    place: ObjectKey | None = parse_key(key)
    if document is None or place is None:
        return document
    try:
        record = msgspec.convert(document, record_type(place.kind))
    except msgspec.ValidationError:
        return document
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    tag = record.__struct_config__.tag
    return {**fields, "type": tag} if tag is not None else fields


def _plain(value: bytes) -> object:
    return msgspec.json.decode(shown(value))
