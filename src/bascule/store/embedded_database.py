"""The database of the embedded store: schema, transactions, the log of revisions with before-images, and its errors.

Everything here blocks; `store/embedded.py` calls it from threads of its own. The file is SQLite in WAL mode with
synchronous=FULL: what was acknowledged is on disk, whatever kills the process or the machine
(https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous). Several processes may have it
open: revisions are given out under SQLite's write lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from bascule.store.interface import (
    HISTORY_BYTES_MAX,
    LEASE_MAX,
    Alteration,
    Batch,
    CompactedError,
    ConflictError,
    Entry,
    Event,
    LeaseLostError,
    Put,
    Reading,
    Record,
    RefusedError,
    Remove,
    StoreError,
    Transaction,
    UnavailableError,
    size_of,
)

APPLICATION_ID: Final = 0x42534355
"""SQLite's header field for "whose file is this": "BSCU"."""
SCHEMA_VERSION: Final = 1
KEY_BYTES_MAX: Final = 512
VALUE_BYTES_MAX: Final = 1 << 20
LEASES_MAX: Final = 100_000
BUSY_TIMEOUT_S: Final = 5.0

CREATED, CHANGED, LEFT, EXPIRED = range(4)
"""Why there is a revision: the database was made; a transaction; a lease revoked; a lease that ran out."""

_SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX objects_by_lease ON objects (lease) WHERE lease != 0;
CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, cause INTEGER NOT NULL,
    author TEXT NOT NULL, message TEXT NOT NULL
);
CREATE TABLE changes (
    revision INTEGER NOT NULL, key TEXT NOT NULL,
    before BLOB, before_created INTEGER, before_modified INTEGER, before_lease INTEGER,
    after BLOB, after_created INTEGER, after_lease INTEGER,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, renewals INTEGER NOT NULL DEFAULT 0);
