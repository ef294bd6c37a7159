"""The compiled images of a last good configuration on disk, so that a start has nothing to compile before it serves.

    last-good.7.images    header, header record (JSON), records image, routes base, the compiler's sources; renamed into place

They say what the base last-good.7 and the first so many bytes of its journal say, and are bound to both by their checksums; what the
journal says beyond them is edited in (`LastGood.load_images`). CRC-32 protects the file. It is read by the build of the program that wrote
it and by no other: what is compiled has no other version, and any other build compiles as it does without this file.

All integers are little-endian. Nothing here keeps state or knows threads.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import Final

import msgspec

from bascule.change.compiled import KeptImages
from bascule.change.last_good_file import DamagedError, sync_directory
from bascule.shared.checksum import crc32
from bascule.shared.seal import make_memfd

_HEADER: Final = struct.Struct("<8sIII")
"""magic, format version, length of the header record, CRC-32 of everything after the header."""
_MAGIC: Final = b"BASCLKGI"
_VERSION: Final = 1


class Position(msgspec.Struct, frozen=True):
    """Where in a generation: its base, and how much of its journal."""

    base_sha256: str
    journal_bytes: int
    journal_crc: int


class About(msgspec.Struct, frozen=True):
    """What a start has to know before it knows any object."""

    listeners: list[tuple[str, str]]
    """Id and address of every listener in force, by id."""
    settings: bytes
    """The stored form of the settings in force, empty when there is none."""
    slots: int
    """Room to make for objects, in half the statistics slots that there have to be."""


class _Head(msgspec.Struct, frozen=True):
    build: str
    position: Position
    about: About
    addresses: dict[str, bytes]
    sizes: tuple[int, int, int]
    """Bytes of records, base and sources."""


_decode_head: Final = msgspec.json.Decoder(_Head).decode


def build_of() -> str:
    """Return what tells this build of the program from any other: size and time of what decides what an image says."""
    from bascule.change import compile as compiler
    from bascule.model import tree
    from bascule.routing import compile as routes

    files = [os.stat(str(module.__file__)) for module in (compiler, routes, tree)]
    return " ".join(f"{found.st_size}.{found.st_mtime_ns}" for found in files)


def write_images(path: str, kept: KeptImages, about: About, position: Position) -> int:
    """Write the images and rename them into place, durably; return the size in bytes. OSError leaves nothing behind."""
    temporary = path + ".new"
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_mapped(kept.records)), stack.enter_context(_mapped(kept.base)), kept.sources]
        sizes = (len(parts[0]), len(parts[1]), len(parts[2]))
        head = msgspec.json.encode(_Head(build_of(), position, about, kept.addresses, sizes))
        checksum = crc32(head)
        for part in parts:
            checksum = crc32(part, checksum)
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                for data in (_HEADER.pack(_MAGIC, _VERSION, len(head), checksum), head, *parts):
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    sync_directory(os.path.dirname(path))
    return _HEADER.size + len(head) + sum(sizes)


def read_images(path: str) -> tuple[Position, About, KeptImages] | None:
    """Return what is in a file, which the caller closes; None when another build wrote it. DamagedError, or OSError when there
    is none."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _HEADER.size:
            raise DamagedError("it is cut off")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return _parsed(data)
    except (struct.error, msgspec.MsgspecError) as error:
        raise DamagedError(f"it does not decode: {error}") from None


def _parsed(data: memoryview) -> tuple[Position, About, KeptImages] | None:
    magic, version, head_size, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedError("it is no file of images")
    if version != _VERSION:
        return None
    if crc32(data[_HEADER.size :]) != checksum:
        raise DamagedError("its checksum is wrong")
    head = _decode_head(bytes(data[_HEADER.size : _HEADER.size + head_size]))
    if head.build != build_of():
        return None
    start = _HEADER.size + head_size
    records, base, sources = head.sizes
    if start + records + base + sources != len(data):
        raise DamagedError("it has another size than it says")
    first = make_memfd(data[start : start + records])
    try:
        second = make_memfd(data[start + records : start + records + base])
    except BaseException:
        os.close(first)
        raise
    return head.position, head.about, KeptImages(first, second, bytes(data[start + records + base :]), head.addresses)


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
