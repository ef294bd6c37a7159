"""Verification and assembly of snapshot images; the layout is in snapshot.pxd."""

from collections.abc import Mapping

from typing_extensions import Buffer

class SnapshotError(ValueError):
    """The bytes are no image this version can read; `code` is the SnapshotFault, the text says what and where."""

    code: int
    def __init__(self, code: int, message: str) -> None: ...

def describe(code: int) -> str:
    """What a SnapshotFault returned by snapshot_open means, in words."""

def verify(buffer: Buffer) -> int:
    """Checks a whole image but its routes, and returns the store revision it was compiled from.

    `buffer` is any contiguous bytes-like object; one that does not start on an 8-byte boundary is copied first.
    Raises SnapshotError with the reason and the place.
    """

def assemble(revision: int, sections: Mapping[int, Buffer]) -> bytes:
    """The image of `sections` (section number -> its bytes): header, sections in ascending order, alignment, checksum.

    Deterministic: the same arguments give the same bytes. Raises ValueError for a number outside 0..23.
    """

def make_memfd(data: Buffer) -> int:
    """A new close-on-exec memfd that holds `data` and can never change again; the caller closes it."""

def is_sealed(fd: int) -> bool:
    """Whether the descriptor's bytes can no longer change, so that a mapping needs no second look."""
