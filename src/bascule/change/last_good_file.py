"""One generation of the last good configuration on disk: a base with everything, and a journal of what came after it.

    last-good.7           header, header record (JSON), blocks of entries (msgpack), deflated together; renamed into place
    last-good.7.journal   header, then frames: length, CRC-32, record (msgpack)       appended to, each with its fdatasync

The base is protected by SHA-256, each frame by CRC-32: a frame that was cut off or damaged ends the journal, and what is
before it still is a state that was in force. The base of generation n+1 is what generation n came to, so when that
base is damaged, generation n and then the journal of n+1 give the same.

All integers are little-endian. Nothing here keeps state or knows threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec

from bascule.store.interface import Entry, Reading

_BASE_HEADER: Final = struct.Struct("<8sIIQ32s")
"""magic, format version, length of the header record, length of the body, SHA-256 of both."""
_JOURNAL_HEADER: Final = struct.Struct("<8sIQI")
"""magic, format version, revision of the base, CRC-32 of the former."""
_FRAME: Final = struct.Struct("<II")
"""length, CRC-32 of the record"""
_BLOCK_SIZE: Final = struct.Struct("<I")
_BLOCK_ENTRIES: Final = 4096
"""Between two blocks the writing thread lets the others run: 4,096 entries take about a millisecond."""
_BASE_MAGIC: Final = b"BASCLKGB"
_JOURNAL_MAGIC: Final = b"BASCLKGJ"
_VERSION: Final = 1
_LEVEL: Final = 1


class DamagedError(Exception):
    """The file is not what was written; the text says how."""


class Head(msgspec.Struct, frozen=True):
    """The header record of a base, readable by `strings`."""

    identity: str
    revision: int
    count: int
    at_s: float


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One addition to the journal: absolute, so that repeating it does no harm."""

    identity: str
    revision: int
    puts: list[tuple[str, bytes, int, int, int]]
    """key, value, created, modified, lease."""
    removed: list[str]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_block: Final = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_frame: Final = msgspec.msgpack.Decoder(Frame).decode
_decode_head: Final = msgspec.json.Decoder(Head).decode


def write_base(path: str, reading: Reading) -> tuple[int, str]:
    """Write a base and rename it into place, durably; return its size in bytes and checksum. OSError leaves nothing
    behind."""
    body = _deflated(reading.entries)
    head = msgspec.json.encode(Head(reading.identity, reading.revision, len(reading.entries), time.time()))
    digest = hashlib.sha256(head + body).digest()
    data = _BASE_HEADER.pack(_BASE_MAGIC, _VERSION, len(head), len(body), digest) + head + body
    replace_file(path, data)
    return len(data), digest.hex()


def read_base(path: str) -> tuple[Head, dict[str, Entry]]:
    """Read a base; DamagedError, or OSError when there is none."""
    _, head, body = _base_parts(path)
    try:
        return _decode_head(head), _inflated(body)
    except (msgspec.MsgspecError, zlib.error, struct.error, ValueError) as error:
        raise DamagedError(f"it does not decode: {error}") from None


def base_sha256(path: str) -> str:
    """Return the checksum of a base, which has it; DamagedError, or OSError when there is none."""
    return _base_parts(path)[0].hex()


