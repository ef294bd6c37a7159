"""Assembly and sealing of snapshot images; the layout is in snapshot.pxd."""

from collections.abc import Mapping
from typing import final

from typing_extensions import Buffer

@final
class SealedImage:
    """An image in a sealed memfd; the descriptor is closed with the object. Made by the compiler alone."""

    fd: int
    size: int
    revision: int
    checksum: int
    def fileno(self) -> int: ...
    def duplicate(self) -> int:
        """A descriptor of its own for the caller, who closes it."""

    def read(self) -> bytes:
        """A copy of the bytes."""

def assemble(
    revision: int,
    sections: Mapping[int, Buffer],
    *,
    store_revision: int = 0,
    store_identity: int = 0,
    kind: int = 0,
    base: SealedImage | None = None,
) -> bytes:
    """The image of `sections` (section number -> its bytes): header, sections in ascending order, alignment, checksum.

    `kind` is an ImageKind; `base` is the routes base that a records image is to name. Deterministic: the same arguments
    give the same bytes. Raises ValueError for a number outside 0..23.
    """

def make_memfd(data: Buffer) -> int:
    """A new close-on-exec memfd that holds `data` and can never change again; the caller closes it."""

def is_sealed(fd: int) -> bool:
    """Whether the descriptor's bytes can no longer change, so that a mapping needs no second look."""
