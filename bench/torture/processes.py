"""All processes of whoever is tortured, whatever became of their parents: they share the session they were started in."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def members(sessions: Iterable[int]) -> dict[int, str]:
    """Return the living processes of some sessions: pid and start time, which together name a process for ever."""
    wanted = {str(session) for session in sessions}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if words[3] in wanted and words[0] != "Z":
                found[int(entry)] = words[19]
    return found


def memory_mib(pids: Iterable[int]) -> float:
    """Return the proportional memory (Pss) of processes together."""
    total = 0
    for pid in pids:
        try:
            match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(match[1]) if match else 0
    return total / 1024


class MemoryWatch:
    """Samples the memory and the number of processes of somebody. Use it as a context."""

    def __init__(self, pids: Callable[[], Iterable[int]], every_s: float = 0.5) -> None:
        self.samples: list[tuple[float, float, int]] = []
        """When (CLOCK_MONOTONIC), MiB, processes."""
        self._pids, self._every_s = pids, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            pids = list(self._pids())
            self.samples.append((time.monotonic(), memory_mib(pids), len(pids)))

    def document(self) -> dict[str, float]:
        """Return the first and the largest sample, and most processes at once."""
        if not self.samples:
            return {}
        return {
            "first_mib": round(self.samples[0][1], 1),
            "peak_mib": round(max(mib for _, mib, _ in self.samples), 1),
            "last_mib": round(self.samples[-1][1], 1),
            "processes_max": max(count for _, _, count in self.samples),
        }

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)
