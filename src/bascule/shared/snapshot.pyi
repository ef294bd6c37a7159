"""Verification and assembly of snapshot images; the layout is in snapshot.pxd."""

from typing_extensions import Buffer

from bascule.shared.seal import SealedImage as SealedImage
from bascule.shared.seal import assemble as assemble
from bascule.shared.seal import is_sealed as is_sealed
from bascule.shared.seal import make_memfd as make_memfd

class SnapshotError(ValueError):
    """The bytes are no image this version can read; `code` is the SnapshotFault, the text says what and where."""

    code: int
    def __init__(self, code: int, message: str) -> None: ...

def describe(code: int) -> str:
    """What a SnapshotFault returned by snapshot_open means, in words."""

def verify(buffer: Buffer) -> int:
    """Checks a whole or records image but its routes, and returns its revision.

    `buffer` is any contiguous bytes-like object; one that does not start on an 8-byte boundary is copied first.
    Raises SnapshotError with the reason and the place.
    """
