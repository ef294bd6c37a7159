"""Where a worker writes its access log. The engine writes the lines (bascule.request.s9_account)."""

from __future__ import annotations

import os

from bascule.process.log import nonblocking_standard_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""O_APPEND: the lines of all workers go to one file, each write at its end. O_NONBLOCK is for named pipes."""


class opened:
    """The descriptor of "off" (-1), "stderr" or a file for the time of a `with`; OSError when it cannot be opened."""

    def __init__(self, place: str) -> None:
        """See the class."""
        self._descriptor = -1 if place == "off" else nonblocking_standard_error() if place == "stderr" else _file(place)

    def __enter__(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it: whoever goes on writing has a duplicate."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _file(path: str) -> int:
    return os.open(path, _FLAGS, 0o640)


def problem(place: str) -> str:
    """Return why a worker could not open this place, empty when it could. Creates nothing."""
    if not place.startswith("/"):
        return ""
    directory = os.path.dirname(place)
    if not os.path.isdir(directory):
        return f"the directory {directory} does not exist"
    if os.path.isdir(place):
        return f"{place} is a directory"
    if os.path.exists(place):
        return "" if os.access(place, os.W_OK) else f"{place} cannot be written by this user"
    return "" if os.access(directory, os.W_OK | os.X_OK) else f"no file can be made in {directory} by this user"
