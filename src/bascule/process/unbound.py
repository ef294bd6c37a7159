"""Listeners in order that cannot be opened, because somebody has their address: quarantined, and tried again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bascule.change.examine import path_of
from bascule.model.problems import Problem

if TYPE_CHECKING:
    from bascule.change.objects import Changes, ObjectTable

AGAIN_S: Final = 5.0


class Unbound:
    """When each of them was tried last."""

    def __init__(self, table: ObjectTable) -> None:
        """See the class."""
        self._table = table
        self._tried_s: dict[str, float] = {}

    def refuse(self, problems: Sequence[dict[str, str]], changes: Changes) -> None:
        """Quarantine the listeners of the keeper's problems (id, address, message, remedy), and take their edits out."""
        for problem in problems:
            key = f"listeners/{problem['id']}"
            found = Problem(path=(*path_of(key), "address"), message=problem["message"], remedy=problem["remedy"])
            self._table.reject(key, (found,), changes)
            self._tried_s[key] = time.monotonic()
        refused = {problem["id"] for problem in problems}
        changes.edits = [edit for edit in changes.edits if edit.kind != "listener" or edit.id not in refused]

    def due(self) -> list[str]:
        """Return the keys of those that are to be tried again now; they are forgotten until they are refused again."""
        now_s = time.monotonic()
        due = [key for key, tried_s in self._tried_s.items() if now_s - tried_s >= AGAIN_S]
        for key in due:
            del self._tried_s[key]
        return due
