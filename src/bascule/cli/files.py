"""Trees from files, for the commands that send one: a TOML or JSON file, standard input, or a folder of files."""

import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from bascule.cli.output import Failure
from bascule.store.file import format_of
from bascule.store.positions import Positions, json_positions, toml_positions

_ENDINGS: Final = (".toml", ".json")


class Source:
    """Where a tree's objects come from, to say it of a problem."""

    def __init__(self) -> None:
        """See the class."""
        self.tree: dict[str, Any] = {}
        self._texts: list[tuple[str, str, str]] = []
        self._positions: dict[str, Positions] = {}

    def add(self, file: str, text: str, kind: str) -> None:
        """Add a file's objects; Failure when it cannot be read, or has an object that another file has."""
        self._texts.append((file, text, kind))
        merge(self.tree, _parse(file, text, kind), file, ())

    def place(self, problem: dict[str, Any]) -> dict[str, Any]:
        """Return a problem of the API with the file and line of its object."""
        path = tuple(map(str, problem.get("path", ())))
        for file, text, kind in self._texts:
            if file not in self._positions:
                self._positions[file] = toml_positions(text) if kind == "toml" else json_positions(text)
            # Not of a collection: every file may have some of it.
            line = self._positions[file].line(path) if path else 0
            if line and self._positions[file].line(path[:2]):
                return {**problem, "file": file, "line": line}
        return problem


def read_tree(names: tuple[str, ...]) -> Source:
    """Read files, folders (all .toml and .json files below them, by name) and standard input (-) as one tree."""
    source = Source()
    for name in names:
        for file in _files(name):
            text = _text(file)
            source.add("standard input" if file == "-" else file, text, format_of(file, text.encode()))
    return source


def merge(tree: dict[str, Any], more: dict[str, Any], file: str, path: tuple[str, ...]) -> None:
    """Add the objects of one file to those of others; only tables that hold objects may be in several."""
    for name, value in more.items():
        if name not in tree:
            tree[name] = value
        elif isinstance(tree[name], dict) and isinstance(value, dict) and _may_be_shared((*path, name), value):
            merge(tree[name], value, file, (*path, name))
        else:
            place = ".".join((*path, name))
            raise Failure(f"{file}: {place} is in another file too", "keep each object in one file")


def _may_be_shared(path: tuple[str, ...], value: dict[str, Any]) -> bool:
    if len(path) == 2:
        return _only_below(path[0], value)
    return len(path) in (1, 3) and path[0] != "settings"


def _only_below(collection: str, value: dict[str, Any]) -> bool:
    """Tell whether an owner's table says nothing of the owner itself: its servers may be in another file."""
    return set(value) <= {"backends": {"servers"}, "frontends": {"middlewares"}}.get(collection, set())


def _files(name: str) -> list[str]:
    if name == "-" or not Path(name).is_dir():
        return [name]
    found = sorted(str(path) for path in Path(name).rglob("*") if path.suffix in _ENDINGS and path.is_file())
    if not found:
        raise Failure(f"{name} has no .toml or .json files", "name a folder that has some, or a file")
    return found


def _text(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", "name a TOML or JSON file, a folder of them, or -") from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is not UTF-8", "save it as UTF-8") from None


def _parse(file: str, text: str, kind: str) -> dict[str, Any]:
    try:
        tree = tomllib.loads(text) if kind == "toml" else msgspec.json.decode(text)
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise Failure(f"{file}: {error}", "see all that is wrong with: bascule check FILE") from None
    if not isinstance(tree, dict):
        raise Failure(f"{file} is no tree", "a tree has tables such as [backends.app]; see docs/configuration.md")
    return tree
