"""The tables of docs/configuration.md, made from the structs, so that the reference cannot be wrong about them.

`python -m bascule.model.reference docs/configuration.md` writes them between the page's markers.
"""

import re
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from bascule.model import tree
from bascule.model.quantities import DURATION_PATTERN

_MARKER: Final = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NAMES: Final = {str: "text", int: "number", bool: "true or false"}


def fill_tables(page: str) -> str:
    """Return the page with the table of every `<!-- fields of Struct -->` ... `<!-- end -->` made anew."""
    return _MARKER.sub(lambda match: match[1] + table(getattr(tree, match[2])) + match[3], page)


def table(cls: type[tree.Record]) -> str:
    """Return the Markdown table of a struct's fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(cls):
        hint = hints[field.name]
        rows.append(f"| `{field.name}` | {_type(hint)} | {_default(field)} | {_description(hint)} |")
    return "\n".join(rows) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT:
        return "empty"
    if field.default in (None, ()):
        return "none" if field.default is None else "empty"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def _description(hint: Any) -> str:
    for meta in _metas(hint):
        if meta.description:
            return meta.description.replace("|", "\\|").replace("<", "&lt;")
    return ""


def _metas(hint: Any) -> list[msgspec.Meta]:
    found: list[msgspec.Meta] = []
    if typing.get_origin(hint) is Annotated:
        found += [meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
    for argument in typing.get_args(hint):
        if typing.get_origin(argument) in (Annotated, typing.Union, types.UnionType):
            found += _metas(argument)
    return found


def _type(hint: Any) -> str:
    metas = _metas(hint)
    if any(meta.pattern == DURATION_PATTERN for meta in metas):
        return "duration"
    if any((meta.extra or {}).get("expected", "").startswith("a size") for meta in metas):
        return "size"
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    arguments = [argument for argument in typing.get_args(bare) if argument is not type(None)]
    if typing.get_origin(bare) is typing.Literal:
        return ", ".join(f'`"{choice}"`' for choice in arguments)
    if typing.get_origin(bare) is dict:
        return "table by id"
    if typing.get_origin(bare) is tuple:
        return "list"
    if any(isinstance(argument, type) and issubclass(argument, tree.Record) for argument in (bare, *arguments)):
        return "table"
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    high = next((meta.le for meta in metas if meta.le is not None), None)
    return f"number, {low} to {high}" if bare is int and high is not None else _NAMES.get(bare, str(bare))


def main(file: str) -> int:
    """Rewrite the tables of a page; return the exit status."""
    path = Path(file)
    path.write_text(fill_tables(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
