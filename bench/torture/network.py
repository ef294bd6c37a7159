"""A network of our own, and what its kernel counts: resets, aborts, drops. Nothing else runs in it, so every figure is ours.

`enter_private` starts the program again in a network namespace (root only). Elsewhere the counters are those of the whole
machine, and a report says so.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "BASCULE_TORTURE_NETWORK"
WANTED = {
    "Tcp": ("ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "RetransSegs", "OutRsts"),
    "TcpExt": (
        "ListenOverflows", "ListenDrops", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory", "TCPAbortOnTimeout",
        "TCPAbortOnLinger", "TCPAbortFailed", "TCPReqQFullDrop", "TCPTimeouts", "TCPBacklogDrop",
    ),
}  # fmt: skip
MUST_STAY = (
    "OutRsts", "EstabResets", "ListenOverflows", "ListenDrops", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory",
    "TCPAbortOnTimeout", "TCPAbortOnLinger",
)  # fmt: skip
"""Counters that stay as they are when nobody loses a connection."""

SIOCSIFFLAGS = 0x8914
SO_ATTACH_FILTER = 26
ETH_P_IP = 0x0800
# IPv4, TCP, RST set. A cooked packet socket filters from the network header on.
RST_FILTER = (
    (0x30, 0, 0, 9), (0x15, 0, 4, 6), (0xB1, 0, 0, 0), (0x50, 0, 0, 13), (0x45, 0, 1, 4), (0x06, 0, 0, 64), (0x06, 0, 0, 0),
)  # fmt: skip


def private() -> bool:
    """Whether this process runs in a network of its own."""
    return os.environ.get(MARK) == "private"


def enter_private(module: str, words: Sequence[str]) -> None:
    """Start `python -m MODULE` again in a private network, when that is possible; else return."""
    if private():
        _prepare()
        return
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        return
    command = ["unshare", "-n", "--", sys.executable, "-m", module, *words]
    os.execvpe(command[0], command, {**os.environ, MARK: "private"})


def _prepare() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    # Churn leaves tens of thousands of connections in TIME_WAIT; our listeners stay below this range.
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("12000 64999")


def counters() -> dict[str, int]:
    """Return the wanted counters of this network."""
    found = {}
    for file in ("snmp", "netstat"):
        lines = Path(f"/proc/self/net/{file}").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, *keys = names.split()
            numbers = dict(zip(keys, values.split()[1:], strict=True))
            found.update({key: int(numbers[key]) for key in WANTED.get(group[:-1], ()) if key in numbers})
    return found


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return how far each counter went."""
    return {key: after[key] - before.get(key, 0) for key in after}


def place(host: int, port: int) -> int:
    """Return one number for a port of 127.0.0.HOST."""
    return host << 16 | port


@dataclass(frozen=True)
class Reset:
    """One TCP RST: when (CLOCK_MONOTONIC), from which `place` to which. With ACK it was sent because a socket was closed with
    bytes unread, or nobody listens; without, because something else arrived for which there is no connection."""

    at_s: float
    source: int
    target: int
    ack: bool


class ResetWatch:
    """Sees every TCP RST on the loopback interface, with its ports: who reset whom. Use it as a context; root only."""

    def __init__(self) -> None:
        self.seen: list[Reset] = []
        self.works = True
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except OSError:
            self.works = False
            return
        program = b"".join(struct.pack("HBBI", *instruction) for instruction in RST_FILTER)
        memory = ctypes.create_string_buffer(program)
        self._socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(RST_FILTER), ctypes.addressof(memory))
        )
        self._socket.bind(("lo", ETH_P_IP))
        self._socket.settimeout(0.2)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        assert self._socket is not None
        while not self._ended:
            try:
                packet = self._socket.recv(128)  # bound to one protocol, it gets what arrives, not what leaves
            except TimeoutError:
                continue
            at = (packet[0] & 15) * 4
            source, target = struct.unpack_from(">HH", packet, at)
            from_, to = place(packet[15], source), place(packet[19], target)
            self.seen.append(Reset(time.monotonic(), from_, to, bool(packet[at + 13] & 16)))

    def by_sender(self, listeners: set[int], origins: set[int]) -> dict[str, int]:
        """Count the resets by who sent them to whom; `listeners` are all ports ever listened on by the load balancer."""
        found: Counter[str] = Counter()
        listeners, origins = {place(1, port) for port in listeners}, {place(1, port) for port in origins}
        for reset in self.seen:
            if reset.source in listeners:
                found["balancer to client"] += 1
            elif reset.target in listeners:
                found["client to balancer"] += 1
            elif reset.target in origins:
                found["balancer to origin"] += 1
            elif reset.source in origins:
                found["origin to balancer"] += 1
            else:
                found["other"] += 1
        return dict(found)

    def __enter__(self) -> "ResetWatch":
        if self.works:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._socket is not None:
            self._thread.join(5)
            self._socket.close()
