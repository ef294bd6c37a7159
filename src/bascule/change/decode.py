"""Plain data (what a TOML or JSON parser gives) to a tree, with every error instead of the first.

Only the way of the damned comes here object by object: healthy data is decoded by msgspec in one call, and this walk
explains why that call failed.
"""

import functools
import types
import typing
from collections.abc import Set
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from bascule.model.problems import Path, Problem, did_you_mean
from bascule.model.tree import ConcurrencyLimit, RateLimit, Record, Tree

_MIDDLEWARES: Final[dict[str, type[Record]]] = {"rate_limit": RateLimit, "concurrency_limit": ConcurrencyLimit}
_KINDS: Final = ((bool, "a boolean"), (int, "a number"), (float, "a number with a fraction"), (str, "a text"))


class Decoded(NamedTuple):
    """What could be decoded; an object with a problem is missing from the tree."""

    tree: Tree
    problems: list[Problem]
    backends: Set[str]
    """Names of all backends, the broken ones included, so that nobody is blamed for referring to one."""


class _Field(NamedTuple):
    hint: Any
    required: bool
    expected: str
    records: Any
    """The record type of a `dict[Id, X]` or `tuple[X, ...]` field or of a plain one; None for a leaf."""
    shape: str
    """How records are held: "dict", "tuple", "one", or "" for a leaf."""


def decode(raw: object) -> Decoded:
    """Decode plain data; never raises. `Decoded.problems` is empty exactly when the whole of `raw` is in the tree."""
    try:
        tree = msgspec.convert(raw, Tree)
    except msgspec.ValidationError:
        return _explain(raw)
    return Decoded(tree, [], tree.backends.keys())


def _explain(raw: object) -> Decoded:
    problems: list[Problem] = []
    tree = _record(Tree, raw, (), problems, keep=True)
    backends = raw.get("backends") if isinstance(raw, dict) else None
    names = frozenset(name for name in backends if isinstance(name, str)) if isinstance(backends, dict) else frozenset()
    return Decoded(tree if isinstance(tree, Tree) else Tree(), problems, names)


def _record(
    cls: type[Record], raw: object, path: Path, problems: list[Problem], *, keep: bool = False
) -> Record | None:
    """Decode one object, leaving out what is wrong with it, so that validation can look at the rest.

    None when the rest would mislead: a required field is wrong or missing, or the fields only make sense together
    (middlewares). With `keep`, never None for a table.
    """
    if not isinstance(raw, dict):
        problems.append(
            Problem(path=path, message=f"expected a table of fields, got {_kind(raw)}", remedy=_example(cls))
        )
        return None
    fields = _fields(cls)
    values: dict[str, Any] = {}
    broken = False  # beyond judging by what is left
    for name, value in raw.items():
        if name == "type" and cls.__struct_config__.tag is not None:
            continue
        field = fields.get(str(name))
        if field is None:
            remedy = did_you_mean(str(name), fields) or "known are: " + ", ".join(fields)
            problems.append(Problem(path=(*path, str(name)), message=f"unknown field {str(name)!r}", remedy=remedy))
            continue
        before = len(problems)
        decoded = _value(field, value, (*path, name), problems)
        if len(problems) == before or field.shape == "dict" or (field.shape == "one" and decoded is not None):
            values[name] = decoded
        else:
            broken = broken or field.required or cls.__struct_config__.tag is not None
    for name, field in fields.items():
        if field.required and name not in raw:
            problems.append(
                Problem(path=path, message=f"the field {name!r} is missing", remedy=_missing_remedy(cls, name))
            )
            broken = True
    return None if broken and not keep else cls(**values)


def _value(field: _Field, value: object, path: Path, problems: list[Problem]) -> Any:
    if field.shape == "one":
        return _record(field.records, value, path, problems, keep=True)
    if field.shape == "tuple" and isinstance(value, list):
        items = [_record(field.records, item, (*path, str(index)), problems) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not None)
    if field.shape == "dict":
        return _records(field.records, value, path, problems)
    try:
        return msgspec.convert(value, field.hint)
    except msgspec.ValidationError as error:
        problems.append(_leaf_problem(field, value, path, error))
        return None


