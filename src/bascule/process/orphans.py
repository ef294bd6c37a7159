"""Processes that outlived a keeper which was killed, found by the keeper that follows.

They serve on: their slots are SO_REUSEPORT siblings of the new ones. Once the new workers accept, the old ones are told
to end: each stops new handshakes on its slots, accepts what is queued, closes them, and drains.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from bascule.process.spawn import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.process.log import Log


class Orphans:
    """What a predecessor's record says that still runs. A pid counts only together with its start time."""

    def __init__(self, record: dict[str, Any], log: Log) -> None:
        """`record` is the content of the processes file, empty after an orderly end."""
        self._log = log
        processes = record.get("processes", {})
        self._started: dict[int, int] = {}
        if isinstance(processes, dict):
            self._started = {int(pid): started for pid, started in processes.items() if pid.isdigit()}
        if self.living():
            log.warning(
                "processes of a keeper that was killed still serve; they are kept until the new ones do",
                pids=",".join(map(str, self.living())),
            )

    def living(self) -> list[int]:
        """Return the pids that still run."""
        return [pid for pid, started in self._started.items() if started and start_time(pid) == started]

    def record(self) -> dict[str, int]:
        """Return what a successor needs to find them in turn."""
        return {str(pid): self._started[pid] for pid in self.living()}

    def release(self) -> None:
        """Tell them to end. Their own drain deadline applies."""
        for pid in self.living():
            self._log.info("telling a process of the killed keeper to drain", orphan=pid)
            try:
                os.kill(pid, _signal.SIGTERM)
            except OSError as error:
                self._log.warning("it cannot be told", orphan=pid, error=error.strerror)
