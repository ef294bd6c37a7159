"""Which object has which slot of the statistics region: written by the master alone, read again by its successors."""

from collections.abc import Iterable
from typing import final

class DirectoryFull(RuntimeError):
    """Every slot is taken, or the log of identities is full of live ones."""

@final
class Directory:
    """The master's directory: identity -> slot. One at a time; opening it adopts what earlier masters gave out.

    Kinds are listener, frontend, backend and server; a server's id is "backend/server".
    """

    def __init__(self, fd: int, *, reuse_delay_s: float = 60.0) -> None:
        """Raises RegionError for a descriptor that is no statistics region of this layout."""

    def __len__(self) -> int: ...
    def seed(self, fd: int) -> None:
        """Give every object of the records image in `fd` the slot that the image says.

        Only of a directory that has given out none. ValueError when the image is none, or says what cannot be; then
        nothing has been given out. Costs 0.1 us an object; the first who asks for anything pays as much again.
        """

    def slot(self, kind: str, id: str) -> int:
        """The object's slot, a new one if it has none yet. Raises DirectoryFull, and ValueError for an unknown kind."""

    def release(self, kind: str, id: str) -> None:
        """The object is gone: its numbers vanish from the readers' lists, its slot rests. KeyError if unknown."""

    def retain(self, wanted: Iterable[tuple[str, str]]) -> int:
        """Releases every object that is not in `wanted`, an iterable of (kind, id); returns how many."""

    @property
    def bound(self) -> int:
        """No object has a slot from here on."""

    def items(self) -> list[tuple[str, str, int]]:
        """[(kind, id, slot)] of all live objects, by slot."""
