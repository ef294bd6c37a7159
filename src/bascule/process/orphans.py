"""Processes that outlived a keeper which was killed, found by the keeper that follows.

They serve on. The workers among them give back what the dead keeper had lent them, and become a generation of this keeper that is
about to leave; when the new workers accept, they hand their connections over and end. A worker that does not answer keeps its
slots, which are SO_REUSEPORT siblings of the new ones; it is told to end, and stops new handshakes, accepts what is
queued, closes its slots, and drains. The old master ends before anything else: what it writes to has one writer.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import time

from bascule.process import link as links
from bascule.process.link import Link, LinkClosedError
from bascule.process.orphaned import meeting_place
from bascule.process.spawn import boot, start_time
from bascule.process.state_directory import PROCESSES_FILE
from bascule.process.unix_socket import peer_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.process.crew import Crew
    from bascule.process.log import Log
    from bascule.process.rebinding import Rebinding
    from bascule.process.state_directory import StateDirectory

PATIENCE_S = 1.0
"""How long an orphan may take to answer: it has noticed its keeper's death before this one was started."""
MASTER_PATIENCE_S = 2.0
"""How long a master may take to end by itself. One that is killed loses nothing that its successor needs."""
_LOOK_S = 0.01


class Orphan:
    """A worker that has answered, and what it gave back. The descriptors are the caller's."""

    __slots__ = ("greeting", "link", "shared", "slots")

    def __init__(self, link: Link, greeting: dict[str, Any], shared: list[int]) -> None:
        """See the class."""
        self.link = link
        self.greeting = greeting
        self.shared = shared
        """The regions, then the snapshot: as many as the greeting says."""
        self.slots: dict[tuple[str, str], dict[int, int]] = {}
        """By listener id and address: descriptors by slot number."""

    def close(self) -> None:
        """Close everything that it gave. A listening socket that is kept and not accepted on would go on getting its
        share of the connections, and nobody would answer them."""
        self.link.close()
        for descriptor in self.shared:
            os.close(descriptor)
        for slots in self.slots.values():
            for descriptor in slots.values():
                os.close(descriptor)


class Orphans:
    """What a predecessor's record says that still runs. A pid counts only together with its start time."""

    def __init__(self, record: dict[str, Any], log: Log) -> None:
        """`record` is the content of the processes file, empty after an orderly end."""
        self._log = log
        processes = record.get("processes", {}) if record.get("boot", boot()) == boot() else {}
        self._started: dict[int, int] = {}
        if isinstance(processes, dict):
            self._started = {
                int(pid): started for pid, started in processes.items() if pid.isdigit() and isinstance(started, int)
            }
        if self.living():
            log.warning(
                "processes of a keeper that was killed still serve; they are kept until the new ones do",
                pids=",".join(map(str, self.living())),
            )

    def living(self) -> list[int]:
        """Return the pids that still run."""
        return [pid for pid, started in self._started.items() if started and start_time(pid) == started]

    def write_record(self, state: StateDirectory, pids: list[int]) -> bool:
        """Note who runs, these and the orphans left, for the keeper that follows should this one be killed. False: not written."""
        left = {str(pid): self._started[pid] for pid in self.living()}
        processes = {**left, **{str(pid): start_time(pid) for pid in pids}}
        try:
            state.write(PROCESSES_FILE, {"keeper": os.getpid(), "boot": boot(), "processes": processes})
        except OSError as error:
            self._log.error("the processes cannot be recorded in the state directory", error=error.strerror)
            return False
        return True

    def collect(self, directory: str) -> list[Orphan]:
        """End the masters, and return the workers that give back what they hold; they are nobody's orphans any more."""
        self._end_masters()
        deadline_s = time.monotonic() + PATIENCE_S
        found = []
        for pid in self.living():
            link = _connect(meeting_place(directory, pid), deadline_s, waits=_is_worker(pid))
            orphan = _received(link, pid, deadline_s) if link is not None else None
            if orphan is not None:
                found.append(orphan)
                del self._started[pid]
        return found

    def _end_masters(self) -> None:
        """End the master, or two of them: they write to the statistics' directory and tell workers what is in force, as the
        next one will. Requests do not need it."""
        for number, patience_s in ((_signal.SIGTERM, MASTER_PATIENCE_S), (_signal.SIGKILL, PATIENCE_S)):
            masters = [pid for pid in self.living() if not _is_worker(pid)]
            self._tell(masters, number)
            deadline_s = time.monotonic() + patience_s
            while set(masters) & set(self.living()) and time.monotonic() < deadline_s:
                time.sleep(_LOOK_S)

    def release(self) -> None:
        """Tell them to end. Their own drain deadline applies."""
        self._tell(self.living(), _signal.SIGTERM)

    def _tell(self, pids: Sequence[int], number: int) -> None:
        for pid in pids:
            self._log.info("telling a process of the killed keeper to end", orphan=pid, signal=number)
            try:
                os.kill(pid, number)
            except OSError as error:
                self._log.warning("it cannot be told", orphan=pid, error=error.strerror)


