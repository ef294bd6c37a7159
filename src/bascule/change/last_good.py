"""The last good configuration on disk, for a start without the store and as what a store is judged by (docs/do-no-harm.md).

What came into force is told by `note`, which costs a dictionary entry; a thread writes it down, after half a second of quiet
or three seconds at the latest. A small change is a frame in the journal of the newest generation; a new generation is
begun when the journal has grown, or from time to time, so that there are three of them, and it is made from the files
alone: nothing is kept in memory. Of a large configuration the compiled images are kept beside it (change/images_file.py).
A disk that is full or read-only is a warning in the status and is tried again; traffic and changes go on.
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

from bascule.change.compiled import KeptImages
from bascule.change.holds import GateState
from bascule.change.images_file import About, Position, read_images, write_images
from bascule.change.last_good_file import (
    DamagedError,
    Frame,
    Journal,
    base_sha256,
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
JOURNAL_BYTES_MIN: Final = 4 << 20
"""A journal larger than this and than half its base begins a new generation."""
IMAGES_FROM: Final = 20_000
"""Entries from which on compiled images are worth their disk (130 bytes an entry): below, compiling takes less than 50 ms."""
IMAGES_BEHIND_MAX: Final = 2_000
"""Objects written to the journal after the images, before newer ones are wanted: a start edits them in, 50 us each."""
IMAGES_PAUSE_S: Final = 60.0
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


class Images(msgspec.Struct, gc=False):
    """Compiled images of the last good configuration, and what came after them."""

    kept: KeptImages
    about: About
    tail: list[Frame]


class _Taken(msgspec.Struct, gc=False):
    """What the writer's thread has taken to write."""

    changes: dict[str, Entry | None]
    position: tuple[str, int]
    gates: GateState | None = None
    images: tuple[KeptImages, About] | None = None


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
        self._failures = 0
        self._status = Status(0, 0, 0.0, 0)
        self._thread: threading.Thread | None = None
        self._journal: Journal | None = None
        self._base_bytes = 0
        self._base_sha256 = ""
        self._base_at_s = 0.0
        self._imaged: _Taken | None = None
        """Images that have not been written, with what was pending when they were noted."""
        self._behind = -1
        """Objects in the journal after the images on disk; negative: there are none that fit."""
        self._asked_s = float("-inf")

    # ---- reading

    def load(self) -> Reading | None:
        """Return the newest state that is intact, None when there is none; warns about whatever is damaged."""
        for number in sorted(self._numbers(), reverse=True):
            reading = self._load(number)
            if reading is not None:
                return reading
        return None

    def load_images(self) -> Images | None:
        """Return the images that go with what `load` returns, and the changes after them; the caller closes them. None when there
        are none, or none that fit; warns about damage."""
        number = max(self._numbers(), default=0)
        path = self._path(f"last-good.{number}")
        try:
            found = read_images(f"{path}.images")
            if found is None:
                return None
            position, about, kept = found
            try:
                tail = self._tail(path, position)
            except BaseException:
                kept.close()
                raise
        except FileNotFoundError:
            return None
        except (OSError, ValueError, DamagedError) as error:
            self._warn(f"{path}.images is not used: {error}")
            return None
        return Images(kept, about, tail)

    def _tail(self, path: str, position: Position) -> list[Frame]:
        """Return the frames after a position; DamagedError when the files are not those that it is of."""
        if base_sha256(path) != position.base_sha256:
            raise DamagedError("it is of another base")
        _, frames = read_journal(f"{path}.journal", position.journal_bytes, position.journal_crc)
        tail = []
        try:
            for frame in frames:
                tail.append(frame)  # noqa: PERF402 - the iterator may raise half-way
        except DamagedError:
            pass  # `load` ends there too, and says so
        return tail

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

    def images_fit(self, behind: int) -> None:
        """Say that the images on disk have been found to fit, with so many objects after them."""
        with self._condition:
            self._behind = behind

    def images_wanted(self, objects: int) -> bool:
        """Tell whether `note_images` is worth while for so many entries."""
        with self._condition:
            wanted = not 0 <= self._behind <= IMAGES_BEHIND_MAX and self._imaged is None and not self._status.error
            return objects >= IMAGES_FROM and wanted and time.monotonic() - self._asked_s > IMAGES_PAUSE_S

    def note_images(self, kept: KeptImages, about: About) -> None:
        """Everything that has been noted, and nothing else, is what these images say. Closes them when they are written."""
        now_s = time.monotonic()
        with self._condition:
            if self._imaged is not None:
                assert self._imaged.images is not None
                self._imaged.images[0].close()
                self._pending = {**self._imaged.changes, **self._pending}
            self._imaged = _Taken(self._pending, self._position, None, (kept, about))
            self._pending = {}
            self._first_s = self._first_s or now_s
            self._last_s = self._asked_s = now_s
            self._wake()

    def status(self) -> Status:
        """Return how writing is going."""
        with self._condition:
            return msgspec.structs.replace(self._status, pending=self._pending_count())

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Write what is noted now; False when it cannot be written or was not in time. Blocks: not for the loop's thread."""
        with self._condition:
            failures = self._failures
            self._flush = True
            self._wake()
            self._condition.wait_for(lambda: self._all_written() or self._failures != failures, timeout_s)
            return self._all_written()

    def _pending_count(self) -> int:
        return len(self._pending) + (len(self._imaged.changes) if self._imaged is not None else 0)

    def _all_written(self) -> bool:
        return not self._pending and self._imaged is None and self._gates is None and not self._busy

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
                self._write(taken)
                pause_s = 0.0
            except Exception as error:  # whatever it is: without this thread nothing would be written down any more
                self._failed(error, taken)
                pause_s = min(max(RETRY_S[0], pause_s * 2), RETRY_S[1])
                if self._ending:
                    break
            finally:
                if taken.images is not None:
                    taken.images[0].close()
        self._end_journal()

    def _take(self, pause_s: float) -> _Taken | None:
        """Wait until something is due and take it; None at the end. `pause_s` is the wait after a failure."""
        condition = self._condition
        with condition:
            if pause_s:
                condition.wait_for(lambda: self._ending or self._flush, pause_s)
            while not (self._gates or self._due_s() <= 0):
                if self._ending and not self._pending and self._imaged is None:
                    return None
                condition.wait(self._due_s() if self._pending or self._imaged is not None else None)
            # Gates alone are written at once, objects when they are due.
            taken = _Taken({}, self._position)
            if self._due_s() <= 0:
                if self._imaged is not None:  # what came after the images waits for the next turn
                    taken, self._imaged = self._imaged, None
                else:
                    taken.changes, self._pending = self._pending, {}
                if not self._pending:
                    self._first_s, self._flush = 0.0, False
            taken.gates, self._gates = self._gates, None
            self._busy = True
            return taken

    def _due_s(self) -> float:
        if not self._pending and self._imaged is None:
            return float("inf")
        if self._ending or self._flush:
            return 0.0
        return min(self._last_s + self._quiet_s, self._first_s + self._longest_s) - time.monotonic()

    def _write(self, taken: _Taken) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        if taken.gates is not None:
            text = msgspec.json.encode(taken.gates)
            replace_file(self._path(GATES_FILE), b"%08x\n" % zlib.crc32(text) + text)
        if taken.changes or (taken.images is not None and self._journal is None):
            self._write_objects(taken.changes, taken.position)
            taken.changes = {}  # a failure from here on is of the images alone
        if taken.images is not None:
            self._write_images(*taken.images)
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def _write_images(self, kept: KeptImages, about: About) -> None:
        assert self._journal is not None
        path = self._path(f"last-good.{self._status.generation}")
        position = Position(self._base_sha256, self._journal.size_bytes, self._journal.crc)
        write_images(f"{path}.images", kept, about, position)
        self._behind = 0

    def _write_objects(self, changes: dict[str, Entry | None], position: tuple[str, int]) -> None:
        journal = self._journal
        bound = max(JOURNAL_BYTES_MIN, self._base_bytes // 2)
        old = time.monotonic() - self._base_at_s > NEW_GENERATION_S
        if journal is None or journal.size_bytes > bound or old:
            number = self._new_generation(changes, position)
        else:
            journal.append(frame_of(*position, changes))
            number = self._status.generation
            self._behind += len(changes) if self._behind >= 0 else 0
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
        self._base_bytes, self._base_sha256 = write_base(path, Reading(*position, entries))
        self._behind = -1
        self._base_at_s = time.monotonic()
        self._end_journal()
        self._journal = Journal(f"{path}.journal", position[1])
        for old in numbers:
            gone = old in sorted(numbers)[: 1 - GENERATIONS]
            for ending in ("", ".journal", ".images") if gone else (".images",):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(f"last-good.{old}{ending}"))
        return number

    def _end_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _failed(self, error: Exception, taken: _Taken) -> None:
        reason = getattr(error, "strerror", None) or repr(error)
        text = (
            f"the last good configuration cannot be written to {self._directory}: {reason}; traffic and "
            "changes go on, but a start without the store would find an older one; make room or give another --state"
        )
        with self._condition:
            self._busy = False
            if self._imaged is not None:  # what failed is older than what they go with
                assert self._imaged.images is not None
                self._imaged.images[0].close()
                self._pending = {**self._imaged.changes, **self._pending}
                self._imaged = None
            self._pending = {**taken.changes, **self._pending}
            self._gates = self._gates or taken.gates
            self._failures += 1
            self._condition.notify_all()
            if self._pending:
                self._first_s = self._first_s or time.monotonic()
            known, self._status = self._status.error, msgspec.structs.replace(self._status, error=text)
        if known != text:
            self._warn(text)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)
