"""What was done to this node that is no change of an object: freezes, adoptions, tokens. Who, what, when; kept beside the tokens.

The history of objects is in the store and the same for every node. These are of one node, so they are in a file of its own: one JSON line
each, on disk before the answer. When it has grown to ACTIONS_BYTES_MAX, it is renamed to `.1`, and begun anew.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Final

import msgspec

from bascule.change.last_good_file import sync_directory

ACTIONS_FILE: Final = "actions.jsonl"
ACTIONS_BYTES_MAX: Final = 1 << 20


class Action(msgspec.Struct, frozen=True):
    """One of them."""

    at_s: float
    """Unix time."""
    author: str
    action: str
    details: dict[str, Any] = {}


_decode: Final = msgspec.json.Decoder(Action).decode


class Actions:
    """The file of one node. Owner: the admin API."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self._path = path

    def add(self, author: str, action: str, details: dict[str, Any]) -> None:
        """Write one down; OSError when that cannot be done."""
        line = msgspec.json.encode(Action(time.time(), author, action, details)) + b"\n"
        file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # the machine stopped half-way through the last one
                line = b"\n" + line
            if os.write(file, line) != len(line):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(file)
            if not size:
                sync_directory(os.path.dirname(self._path))
            full = size + len(line) >= ACTIONS_BYTES_MAX
        finally:
            os.close(file)
        if full:
            os.rename(self._path, self._path + ".1")

    def latest(self, limit: int) -> tuple[Action, ...]:
        """Return the latest ones, newest first. A line that is damaged is left out."""
        found: list[Action] = []
        for path in (self._path, self._path + ".1"):
            try:
                with open(path, "rb") as file:
                    lines = file.read().splitlines()
            except FileNotFoundError:
                continue
            for line in reversed(lines):
                if len(found) >= limit:
                    return tuple(found)
                try:
                    found.append(_decode(line))
                except msgspec.MsgspecError:
                    continue
        return tuple(found)
