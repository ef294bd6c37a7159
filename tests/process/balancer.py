"""A whole load balancer, keeper, master and workers, started as a user starts it; and what a test wants to know of it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kit.client import get
from kit.waiting import until

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Balancer:
    """`bascule run` on a configuration file of its own. Every process it ever had is ended with it."""

    def __init__(
        self,
        directory: Path,
        tree: Mapping[str, Any],
        *,
        workers: int = 2,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        wrapper: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m", "bascule"),
        start: bool = True,
    ) -> None:
        self.directory = directory
        self.config = directory / "bascule.json"
        self.state = directory / "state"
        self.log_path = directory / "log"
        self.workers_at_start = workers
        self.arguments = list(arguments)
        self.environment = {**os.environ, **(environment or {})}
        self.descriptors = descriptors
        self.wrapper = list(wrapper)
        self.program = list(program)
        self.seen: set[int] = set()
        self.write(tree)
        self.process: subprocess.Popen[bytes]
        if start:
            self.start()

    # ---- life

    def write(self, tree: Mapping[str, Any]) -> None:
        """Put a configuration in the file's place, as an editor does. Polling is off: a test says when to look."""
        new = self.config.with_suffix(".new")
        new.write_text(json.dumps({"store": {"watch": False}, **tree}))
        new.rename(self.config)

    def spawn(self) -> None:
        """Start the keeper and wait for nothing."""
        command = [*self.program, "run", "-c", str(self.config), "--state", str(self.state)]
        command += ["--workers", str(self.workers_at_start), *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *command], stderr=log, env=self.environment, pass_fds=self.descriptors
            )

    def start(self) -> "Balancer":
        """Start and wait until every worker accepts and the admin API answers; what does not get there is ended."""
        self.spawn()
        try:
            until(self.ready, "a ready balancer", START_DEADLINE_S, 0.05)
        except BaseException as error:
            self.__exit__(None, None, None)
            raise AssertionError(f"{error}; its log:\n{self.log()}") from error
        return self

    def ready(self) -> bool:
        """Tell whether the balancer says that it is ready."""
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return bool(self.status()["ready"])
        return False

    def __enter__(self) -> "Balancer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.seen | self.recorded():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if error is not None:
            sys.stderr.write(self.log())

    def signal(self, number: int) -> None:
        """Send a signal to the keeper."""
        self.process.send_signal(number)

    def wait(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Wait for the keeper's end and return its exit status."""
        return self.process.wait(deadline_s)

    # ---- what it says

    def log(self) -> str:
        """Return the log of all processes so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until the log says something so many times."""
        until(lambda: self.log().count(text) >= times, f"{text!r} in the log {times} times", START_DEADLINE_S, 0.05)

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """Ask the admin API."""
        connection = UnixConnection(str(self.state / "admin.sock"))
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the admin API with a JSON body and return status and JSON answer."""
        connection = UnixConnection(str(self.state / "admin.sock"))
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        code, body = self.request("GET", "/v1/status")
        assert code == 200, body
        document: dict[str, Any] = json.loads(body)
        self.seen.update([worker["pid"] for worker in document["workers"]] + [document["master"]["pid"]])
        return document

    def reload(self) -> tuple[int, dict[str, Any]]:
        """Reload by the admin API and return its answer."""
        code, body = self.request("POST", "/v1/reload")
        return code, json.loads(body)

    def recorded(self) -> set[int]:
        """Return the pids that the keeper has noted in its state directory."""
        try:
            record = json.loads((self.state / "processes.json").read_text())
        except (OSError, ValueError):
            return set()
        self.seen.update(int(pid) for pid in record["processes"])
        return {int(pid) for pid in record["processes"]}

    def worker_pids(self) -> dict[int, int]:
        """Return number and pid of every serving worker."""
        return {w["number"]: w["pid"] for w in self.status()["workers"] if w["state"] == "serving"}

    def until_workers(self, count: int) -> dict[int, int]:
        """Wait until so many workers serve on all slots between them and nobody else is left; return number and pid."""

        def settled() -> dict[int, int]:
            document = self.status()
            states = [worker["state"] for worker in document["workers"]]
            return self.worker_pids() if states == ["serving"] * count else {}

        return until(settled, f"{count} serving workers", START_DEADLINE_S, 0.05)

    def until_slots(self, wanted: Sequence[int]) -> None:
        """Wait until the workers, by number, hold so many slots each."""
        until(
            lambda: [w["slots"] for w in self.status()["workers"]] == list(wanted), f"slots {wanted}", START_DEADLINE_S
        )


class Load:
    """Clients in threads that ask for as long as they are let, each on one keep-alive connection or on ever new ones."""

    def __init__(self, port: int, *, clients: int = 4, keep_alive: bool = False, pause_s: float = 0.002) -> None:
        self.port = port
        self.keep_alive = keep_alive
        self.pause_s = pause_s
        self.served = 0
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(15)

    def more(self, count: int) -> None:
        """Wait until so many more requests have been served."""
        target = self.served + count
        until(lambda: self.served >= target or self.failures, f"{count} more requests served", 20.0)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self.stopping.is_set():
            try:
                if not self.keep_alive or connection is None:
                    if connection is not None:
                        connection.close()
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("GET", "/", headers={} if self.keep_alive else {"Connection": "close"})
                response = connection.getresponse()
                response.read()
                with self.lock:
                    if response.status == 200:
                        self.served += 1
                    else:
                        self.failures.append(f"status {response.status}")
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                with self.lock:
                    self.failures.append(repr(error))
                connection = None
            time.sleep(self.pause_s)
        if connection is not None:
            connection.close()


def tree(listeners: Mapping[str, str], origin: str) -> dict[str, Any]:
    """Return a configuration that sends everything on the listeners (id to address) to one origin."""
    url = origin if origin.startswith("unix:") else f"http://{origin}"
    return {
        "listeners": {name: {"address": address} for name, address in listeners.items()},
        "backends": {"app": {"servers": {"a1": {"url": url}}}},
        "frontends": {"app": {"route": "PathPrefix(`/`)", "backend": "app"}},
    }


def serves(port: int) -> bool:
    """Tell whether a request on the port is answered with 200."""
    try:
        return get(("127.0.0.1", port)).status == 200
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Tell whether a process has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] == "Z"
