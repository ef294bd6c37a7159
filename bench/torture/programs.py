"""The clients and the origin as processes: compiled when first used, told what to do, and their failures read."""

import hashlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.torture.network import place
from kit.waiting import until

SOURCES = Path(__file__).parent / "clients"
PROGRAMS = {"swarm": ("swarm.c", "exchange.c", "stream.c", "account.c"), "origin": ("origin.c",)}
KINDS = ("keepalive", "churn", "pipeline", "upload", "download", "websocket", "idle")
STOP_DEADLINE_S = 60.0


def compiled(program: str) -> Path:
    """Compile a program unless this very source has been compiled before; return where it is."""
    names = PROGRAMS[program]
    texts = [(SOURCES / name).read_bytes() for name in (*names, "wire.h", "swarm.h")]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"bascule-torture-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{program}-{digest}"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        sources = [str(SOURCES / name) for name in names]
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", str(unfinished), *sources], check=True)
        unfinished.rename(path)
    return path


class Origin:
    """The origin on several ports, each of which a configuration may call a server. Use it as a context."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.counters: dict[str, int] = {}
        command = [str(compiled("origin")), *map(str, ports)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "the origin cannot listen on its ports"

    def stop(self) -> dict[str, int]:
        """End it and return what it counted: requests, bad heads, wrong uploads, requests cut short, resets seen."""
        if not self.counters:
            told, _ = self.process.communicate(timeout=10)
            self.counters = json.loads(told)
        return self.counters

    def __enter__(self) -> "Origin":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Failure:
    """One failed request. `at_s`: CLOCK_MONOTONIC; `port`: the client's `network.place`."""

    why: str
    kind: str
    at_s: float
    port: int
    details: Mapping[str, int]

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "Failure":
        """Take a line of the swarm apart."""
        details = {
            key: value for key, value in line.items() if isinstance(value, int) and key not in {"at_us", "host", "port"}
        }
        return cls(line["failure"], line["kind"], line["at_us"] / 1e6, place(line["host"], line["port"]), details)

    def document(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "why": self.why,
            "kind": self.kind,
            "at_s": round(self.at_s, 4),
            "port": self.port & 65535,
            **self.details,
        }


@dataclass
class Seen:
    """What the swarm has told so far."""

    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    messages: int = 0
    failures: list[Failure] = field(default_factory=list)
    summary: dict[str, Any] | None = None

    @property
    def requests(self) -> int:
        """Whole exchanges of every kind; messages of WebSockets are counted apart."""
        return sum(self.done.values())

    @property
    def failed_requests(self) -> int:
        """Failures of every kind."""
        return sum(self.failed.values())

    def take(self, line: dict[str, Any]) -> None:
        """Note one line."""
        if "failure" in line:
            self.failures.append(Failure.read(line))
            return
        self.done, self.failed, self.messages = line["done"], line["failed"], line["messages"]
        if "summary" in line:
            self.summary = line


class Swarm:
    """The clients, obeying orders. Use it as a context; `stop` for an orderly end with a summary."""

    def __init__(self, seed: int, log: Path | None = None, wrapper: Sequence[str] = ()) -> None:
        """`log`: a record of every finished exchange goes there (see clients/swarm.c); `wrapper` goes before the command."""
        command = [*wrapper, str(compiled("swarm")), str(seed), *([str(log)] if log else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen = Seen()
        self.lock = threading.Lock()
        self.on_failure: Callable[[Failure], None] = lambda _: None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line = json.loads(text)
            self.seen.take(line)
            if "failure" in line:
                self.on_failure(self.seen.failures[-1])

    def order(self, text: str) -> None:
        """Send one line; see clients/swarm.c."""
        with self.lock:
            assert self.process.stdin is not None
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def target(self, number: int, port: int) -> None:
        """New connections of this target go to a port; 0: there are no new ones."""
        self.order(f"target {number} {port}")

    def group(self, kind: str, count: int, target: int = 0) -> None:
        """Add clients of a kind."""
        if count:
            self.order(f"group {kind} {count} {target}")

    def rate(self, requests_per_s: int) -> None:
        """Bound keep-alive, churn and pipelining together; 0: no bound."""
        self.order(f"rate {requests_per_s}")

    def stop(self) -> Seen:
        """Let every client finish what it does and return what was seen."""
        self.order("stop")
        until(lambda: self.seen.summary or self.process.poll() is not None, "the clients end", STOP_DEADLINE_S, 0.02)
        self._reader.join(10)
        assert self.seen.summary is not None, f"the clients ended with {self.process.poll()}"
        return self.seen

    def __enter__(self) -> "Swarm":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
