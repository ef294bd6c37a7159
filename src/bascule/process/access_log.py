"""Where a worker writes its access log. The engine writes the lines (bascule.request.s9_account)."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""O_APPEND: the lines of all workers go to one file, each write at its end. O_NONBLOCK is for named pipes."""


class opened:
    """The descriptor of "off" (-1), "stderr" or a file for the time of a `with`; OSError when it cannot be opened."""

    def __init__(self, place: str) -> None:
        """See the class."""
        self._descriptor = -1 if place == "off" else _standard_error() if place == "stderr" else _file(place)

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


def _standard_error() -> int:
    """Return a duplicate; of a pipe one that never blocks, because a reader that sleeps must not stop the traffic.

    Non-blocking is a property of the open file, which other processes share: a pipe is opened anew. A file is not,
    because its position is shared with the log's other lines.
    """
    if stat.S_ISFIFO(os.fstat(2).st_mode):
        try:
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass
    return os.dup(2)
