"""A network namespace for one test: nobody else's connections are in the kernel's counters, so that they can be exact."""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x1 | 0x40


def run(module: str, directory: Path, deadline_s: float = 120.0) -> Any:
    """Run `main(directory)` of a module in a network of its own and return what it returns, by JSON."""
    code = (
        "import json, pathlib, sys; from process import private_network; private_network.up(); "
        f"from {module} import main; json.dump(main(pathlib.Path(sys.argv[1])), sys.stdout)"
    )
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*unshare, sys.executable, "-c", code, str(directory)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=deadline_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout)


def up() -> None:
    """Take the loopback interface up: a new namespace has it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))


def counters() -> dict[str, int]:
    """Return the kernel's TCP counters of this network."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/self/net/{name}").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group = names.partition(":")[0]
            if group in {"Tcp", "TcpExt"}:
                found |= dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
    return found


def since(before: dict[str, int]) -> dict[str, int]:
    """Return what has been counted since."""
    return {name: value - before.get(name, 0) for name, value in counters().items() if value != before.get(name, 0)}
