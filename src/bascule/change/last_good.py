"""The last good configuration on disk, for a start without the store and as what a store is judged by (docs/do-no-harm.md).

What came into force is told by `note`, which costs a dictionary entry; a thread writes it down, after half a second of quiet
or three seconds at the latest. A small change is a frame in the journal of the newest generation; a new generation is
begun when the journal has grown, or from time to time, so that there are three of them, and it is made from the files
alone: nothing is kept in memory. A disk that is full or read-only is a warning in the status and is tried again; traffic and
changes go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bascule.change.holds import GateState
from bascule.change.last_good_file import (
    DamagedError,
    Journal,
    frame_of,
    read_base,
    read_journal,
    replace_file,
    replay,
    write_base,
)
from bascule.store.interface import Entry, Reading

GENERATIONS: Final = 3
QUIET_S: Final = 0.5
LONGEST_S: Final = 3.0
RETRY_S: Final = (1.0, 60.0)
"""First and longest pause after a failure."""
NEW_GENERATION_S: Final = 600.0
JOURNAL_BYTES_MIN: Final = 1 << 20
"""A journal larger than this and than half its base begins a new generation."""
GATES_FILE: Final = "gates"
_NAME: Final = re.compile(r"last-good\.([0-9]{1,18})(\.journal)?").fullmatch
Warn = Callable[[str], None]


class Status(msgspec.Struct, frozen=True):
    """How writing is going."""

    generation: int
    """Number of the newest; 0: none yet."""
    revision: int
    """Store revision that is on disk."""
    at_s: float
    """Unix time of the last writing that worked, 0 for none."""
    pending: int
    """Objects noted and not yet written."""
    error: str = ""
    """Why the last attempt failed, with what to do; empty when it did not."""


class LastGood:
    """The generations in one directory. One thread writes; every method may be called from any other."""

    def __init__(self, directory: str, warn: Warn, *, quiet_s: float = QUIET_S, longest_s: float = LONGEST_S) -> None:
        """`warn` gets a text when something is damaged or cannot be written; the writer's thread may call it."""
        self._directory = directory
        self._warn = warn
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._condition = threading.Condition()
        self._pending: dict[str, Entry | None] = {}
        self._position = ("", 0)
        self._gates: GateState | None = None
        self._first_s = self._last_s = 0.0
        self._flush = self._ending = self._busy = False
        self._status = Status(0, 0, 0.0, 0)
        self._thread: threading.Thread | None = None
        self._journal: Journal | None = None
        self._base_bytes = 0
        self._base_at_s = 0.0

    # ---- reading

    def load(self) -> Reading | None:
        """Return the newest state that is intact, None when there is none; warns about whatever is damaged."""
        for number in sorted(self._numbers(), reverse=True):
            reading = self._load(number)
            if reading is not None:
                return reading
        return None

    def load_gates(self) -> GateState:
        """Return what the gates of the predecessor held; an empty state when there is none or it is damaged."""
        path = self._path(GATES_FILE)
        try:
            with open(path, "rb") as file:
                checksum, _, text = file.read().partition(b"\n")
            if int(checksum, 16) == zlib.crc32(text):
                return msgspec.json.decode(text, type=GateState)
        except FileNotFoundError:
            return GateState()
        except (OSError, ValueError) as error:
            self._warn(f"{path} cannot be read, so what was frozen or held is judged anew: {error}")
            return GateState()
        self._warn(f"{path} is damaged, so what was frozen or held is judged anew")
        return GateState()

    def _load(self, number: int) -> Reading | None:
        """Read one generation; when its base is damaged, the one before it and then this one's journal."""
        path = self._path(f"last-good.{number}")
        try:
            head, entries = read_base(path)
            identity, revision = head.identity, head.revision
        except (OSError, DamagedError) as error:
            self._warn(f"{path} is not used, the generation before it is: {error}")
            before = self._load(number - 1) if number - 1 in self._numbers() else None
            if before is None:
                return None
            identity, revision, entries = before.identity, before.revision, dict(before.entries)
        try:
            base_revision, frames = read_journal(f"{path}.journal")
            if base_revision == revision:
                for frame in frames:
                    replay(entries, frame)
                    identity, revision = frame.identity, frame.revision
        except FileNotFoundError:
            pass
        except (OSError, DamagedError) as error:
            self._warn(f"{path}.journal is used up to revision {revision} only: {error}")
        return Reading(identity, revision, entries)

    def _numbers(self) -> set[int]:
        try:
            names = os.listdir(self._directory)
        except OSError:
            return set()
        return {int(found[1]) for name in names if (found := _NAME(name))}

    # ---- noting

    def note(self, identity: str, revision: int, changes: Mapping[str, Entry | None]) -> None:
        """What has come into force (None: gone) with a store revision: costs one dictionary entry an object."""
        now_s = time.monotonic()
        with self._condition:
            self._pending.update(changes)
            self._position = (identity, revision)
            if changes:
                self._first_s = self._first_s or now_s
                self._last_s = now_s
                self._wake()

    def note_gates(self, state: GateState) -> None:
        """What is frozen or held has changed; written at once."""
        with self._condition:
            self._gates = state
            self._wake()

    def status(self) -> Status:
        """Return how writing is going."""
        with self._condition:
            return msgspec.structs.replace(self._status, pending=len(self._pending))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Write what is noted now; False when that was not done in time. Blocks: not for the loop's thread."""
        with self._condition:
            self._flush = True
            self._wake()
            return self._condition.wait_for(self._all_written, timeout_s)

    def _all_written(self) -> bool:
        return not self._pending and self._gates is None and not self._busy

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is noted and end the thread."""
        with self._condition:
            self._ending = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _wake(self) -> None:
        """Called with the condition held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="last-good", daemon=True)
            self._thread.start()
        self._condition.notify_all()

    # ---- the writer's thread

    def _run(self) -> None:
        pause_s = 0.0
        while True:
            taken = self._take(pause_s)
            if taken is None:
                break
            try:
                self._write(*taken)
                pause_s = 0.0
            except OSError as error:
                self._failed(error, *taken)
                pause_s = min(max(RETRY_S[0], pause_s * 2), RETRY_S[1])
                if self._ending:
                    break
        self._end_journal()

    def _take(self, pause_s: float) -> tuple[dict[str, Entry | None], tuple[str, int], GateState | None] | None:
        """Wait until something is due and take it; None at the end. `pause_s` is the wait after a failure."""
        condition = self._condition
        with condition:
            if pause_s:
                condition.wait_for(lambda: self._ending or self._flush, pause_s)
            while not (self._gates or self._due_s() <= 0):
                if self._ending and not self._pending:
                    return None
                condition.wait(self._due_s() if self._pending else None)
            # Gates alone are written at once, objects when they are due.
            changes = self._pending if self._due_s() <= 0 else {}
            gates, self._gates = self._gates, None
            if changes:
                self._pending, self._first_s, self._flush = {}, 0.0, False
            self._busy = True
            return changes, self._position, gates

    def _due_s(self) -> float:
        if not self._pending:
            return float("inf")
        if self._ending or self._flush:
            return 0.0
        return min(self._last_s + self._quiet_s, self._first_s + self._longest_s) - time.monotonic()

    def _write(self, changes: dict[str, Entry | None], position: tuple[str, int], gates: GateState | None) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        if gates is not None:
            text = msgspec.json.encode(gates)
            replace_file(self._path(GATES_FILE), b"%08x\n" % zlib.crc32(text) + text)
        if changes:
            self._write_objects(changes, position)
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def _write_objects(self, changes: dict[str, Entry | None], position: tuple[str, int]) -> None:
        journal = self._journal
        bound = max(JOURNAL_BYTES_MIN, self._base_bytes // 2)
        old = time.monotonic() - self._base_at_s > NEW_GENERATION_S
        if journal is None or journal.size_bytes > bound or old:
            number = self._new_generation(changes, position)
        else:
            journal.append(frame_of(*position, changes))
            number = self._status.generation
        with self._condition:
            self._status = Status(number, position[1], time.time(), 0)

    def _new_generation(self, changes: dict[str, Entry | None], position: tuple[str, int]) -> int:
        """Write a base of what is on disk and the changes, begin its journal, and remove generations beyond the third."""
        numbers = self._numbers()
        before = self.load() if numbers else None
        entries: dict[str, Entry] = dict(before.entries) if before is not None else {}
        for key, entry in changes.items():
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
        number = max(numbers, default=0) + 1
        path = self._path(f"last-good.{number}")
        self._base_bytes = write_base(path, Reading(*position, entries))
        self._base_at_s = time.monotonic()
        self._end_journal()
        self._journal = Journal(f"{path}.journal", position[1])
        for old in sorted(numbers)[: 1 - GENERATIONS]:
            for ending in ("", ".journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(f"last-good.{old}{ending}"))
        return number

    def _end_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _failed(self, error: OSError, changes: dict[str, Entry | None], _: object, gates: GateState | None) -> None:
        text = (
            f"the last good configuration cannot be written to {self._directory}: {error.strerror or error}; traffic and "
            "changes go on, but a start without the store would find an older one; make room or give another --state"
        )
        with self._condition:
            self._busy = False
            self._pending = {**changes, **self._pending}
            self._gates = self._gates or gates
            self._first_s = self._first_s or time.monotonic()
            known, self._status = self._status.error, msgspec.structs.replace(self._status, error=text)
        if known != text:
            self._warn(text)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)
