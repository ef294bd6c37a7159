"""The file that the logs of all processes go to, and what USR1 does: everybody opens it, and the access log, again."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bascule.process.generation import Generation
    from bascule.process.log import Log


def open_log(path: str) -> None:
    """Make standard error append to a file, which is created if need be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def reopen_logs(path: str, generations: Sequence[Generation], log: Log) -> None:
    """Open the log file of this name again, and have every process use it; without a name, the access logs alone."""
    descriptors: list[int] = []
    if path:
        try:
            open_log(path)
            descriptors = [2]
        except OSError as error:
            log.error("the log file cannot be reopened", file=path, error=error.strerror)
    elif not any(generation.crew.access_log.startswith("/") for generation in generations):
        log.info("USR1 received, but there is no log file to reopen: the log goes to standard error")
    for generation in generations:
        generation.crew.tell_all({"type": "reopen_logs"}, descriptors)
        if descriptors:
            generation.tell_master({"type": "reopen_logs"}, descriptors)
