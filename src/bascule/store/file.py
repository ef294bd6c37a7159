"""The file store: one TOML or JSON file is the whole tree. All of its errors are reported together, each with its line.

JSON is the format for programs and large trees: it is decoded in one call (10,000 routes with their backends: 11 ms),
where TOML goes through tomllib (a hundred times slower) and is meant for people.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Final, Literal

import msgspec

from bascule.change.decode import Decoded, decode
from bascule.change.validate import validate
from bascule.model.problems import ConfigError, Problem
from bascule.model.tree import Tree, tree_from_json
from bascule.store.positions import Positions, json_positions, toml_positions

Format = Literal["toml", "json"]
_TOML_PLACE: Final = re.compile(r"^(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)
_JSON_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is in order: its tree, and how to find a line of it again."""

    file: str
    format: Format
    text: bytes
    digest: bytes
    tree: Tree
    warnings: tuple[Problem, ...] = ()

    def positions(self) -> Positions:
        """Scan the text for the lines of its values; costs about as much as reading TOML, so only call it to report."""
        return _positions(self.text, self.format)

    def place(self, problem: Problem) -> Problem:
        """Return a problem that was found later (by the route compiler, say) with its file and line."""
        return problem.at(self.file, self.positions().line(problem.path))


class Unloadable(ConfigError):
    """A file with errors; `partial` is the tree of what could be decoded, for further checks of the rest."""

    def __init__(
        self, problems: list[Problem], partial: Tree | None = None, positions: Positions | None = None
    ) -> None:
        """See the class."""
        super().__init__(problems)
        self.partial = partial
        self.positions = positions or Positions({}, [])


def load(path: str | os.PathLike[str]) -> Loaded:
    """Read, decode and validate a file; Unloadable with every error of it."""
    file = os.fspath(path)
    try:
        text = FilePath(file).read_bytes()
    except OSError as error:
        problem = Problem(file=file, message=f"cannot be read: {error.strerror}", remedy=_remedy(error, file))
        raise Unloadable([problem]) from None
    return parse(text, file)


def parse(text: bytes, file: str) -> Loaded:
    """Decode and validate the text of a file named `file`; Unloadable with every error of it."""
    text_format = format_of(file, text)
    decoded = _decode(text, text_format, file)
    problems = decoded.problems + validate(decoded.tree, backends=decoded.backends)
    if problems:
        positions = _positions(text, text_format)
        problems = [problem.at(file, positions.line(problem.path)) for problem in problems]
        problems.extend(_duplicates(positions, file))
        problems.sort(key=lambda problem: problem.line)
        if not all(problem.warning for problem in problems):
            raise Unloadable(problems, decoded.tree, positions)
    return Loaded(
        file=file,
        format=text_format,
        text=text,
        digest=content_digest(text),
        tree=decoded.tree,
        warnings=tuple(problems),
    )


def format_of(file: str, text: bytes) -> Format:
    """Return the format by the file's extension or, when that says nothing, by its first character."""
    if file.endswith((".json", ".toml")):
        return "json" if file.endswith(".json") else "toml"
    return "json" if text.lstrip()[:1] == b"{" else "toml"


def content_digest(text: bytes) -> bytes:
    """Return 16 bytes that differ when the text differs: a file that was only touched is no change."""
    return hashlib.blake2b(text, digest_size=16).digest()


def _positions(text: bytes, text_format: Format) -> Positions:
    decoded = text.decode("utf-8", "replace")
    return json_positions(decoded) if text_format == "json" else toml_positions(decoded)


def _duplicates(positions: Positions, file: str) -> list[Problem]:
    return [
        Problem(
            file=file, line=line, path=path, message="this key stands twice in one object", remedy="remove one of them"
        )
        for path, line in positions.duplicates
    ]


def _decode(text: bytes, text_format: Format, file: str) -> Decoded:
    if text_format == "json":
        return _decode_json(text, file)
    try:
        return decode(tomllib.loads(text.decode("utf-8")))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        problem = Problem(file=file, line=line, message="is not UTF-8 text", remedy="save the file as UTF-8")
        raise Unloadable([problem]) from None
    except tomllib.TOMLDecodeError as error:
        match = _TOML_PLACE.match(str(error))
        line, column = (int(match[2]), int(match[3])) if match and match[2] else (text.count(b"\n") + 1, 0)
        reason = match[1] if match else str(error)
        problem = Problem(
            file=file, line=line, column=column, message=f"not TOML: {reason}", remedy="correct the line; see toml.io"
        )
        raise Unloadable([problem]) from None


def _decode_json(text: bytes, file: str) -> Decoded:
    try:
        try:
            tree = tree_from_json(text)
        except msgspec.ValidationError:
            return decode(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        match = _JSON_BYTE.search(str(error))
        position = int(match[1]) if match else len(text)
        line = text.count(b"\n", 0, position) + 1
        column = position - (text.rfind(b"\n", 0, position) + 1) + 1
        reason = str(error).replace("JSON is malformed: ", "").split(" (byte")[0]
        problem = Problem(
            file=file, line=line, column=column, message=f"not JSON: {reason}", remedy="correct the text at this place"
        )
        raise Unloadable([problem]) from None
    return Decoded(tree, [], tree.backends.keys())


def _remedy(error: OSError, file: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"check the name, or create {file}"
    if isinstance(error, PermissionError):
        return f"let this user read it: ls -l {file}"
    return "check the file"


class FileWatcher:
    """Notices a changed file by its modification time, size and inode (an editor replaces, a deploy renames), then
    by content.

    Polling, not inotify: it works on every file system, over bind mounts and symbolic links swung to another
    target, and one stat(2) a second costs nothing.
    """

    def __init__(self, path: str | os.PathLike[str], digest: bytes, *, interval_s: float = 1.0) -> None:
        """`digest` is that of the content in force, which may be older than what the file holds by now."""
        self.path = os.fspath(path)
        self.interval_s = interval_s
        self._digest = digest
        # None: the next look reads. A stat made now could be that of a change made since the content was read.
        self._stamp: tuple[int, int, int] | None = None

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def changed(self) -> bytes | None:
        """Return the new text when it differs from the last one returned, else None. A missing file is no change."""
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return None
        try:
            text = FilePath(self.path).read_bytes()
        except OSError:
            return None
        self._stamp = stamp
        digest = content_digest(text)
        if digest == self._digest:
            return None
        self._digest = digest
        return text

    def seen(self, digest: bytes) -> None:
        """Say that this content is known already (a reload by signal came first)."""
        self._digest = digest
        self._stamp = None

    async def changes(self) -> AsyncIterator[bytes]:
        """Yield the text of every change, for as long as it is iterated."""
        import asyncio  # the first load of a start must not pay for it: 50 ms of CPU

        while True:
            await asyncio.sleep(self.interval_s)
            text = self.changed()
            if text is not None:
                yield text