"""


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """Return what an error of SQLite means to a caller, with what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError(
            f"{path} is locked by another process", f"see who holds it (fuser {path}), and try again"
        )
    if code == sqlite3.SQLITE_FULL:
        return RefusedError(
            f"{path} cannot grow: the disk is full", f"make room (df {os.path.dirname(path)}); nothing was written"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return RefusedError(
            f"{path} is damaged: {error}",
            f"keep a copy, then restore a backup, or recover it: sqlite3 {path} .recover | sqlite3 NEW; the "
            "configuration in force stays in force",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH):
        return RefusedError(
            f"{path} cannot be opened for writing: {error}",
            f"check owner and mode: ls -ld {os.path.dirname(path)} {path}",
        )
    return RefusedError(f"{path}: {error}", "look at the system's log for errors of the disk")


class Database:
    """One open database. Used by one thread at a time for writing and by another for reading."""

    def __init__(self, path: str, *, create: bool = True) -> None:
        """Open, and (with `create`) make it when there is none; StoreError."""
        self.path = path
        try:
            if not os.path.lexists(path):
                if not create:
                    raise UnavailableError(f"{path} is gone", "put it back, or restore a backup")
                _create(path)
            status = os.stat(path)
        except OSError as error:
            raise RefusedError(
                f"{path} cannot be made: {error.strerror}", "make the directory, or set `path` in [store]"
            ) from None
        if status.st_size == 0:
            raise RefusedError(
                f"{path} is empty: it was a database and has lost everything",
                "restore a backup; or remove the file to begin with nothing",
            )
        self.file_id = (status.st_dev, status.st_ino)
        self.writer = self._connect()
        self.reader = self._connect()
        self.identity = self._check()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 1000")
        except sqlite3.Error as error:
            raise translate(error, self.path) from None
        return connection

    def _check(self) -> str:
        """Return the identity; StoreError when this is not a database that we know."""
        try:
            (application,) = self.reader.execute("PRAGMA application_id").fetchone()
            (version,) = self.reader.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise RefusedError(f"{self.path} is a database of something else", "set `path` in [store] to another")
            if version != SCHEMA_VERSION:
                raise RefusedError(
                    f"{self.path} has schema {version}; this version of the program knows {SCHEMA_VERSION}",
                    "run the version that wrote it, or restore the copy made before the upgrade",
                )
            (identity,) = self.reader.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
            return str(identity)
        except sqlite3.Error as error:
            raise translate(error, self.path) from None

    def present(self) -> bool:
        """Tell whether the path still leads to the file that is open: a restore by rename puts another there, and
        what we would write then is lost."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.file_id

    def close(self) -> None:
        """Close both connections."""
        for connection in (self.reader, self.writer):
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # ---- reading

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of everything."""
        try:
            self.reader.execute("BEGIN")
            try:
                yield self.reader
            finally:
                self.reader.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error, self.path) from None

    def read(self, at: int = 0) -> Reading:
        """Return everything at a revision; before-images undo what came later."""
        with self._reading() as connection:
            now = revision_of(connection)
            rows = connection.execute("SELECT key, value, created, modified, lease FROM objects")
            entries = {row[0]: Entry(*row) for row in rows}
            if at and at != now:
                self._check_kept(connection, at, now)
                rows = connection.execute(
                    "SELECT key, before, before_created, before_modified, before_lease FROM changes WHERE revision > ? "
                    "ORDER BY revision DESC",
                    (at,),
                )
                for key, before, created, modified, lease in rows:
                    if before is None:
                        entries.pop(key, None)
                    else:
                        entries[key] = Entry(key, before, created, modified, lease)
            return Reading(self.identity, at or now, entries)

    def _check_kept(self, connection: sqlite3.Connection, at: int, now: int) -> None:
        oldest = compacted_of(connection)
        if at < oldest:
            raise CompactedError(oldest)
        if at > now:
            raise RefusedError(f"there is no revision {at} yet, the latest is {now}", "use an earlier one")

    def batches_after(self, after: int, limit: int, connection: sqlite3.Connection | None = None) -> list[Batch]:
        """Return at most `limit` revisions after one, oldest first; CompactedError when some are gone."""
        if connection is None:
            with self._reading() as reader:
                return self.batches_after(after, limit, reader)
        if after < (oldest := compacted_of(connection)):
            raise CompactedError(oldest)
        causes = connection.execute(
            "SELECT revision, cause FROM revisions WHERE revision > ? ORDER BY revision LIMIT ?", (after, limit)
        ).fetchall()
        if not causes:
            return []
        events: dict[int, list[Event]] = {revision: [] for revision, _ in causes}
        expired = {revision for revision, cause in causes if cause == EXPIRED}
        rows = connection.execute(
            "SELECT revision, key, after, after_created, after_lease FROM changes WHERE revision BETWEEN ? AND ?",
            (causes[0][0], causes[-1][0]),
        )
        for revision, key, value, created, lease in rows:
            entry = None if value is None else Entry(key, value, created, revision, lease)
            events[revision].append(Event(key, entry, revision in expired))
        return [Batch(self.identity, revision, tuple(found)) for revision, found in events.items()]

    def read_revision(self) -> int:
        """Return the latest revision."""
        with self._reading() as connection:
            return revision_of(connection)

    def history(self, limit: int, before: int) -> list[Record]:
        """Return the latest records, newest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT revision, at_s, author, message FROM revisions WHERE cause IN (?, ?) AND revision < ? "
                "ORDER BY revision DESC LIMIT ?",
                (CHANGED, LEFT, before or 1 << 62, limit),
            ).fetchall()
            records: list[Record] = []
            total = 0
            for revision, at_s, author, message in rows:
                changed = connection.execute("SELECT key, before, after FROM changes WHERE revision = ?", (revision,))
                alterations = tuple(Alteration(*row) for row in changed)
                records.append(Record(revision, at_s, author, message, alterations))
                total += size_of(records[-1])
                if total > HISTORY_BYTES_MAX:
                    break
            return records

    # ---- writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of SQLite: all of it on disk at the end, or nothing."""
        if not self.present():
            raise UnavailableError(f"{self.path} was replaced or removed", "it is opened again; try again")
        try:
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield self.writer
                self.writer.execute("COMMIT")
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from None

    def commit(self, group: Sequence[Transaction]) -> list[int | StoreError]:
        """Carry out transactions with one write to the disk; return the revision of each, or why it was not done."""
        with self.writing() as connection:
            return [self._apply(connection, transaction) for transaction in group]

    def _apply(self, connection: sqlite3.Connection, transaction: Transaction) -> int | StoreError:
        for compare in transaction.compares:
            row = connection.execute("SELECT modified FROM objects WHERE key = ?", (compare.key,)).fetchone()
            if (modified := row[0] if row else 0) != compare.modified:
                return ConflictError(compare.key, modified)
        for operation in transaction.operations:
            if isinstance(operation, Remove) and (newer := _newer(connection, operation)) is not None:
                return newer
        if (refusal := _refusal(transaction)) is not None:
            return refusal
        puts = [operation for operation in transaction.operations if isinstance(operation, Put)]
        for lease in {put.lease for put in puts if put.lease}:
            if connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is None:
                return lease_lost(lease)
        removed = _existing(connection, transaction)
        if not puts and not removed:
            return revision_of(connection)
        revision = _new_revision(connection, CHANGED, transaction.author, transaction.message)
        for key in removed:
            _change(connection, revision, key, None, 0)
        for put in puts:
            _change(connection, revision, put.key, put.value, put.lease)
        return revision

    def end_lease(self, lease: int, cause: int) -> None:
        """Remove a lease and everything that lives by it, in a revision of its own when there is something."""
        with self.writing() as connection:
            keys = [key for (key,) in connection.execute("SELECT key FROM objects WHERE lease = ?", (lease,))]
            if keys:
                message = "lease revoked" if cause == LEFT else ""
                revision = _new_revision(connection, cause, "", message)
                for key in keys:
                    _change(connection, revision, key, None, 0)
            connection.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def grant(self, lease: int, ttl_ms: int) -> None:
        """Add a lease."""
        with self.writing() as connection:
            (count,) = connection.execute("SELECT count(*) FROM leases").fetchone()
            if count >= LEASES_MAX:
                raise RefusedError(f"there are {LEASES_MAX} leases already", "let registrants reuse theirs")
            connection.execute("INSERT INTO leases (id, ttl_ms) VALUES (?, ?)", (lease, ttl_ms))

    def renew(self, lease: int) -> int:
        """Tell the process that keeps the leases' time of a heartbeat; return the lease's time, ms."""
        with self.writing() as connection:
            row = connection.execute("SELECT ttl_ms FROM leases WHERE id = ?", (lease,)).fetchone()
            if row is None:
                raise lease_lost(lease)
            connection.execute("UPDATE leases SET renewals = renewals + 1 WHERE id = ?", (lease,))
            return int(row[0])

    def leases(self) -> list[tuple[int, int, int]]:
        """Return id, time in ms and count of foreign heartbeats of every lease."""
        try:
            return self.writer.execute("SELECT id, ttl_ms, renewals FROM leases").fetchall()
        except sqlite3.Error as error:
            raise translate(error, self.path) from None

    def data_version(self) -> int:
        """Return a number that changes when another process has committed something."""
        try:
            return int(self.writer.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise translate(error, self.path) from None

    def compact(self, keep_revisions: int, keep_s: float, limit: int) -> int:
        """Forget at most `limit` revisions beyond both bounds; return how many. The last one always stays."""
        with self.writing() as connection:
            now = revision_of(connection)
            (by_age,) = connection.execute(
                "SELECT coalesce(max(revision), 0) FROM revisions WHERE at_s < ? AND revision < ?",
                (time.time() - keep_s, now),
            ).fetchone()
            oldest = compacted_of(connection)
            upto = min(max(now - keep_revisions, by_age), oldest + limit)
            if upto <= oldest:
                return 0
            connection.execute("DELETE FROM changes WHERE revision <= ?", (upto,))
            connection.execute("DELETE FROM revisions WHERE revision <= ? AND revision < ?", (upto, now))
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('compacted', ?)", (str(upto),))
            return int(upto - oldest)


def lease_lost(lease: int) -> LeaseLostError:
    """Return the error of a lease that is not there."""
    return LeaseLostError(f"lease {lease} has ended", "grant another one, and put everything again")


def revision_of(connection: sqlite3.Connection) -> int:
    """Return the latest revision."""
    (revision,) = connection.execute("SELECT max(revision) FROM revisions").fetchone()
    return int(revision)


def compacted_of(connection: sqlite3.Connection) -> int:
    """Return the oldest revision that can be read."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
    return int(row[0]) if row else 1


def _create(path: str) -> None:
    """Make a database beside its place and move it there whole, so that an empty file is always a loss."""
    if os.path.exists(path + "-wal"):
        # Its frames would be replayed into the new file.
        raise RefusedError(
            f"{path} is missing, but {path}-wal is there: the database was moved without its log",
            "put it back beside its log, or remove the log to begin with nothing",
        )
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.new-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO meta VALUES ('identity', ?)", (f"embedded-{uuid.uuid4().hex}",))
        _new_revision(connection, CREATED, "", "")
        connection.close()
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(temporary, path)
    except sqlite3.Error as error:
        raise translate(error, path) from None
    finally:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(temporary + suffix)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _refusal(transaction: Transaction) -> StoreError | None:
    """Return why a transaction makes no sense whatever the database holds."""
    put: set[str] = set()
    below = {operation.key for operation in transaction.operations if isinstance(operation, Remove) and operation.below}
    removed = {operation.key for operation in transaction.operations if isinstance(operation, Remove)}
    for operation in transaction.operations:
        key = operation.key
        if not key or len(key.encode()) > KEY_BYTES_MAX:
            return RefusedError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key.encode())}", "use a shorter id")
        if isinstance(operation, Remove):
            continue
        if key in put or key in removed or any(parent in below for parent in _parents(key)):
            return RefusedError(f"{key} is written twice in one transaction", "write it once, or in two transactions")
        if not 0 <= operation.lease <= LEASE_MAX:
            return lease_lost(operation.lease)
        if len(operation.value) > VALUE_BYTES_MAX:
            return RefusedError(f"the value of {key} is longer than {VALUE_BYTES_MAX} bytes", "make it smaller")
        put.add(key)
    return None


def _parents(key: str) -> Iterator[str]:
    end = key.rfind("/")
    while end > 0:
        yield key[:end]
        end = key.rfind("/", 0, end)


def _newer(connection: sqlite3.Connection, operation: Remove) -> ConflictError | None:
    """Return the conflict of a removal with something below that its author did not know."""
    if not (operation.known and operation.below):
        return None
    key = operation.key
    row = connection.execute(
        "SELECT key, modified FROM objects WHERE key > ? AND key < ? AND modified > ? LIMIT 1",
        (key + "/", key + "0", operation.known),
    ).fetchone()
    return None if row is None else ConflictError(*row)


def _existing(connection: sqlite3.Connection, transaction: Transaction) -> list[str]:
    """Return the keys that its removals remove."""
    found: dict[str, None] = {}
    for operation in transaction.operations:
        if isinstance(operation, Remove):
            key = operation.key
            rows = connection.execute("SELECT key FROM objects WHERE key = ?", (key,)).fetchall()
            if operation.below:
                rows += connection.execute("SELECT key FROM objects WHERE key > ? AND key < ?", (key + "/", key + "0"))
            found.update((row[0], None) for row in rows)
    return list(found)


def _new_revision(connection: sqlite3.Connection, cause: int, author: str, message: str) -> int:
    cursor = connection.execute(
        "INSERT INTO revisions (at_s, cause, author, message) VALUES (?, ?, ?, ?)",
        (time.time(), cause, author, message),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _change(connection: sqlite3.Connection, revision: int, key: str, value: bytes | None, lease: int) -> None:
    """Set or (None) remove one key, and log what it was."""
    old = connection.execute("SELECT value, created, modified, lease FROM objects WHERE key = ?", (key,)).fetchone()
    created = old[1] if old else revision
    if value is None:
        connection.execute("DELETE FROM objects WHERE key = ?", (key,))
        after: tuple[bytes | None, int | None, int | None] = (None, None, None)
    else:
        connection.execute(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (key, value, created, revision, lease)
        )
        after = (value, created, lease)
    connection.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (revision, key, *(old or (None, None, None, None)), *after),
    )
