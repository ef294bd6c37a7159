"""What a process holds when it is killed: exactly the connections that a kill -9 may cost, and no other.

The process is stopped first: from then on it accepts nothing and answers nothing, so what it holds when it is looked at is what it
holds when it dies. A connection that waits in the queue of a listening socket is not its own: the queue outlives it.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bench.torture.network import Reset, place
from bench.torture.programs import Failure
from kit.waiting import until

RESET_GRACE_S = 35.0


@dataclass(frozen=True)
class Kill:
    """One process that was killed: when, and the places of its connections' other ends (clients) and own ends (to origins)."""

    pid: int
    at_s: float
    clients: frozenset[int]
    outgoing: frozenset[int]

    def explains(self, failure: Failure) -> bool:
        """Whether a request failed because its connection was this process's."""
        dialled_s = failure.at_s - failure.details["dialled_ago_us"] / 1e6
        return failure.port in self.clients and dialled_s <= self.at_s <= failure.at_s

    def explains_reset(self, reset: Reset) -> bool:
        """Whether a reset belongs to one of its connections; ports are used again, so only for a while."""
        ours = self.clients | self.outgoing
        return self.at_s <= reset.at_s <= self.at_s + RESET_GRACE_S and (reset.source in ours or reset.target in ours)


def connections(pid: int, listeners: set[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the ports of clients connected to a process, and of its own connections elsewhere."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one's own listing is a descriptor too, and gone by now
            link = os.readlink(entry)
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    clients, outgoing = set(), set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[9] in inodes and words[3] != "0A":
            local, remote = (_place(word) for word in words[1:3])
            if local & 65535 in listeners:
                clients.add(remote)
            else:
                outgoing.add(local)
    return frozenset(clients), frozenset(outgoing)


def _place(word: str) -> int:
    """`0200007F:1F90` as /proc/net/tcp has it: 127.0.0.2, port 8080."""
    address, _, port = word.partition(":")
    return place(int(address[:2], 16), int(port, 16))


def stop(pid: int, listeners: set[int]) -> Kill:
    """Stop a process and return what it holds; the caller kills it at once."""
    os.kill(pid, signal.SIGSTOP)
    status = Path(f"/proc/{pid}/status")
    until(lambda: "\nState:\tT" in status.read_text(), f"process {pid} stops")
    clients, outgoing = connections(pid, listeners)
    return Kill(pid, time.monotonic(), clients, outgoing)
