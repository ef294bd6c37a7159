"""What differs between two trees, object by object: what a reload does, before it does it.

Order of fields and objects, comments, and values written out at their defaults are no difference. No difference, no
work: the master compiles nothing and workers hear nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from bascule.model.problems import Path, dotted
from bascule.model.tree import Record, Tree

Action = Literal["added", "changed", "removed"]
_NESTED = {"backends": "servers", "frontends": "middlewares"}
_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


class FieldChange(msgspec.Struct, frozen=True):
    """One field of a changed object."""

    field: str
    old: Any
    new: Any


class Change(msgspec.Struct, frozen=True):
    """One object that is in only one of the trees, or differs. An added or removed object stands for all below it."""

    action: Action
    path: Path
    fields: tuple[FieldChange, ...] = ()

    def render(self) -> str:
        """Return the change for a person, one line and one more for every field."""
        lines = [f"{_SIGNS[self.action]} {dotted(self.path)}"]
        lines += [f"    {field.field}: {_shown(field.old)} -> {_shown(field.new)}" for field in self.fields]
        return "\n".join(lines)


def diff(old: Tree, new: Tree) -> list[Change]:
    """Return what changes when `new` takes the place of `old`, in the order of the tree, ids sorted; empty when they
    are equal."""
    changes: list[Change] = []
    for kind in ("store", "settings"):
        changes.extend(_one((kind,), getattr(old, kind), getattr(new, kind), ""))
    for kind in ("listeners", "hosts", "backends", "frontends"):
        changes.extend(_many((kind,), getattr(old, kind), getattr(new, kind)))
    return changes


def _many(path: Path, old: Mapping[str, Record], new: Mapping[str, Record]) -> Iterator[Change]:
    differing = [name for name, record in new.items() if old.get(name) != record]
    differing += [name for name in old if name not in new]
    nested = _NESTED.get(path[-1], "")
    for name in sorted(differing):
        place = (*path, name)
        if name not in old:
            yield Change("added", place)
        elif name not in new:
            yield Change("removed", place)
        else:
            yield from _one(place, old[name], new[name], nested)


def _one(path: Path, old: Record, new: Record, nested: str) -> Iterator[Change]:
    if old == new:
        return
    if type(old) is not type(new):
        yield Change("removed", path)
        yield Change("added", path)
        return
    fields = tuple(
        FieldChange(field.name, before, after)
        for field in msgspec.structs.fields(type(old))
        if field.name != nested and (before := getattr(old, field.name)) != (after := getattr(new, field.name))
    )
    if fields:
        yield Change("changed", path, fields)
    if nested:
        yield from _many((*path, nested), getattr(old, nested), getattr(new, nested))


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