def _base_parts(path: str) -> tuple[bytes, bytes, memoryview]:
    """Return checksum, header record and body of an intact base."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < _BASE_HEADER.size:
        raise DamagedError("it is cut off")
    magic, version, head_size, body_size, digest = _BASE_HEADER.unpack_from(data)
    if magic != _BASE_MAGIC or version != _VERSION:
        raise DamagedError(f"it is no last good configuration of format {_VERSION}")
    if len(data) != _BASE_HEADER.size + head_size + body_size:
        raise DamagedError(
            f"it has {len(data)} bytes where its header says {_BASE_HEADER.size + head_size + body_size}"
        )
    if hashlib.sha256(memoryview(data)[_BASE_HEADER.size :]).digest() != digest:
        raise DamagedError("its checksum is wrong")
    start = _BASE_HEADER.size + head_size
    return digest, data[_BASE_HEADER.size : start], memoryview(data)[start:]


class Journal:
    """A journal open for appending. Owner: one thread."""

    def __init__(self, path: str, base_revision: int) -> None:
        """Begin a new journal; OSError."""
        header = _JOURNAL_HEADER.pack(_JOURNAL_MAGIC, _VERSION, base_revision, 0)[:-4]
        self.size_bytes = _JOURNAL_HEADER.size
        self.crc = 0
        """CRC-32 of all frames."""
        self._file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        _write_all(self._file, header + struct.pack("<I", zlib.crc32(header)), 0)
        os.fdatasync(self._file)
        sync_directory(os.path.dirname(path))

    def append(self, frame: Frame) -> None:
        """Add a frame, durably. After an OSError the journal is as it was."""
        payload = _encode(frame)
        data = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            _write_all(self._file, data, self.size_bytes)
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size_bytes)
            raise
        self.size_bytes += len(data)
        self.crc = zlib.crc32(data, self.crc)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: str, after: int = 0, crc: int = 0) -> tuple[int, Iterator[Frame]]:
    """Return the revision of the base that a journal belongs to, and its frames; the iterator raises DamagedError where
    the journal is damaged. OSError when there is none.

    `after` leaves out the frames in the first so many bytes; DamagedError when those do not have this `crc`.
    """
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < _JOURNAL_HEADER.size:
        raise DamagedError("it is cut off")
    magic, version, revision, checksum = _JOURNAL_HEADER.unpack_from(data)
    intact = zlib.crc32(data[: _JOURNAL_HEADER.size - 4]) == checksum
    if magic != _JOURNAL_MAGIC or version != _VERSION or not intact:
        raise DamagedError("its header is damaged")
    place = max(after, _JOURNAL_HEADER.size)
    if after and (len(data) < after or zlib.crc32(memoryview(data)[_JOURNAL_HEADER.size : after]) != crc):
        raise DamagedError("it is not the one that was written")
    return revision, _frames(memoryview(data), place)


def _frames(data: memoryview, place: int) -> Iterator[Frame]:
    while place < len(data):
        if place + _FRAME.size > len(data):
            raise DamagedError(f"it is cut off at byte {place}")
        size, checksum = _FRAME.unpack_from(data, place)
        payload = data[place + _FRAME.size : place + _FRAME.size + size]
        if len(payload) != size or zlib.crc32(payload) != checksum:
            raise DamagedError(f"it is cut off or damaged at byte {place}")
        try:
            frame = _decode_frame(payload)
        except msgspec.MsgspecError as error:
            raise DamagedError(f"it does not decode at byte {place}: {error}") from None
        yield frame
        place += _FRAME.size + size


def replay(entries: dict[str, Entry], frame: Frame) -> None:
    """Carry out a frame."""
    for key in frame.removed:
        entries.pop(key, None)
    for key, value, created, modified, lease in frame.puts:
        entries[key] = Entry(key, value, created, modified, lease)


def frame_of(identity: str, revision: int, changes: Mapping[str, Entry | None]) -> Frame:
    """Return changes (None: removed) as a frame."""
    puts = [
        (key, entry.value, entry.created, entry.modified, entry.lease)
        for key, entry in changes.items()
        if entry is not None
    ]
    return Frame(identity, revision, puts, [key for key, entry in changes.items() if entry is None])


def replace_file(path: str, data: bytes) -> None:
    """Put a file (mode 0600) in another's place: after a crash there is the old one or the new one. OSError leaves the
    old one."""
    temporary = path + ".new"
    file = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(file, data, 0)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make renames in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_all(file: int, data: bytes, place: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, place)
        place += written
        rest = rest[written:]


def _deflated(entries: Mapping[str, Entry]) -> bytes:
    deflater = zlib.compressobj(_LEVEL)
    parts = []
    for some in _batched(entries.values(), _BLOCK_ENTRIES):
        block = _encode(some)
        parts.append(deflater.compress(_BLOCK_SIZE.pack(len(block)) + block))
    parts.append(deflater.flush())
    return b"".join(parts)


def _inflated(data: memoryview) -> dict[str, Entry]:
    text = memoryview(zlib.decompress(data))
    entries: dict[str, Entry] = {}
    place = 0
    while place < len(text):
        (size,) = _BLOCK_SIZE.unpack_from(text, place)
        place += _BLOCK_SIZE.size
        entries.update({entry.key: entry for entry in _decode_block(text[place : place + size])})
        place += size
    return entries


def _batched(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Yield lists of `size` entries, the last one shorter."""
    rest = iter(entries)
    while some := list(islice(rest, size)):
        yield some