def merged_listeners(orphans: Sequence[Orphan]) -> list[tuple[str, str, dict[int, int]]]:
    """Return id, address and descriptors, by slot number, of every listener that orphans hold together.

    Of a slot that two of them hold, because it was on its way from one to the other, one descriptor is closed.
    """
    merged: dict[tuple[str, str], dict[int, int]] = {}
    for orphan in orphans:
        for key, slots in orphan.slots.items():
            known = merged.setdefault(key, {})
            for number, descriptor in slots.items():
                if number in known:
                    os.close(descriptor)
                else:
                    known[number] = descriptor
    return [(*key, slots) for key, slots in sorted(merged.items()) if slots]


def _is_worker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
            return file.read().startswith("bascule-work")
    except OSError:
        return False


def _connect(path: str, deadline_s: float, *, waits: bool) -> Link | None:
    while True:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
            return Link(sock.detach())
        except OSError:
            if not waits or time.monotonic() >= deadline_s:
                return None
        finally:
            sock.close()
        time.sleep(_LOOK_S)


def _received(link: Link, pid: int, deadline_s: float) -> Orphan | None:
    """Return what the orphan of this pid gives back, None when it does not say all in time, or is another process."""
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN)
    orphan = Orphan(link, {}, [])
    try:
        while time.monotonic() < deadline_s and peer_of(link.fileno())[0] == pid:
            received = link.receive()
            if received is None:
                poll.poll(max(deadline_s - time.monotonic(), 0.0) * 1000)
            elif received[0]["type"] == "that_is_all":
                links.close_all(received[1])
                if not orphan.greeting:
                    break
                return orphan
            else:
                _note(orphan, *received)
    except (LinkClosedError, ValueError, KeyError, TypeError):
        pass
    orphan.close()
    return None


def _note(orphan: Orphan, message: dict[str, Any], descriptors: list[int]) -> None:
    """Take note of one message, and keep its descriptors; ValueError, KeyError, TypeError when it makes no sense, and then
    they are closed."""
    try:
        if message["type"] == "orphan" and not orphan.greeting:
            numbers = [message[name] for name in ("number", "pid", "revision", "regions")]
            if not all(isinstance(number, int) for number in numbers) or not 0 < numbers[3] <= len(descriptors):
                raise ValueError("no greeting of a worker")
            orphan.greeting, orphan.shared = message, descriptors
            return
        if message["type"] == "slots":
            key, slots = (str(message["listener"]), str(message["address"])), message["slots"]
            known = orphan.slots.setdefault(key, {})
            if len(set(map(int, slots))) != len(descriptors) or known.keys() & set(slots):
                raise ValueError("slots without descriptors")
            known.update(zip(slots, descriptors, strict=True))
            return
    except (ValueError, KeyError, TypeError):
        links.close_all(descriptors)
        raise
    links.close_all(descriptors)


def give_back(orphans: list[Orphan], before: Crew, crew: Crew, rebinding: Rebinding) -> None:
    """Let a new crew have what orphans give: their slots, and the regions and the snapshot of the one that has the newest. They
    become the workers of `before`."""
    for listener in merged_listeners(orphans):
        rebinding.take_over(*listener)
    newest = max(orphans, key=lambda orphan: int(orphan.greeting["revision"]))
    regions = newest.greeting["regions"]
    crew.take_regions(newest.shared[:regions])
    crew.take_snapshot(newest.greeting["revision"], newest.shared[regions:])
    for orphan in orphans:
        before.adopt(orphan)
        if orphan is not newest:
            links.close_all(orphan.shared)
