"""What the master thinks of each server right now, one word a server, in shared memory."""

from typing import Final, final

SHARE_FULL: Final[int]
"""Share of a server that gets all of its weight."""

def create(objects: int) -> int:
    """A new region for stat_slots below `objects`: a sparse close-on-exec memfd, which the caller closes."""

@final
class Verdicts:
    """The region as its one writer, the master, has it."""

    def __init__(self, fd: int) -> None:
        """Raises RegionError for a descriptor that is no region of this layout."""

    def __len__(self) -> int:
        """Number of slots."""

    def set(self, slot: int, share: int, ready: bool = False) -> None:
        """Give a server `share` of SHARE_FULL parts of its weight; with `ready`, even when it is configured as starting."""

    def clear(self, slot: int) -> None:
        """Leave a server to the snapshot alone: before its slot is given to another object."""

    def slots(self) -> list[int]:
        """The slots that have a verdict."""

    def get(self, slot: int) -> tuple[int, bool] | None:
        """Share and ready, None without a verdict."""