def _records(records: Any, value: object, path: Path, problems: list[Problem]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    if not isinstance(value, dict):
        problems.append(
            Problem(
                path=path,
                message=f"expected a table of {path[-1]} by id, got {_kind(value)}",
                remedy=f"write [{'.'.join(path)}.<id>] and its fields below",
            )
        )
        return found
    for name, raw in value.items():
        place = (*path, str(name))
        if records is Record:
            cls = _middleware_type(raw, place, problems)
            if cls is None:
                continue
        else:
            cls = records
        record = _record(cls, raw, place, problems)
        if record is not None:
            found[str(name)] = record
    return found


def _middleware_type(raw: object, path: Path, problems: list[Problem]) -> type[Record] | None:
    known = ", ".join(f'"{name}"' for name in _MIDDLEWARES)
    if not isinstance(raw, dict):
        problems.append(Problem(path=path, message=f"expected a table of fields, got {_kind(raw)}"))
        return None
    kind = raw.get("type")
    if kind is None:
        problems.append(Problem(path=path, message="the field 'type' is missing", remedy=f"add type = one of {known}"))
        return None
    if not isinstance(kind, str) or kind not in _MIDDLEWARES:
        remedy = did_you_mean(str(kind), _MIDDLEWARES) or f"use one of {known}"
        problems.append(Problem(path=(*path, "type"), message=f"unknown middleware {kind!r}", remedy=remedy))
        return None
    return _MIDDLEWARES[kind]


def _leaf_problem(field: _Field, value: object, path: Path, error: msgspec.ValidationError) -> Problem:
    got = f"{value!r} ({_kind(value)})" if isinstance(value, (str, int, float)) else _kind(value)
    if field.expected:
        return Problem(path=path, message=f"expected {field.expected}, got {got}", remedy=f"write {field.expected}")
    reason = str(error).split(" - at ")[0]
    literals = _literals(field.hint)
    if literals:
        choices = ", ".join(f'"{choice}"' for choice in literals)
        remedy = did_you_mean(str(value), literals) or f"use one of {choices}"
        return Problem(path=path, message=f"expected one of {choices}, got {got}", remedy=remedy)
    reason = reason.split(", got `")[0].replace("`str`", "a text").replace("`int`", "a whole number")
    reason = reason.replace("`bool`", "true or false").replace("Expected", "expected")
    return Problem(path=path, message=f"{reason}, got {got}", remedy="correct it; docs/configuration.md has the bounds")


def _missing_remedy(cls: type[Record], name: str) -> str:
    examples = {
        "address": 'add address = "0.0.0.0:8080"',
        "url": 'add url = "http://10.0.0.5:8080"',
        "route": """add route = 'PathPrefix("/")'""",
        "backend": 'add backend = "<id of a backend>"',
        "max": "add max = 100",
        "requests": "add requests = 100",
        "period": 'add period = "1s"',
    }
    return examples.get(name, f"add {name} to this {cls.__name__.lower()}")


def _example(cls: type[Record]) -> str:
    required = [name for name, field in _fields(cls).items() if field.required]
    return f"write a table with at least: {', '.join(required)}" if required else "write a table of fields"


def _kind(value: object) -> str:
    for cls, name in _KINDS:
        if type(value) is cls:
            return name
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


# ---- what the structs say about themselves


@functools.cache
def _fields(cls: type[Record]) -> dict[str, _Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: _Field(
            hints[field.name], field.required, _expected(hints[field.name]), *_records_of(hints[field.name])
        )
        for field in msgspec.structs.fields(cls)
    }


def _records_of(hint: Any) -> tuple[Any, str]:
    hint = _bare(hint)
    if typing.get_origin(hint) is types.UnionType:  # a table that may be absent
        present = [member for member in typing.get_args(hint) if member is not type(None)]
        hint = present[0] if len(present) == 1 else hint
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint, "one"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        value = _bare(arguments[1])
        return (value if isinstance(value, type) else Record), "dict"
    if origin is tuple and isinstance(_bare(arguments[0]), type) and issubclass(_bare(arguments[0]), Record):
        return _bare(arguments[0]), "tuple"
    return None, ""


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _expected(hint: Any) -> str:
    """Return the first `extra["expected"]` in a type, outermost first."""
    if typing.get_origin(hint) is Annotated:
        for meta in hint.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.extra and "expected" in meta.extra:
                return str(meta.extra["expected"])
    for argument in typing.get_args(hint):
        if typing.get_origin(argument) in (Annotated, typing.Union, types.UnionType):
            found = _expected(argument)
            if found:
                return found
    return ""


def _literals(hint: Any) -> tuple[str, ...]:
    bare = _bare(hint)
    return tuple(map(str, typing.get_args(bare))) if typing.get_origin(bare) is typing.Literal else ()
