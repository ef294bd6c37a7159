"""Proxies under test as real processes: Bascule, and the peers that the same tests run against."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kit.client import Address, get
from kit.http1 import Cut, Ended, Malformed
from kit.waiting import free_port, until

ROOT = Path(__file__).resolve().parents[2]


class ProxyProcess:
    """One proxy process in a private directory, listening on one address; subclasses say how it is started."""

    name = ""

    def __init__(self, servers: Sequence[str], *, workers: int = 1) -> None:
        self.servers = list(servers)
        self.workers = workers
        self.directory = Path(tempfile.mkdtemp(prefix="kit-", dir="/tmp"))
        self.port = free_port()
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        """Where clients connect to."""
        return ("127.0.0.1", self.port)

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        return dict(os.environ)

    def start(self, *, probe: bool = True) -> "ProxyProcess":
        """Start the process and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=ROOT, env=self.environment(), start_new_session=True
            )
        try:
            if probe:
                until(self._answers, f"{self.name} answers on port {self.port}; log:\n{self.log_text()}", 20.0, 0.05)
        except BaseException as error:
            self.kill()
            raise AssertionError(f"{self.name} did not start: {error}\n{self.log_text()}") from error
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}")
        try:
            return get(self.address, "/kit-probe").status >= 200
        except (OSError, Cut, Ended, Malformed):
            return False

    def log_text(self) -> str:
        """Return what the process has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def pids(self) -> list[int]:
        """Return the pids of the process and all its descendants."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def worker_pids(self) -> list[int]:
        """Return the pids of the processes that carry traffic."""
        return self.pids()[1:] or self.pids()

    def memory_kib(self) -> int:
        """Return the proportional memory (Pss) of the workers."""
        total = 0
        for pid in self.worker_pids():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            total += int(match[1]) if match else 0
        return total

    def cpu_s(self) -> float:
        """Return the CPU time that the workers have used."""
        total = 0
        for pid in self.worker_pids():
            parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(parts[11]) + int(parts[12])
        return total / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, deadline_s: float = 10.0) -> int:
        """Ask the process to end, wait for it and return its exit status; AssertionError when it does not end."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end on SIGINT; log:\n{self.log_text()[-4000:]}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the whole process group at once whatever state it is in."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def cleanup(self) -> None:
        """Remove the private directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "ProxyProcess":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
            else:
                sys.stderr.write(f"--- log of {self.name}\n{self.log_text()[-8000:]}\n")
        finally:
            self.kill()
            self.cleanup()


class BasculeProcess(ProxyProcess):
    """`bascule proxy`, or `bascule run -c` when a configuration text is given ({port} in it becomes the port)."""

    name = "bascule"

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        workers: int = 1,
        config: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(servers, workers=workers)
        self.config = config
        self.arguments = list(arguments)
        self.state = self.directory / "state"
        self.config_path = self.directory / "bascule.toml"
        if config is not None:
            self.write_config(config)

    def write_config(self, config: str) -> None:
        """Write the configuration file anew, in one step, as an editor does."""
        temporary = self.config_path.with_suffix(".new")
        temporary.write_text(config.replace("{port}", str(self.port)))
        temporary.rename(self.config_path)

    def command(self) -> list[str]:
        base = [sys.executable, "-m", "bascule"]
        common = ["--workers", str(self.workers), "--state", str(self.state), *self.arguments]
        if self.config is not None:
            return [*base, "run", "-c", str(self.config_path), *common]
        targets = [part for server in self.servers for part in ("--to", server)]
        return [*base, "proxy", "--listen", f"127.0.0.1:{self.port}", *targets, *common]

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([os.environ.get("BASCULE_SOURCE", str(ROOT / "src")), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}

    def run(self, *arguments: str, check: bool = True, deadline_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run another `bascule` command against this one's state directory."""
        done = subprocess.run(
            [sys.executable, "-m", "bascule", *arguments, "--state", str(self.state)],
            capture_output=True, text=True, env=self.environment(), timeout=deadline_s, check=False, cwd=ROOT,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"bascule {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def status(self) -> dict[str, Any]:
        """Return what the admin socket says: processes, workers, revisions."""
        found: dict[str, Any] = json.loads(self._admin("/v1/status"))
        return found

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self._admin("/metrics").decode()

    def _admin(self, target: str) -> bytes:
        """Ask the admin socket, which opens a little after the first request is served."""
        socket_path = self.state / "admin.sock"
        until(socket_path.exists, "the admin socket opens")
        return get(str(socket_path), target).body

    def assert_quiet(self, deadline_s: float = 10.0) -> None:
        """Wait until no exchange is in flight and no client is connected, and in a debug build nothing is left over."""
        try:
            until(lambda: not self.busy(), "nothing in flight", deadline_s, 0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; but: {self.busy()}") from None

    def busy(self) -> dict[str, int]:
        """Return what is in flight, summed over the workers: at rest only pooled connections to servers are alive."""
        found: dict[str, int] = {}
        for worker in self.status()["workers"]:
            engine, live = worker["engine"], worker["live_objects"]
            left = {
                "clients": engine.get("clients", 0),
                "exchanges": engine.get("exchanges", 0),
                "buffers": live.get("buffers", 0),
                "exchange objects": live.get("exchanges", 0),
                "connection objects": live.get("connections", 0) - engine.get("servers", 0),
            }
            for name, count in left.items():
                if count:
                    found[name] = found.get(name, 0) + count
        return found

    def worker_pids(self) -> list[int]:
        return [pid for pid in self.pids() if b"bascule.process.worker" in _command_line(pid)]

    def serving_pids(self) -> set[int]:
        """Return the pids of the workers that have their engine, and with it what a dead predecessor held."""
        return {worker["pid"] for worker in self.status()["workers"] if worker["state"] == "serving"}

    def master_pids(self) -> list[int]:
        """Return the pids of the masters."""
        return [pid for pid in self.pids() if b"bascule.process.master" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class CommandProxy(ProxyProcess):
    """A peer whose configuration is a template with {port}, {servers}, {directory} and {workers}."""

    template = ""
    server_line = ""

    def start(self, *, probe: bool = True) -> ProxyProcess:
        lines = [self.server_line.format(number=i, server=server) for i, server in enumerate(self.servers)]
        values = {"port": self.port, "directory": self.directory, "workers": self.workers, "servers": "\n".join(lines)}
        text = self.template
        for key, value in values.items():
            text = text.replace("{" + key + "}", str(value))
        (self.directory / "conf").write_text(text)
        return super().start(probe=probe)


class NginxProcess(CommandProxy):
    """nginx with proxy buffering off and keep-alive to the origin."""

    name = "nginx"
    server_line = "server {server} max_fails=0;"
    template = """
daemon off; pid {directory}/pid; worker_processes {workers}; error_log stderr warn;
events { worker_connections 4096; }
http { access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream app { {servers} keepalive 64; }
  client_header_timeout 1s; client_body_timeout 1s; client_max_body_size 64m; large_client_header_buffers 4 8k;
  server { listen 127.0.0.1:{port}; location / { proxy_pass http://app; proxy_http_version 1.1;
    proxy_buffering off; proxy_request_buffering off; proxy_connect_timeout 1s; proxy_read_timeout 1s;
    proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host; } } }
"""

    def command(self) -> list[str]:
        return [shutil.which("nginx") or "/usr/sbin/nginx", "-e", "stderr", "-c", str(self.directory / "conf")]


class HaproxyProcess(CommandProxy):
    """HAProxy with keep-alive to the origin and its strictest documented settings."""

    name = "haproxy"
    server_line = "  server s{number} {server}"
    template = """
global
  nbthread {workers}
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  option forwardfor
  timeout connect 1s
  timeout client 1s
  timeout server 1s
  timeout http-request 1s
frontend web
  bind 127.0.0.1:{port}
  default_backend app
backend app
  http-reuse safe
{servers}
"""

    def command(self) -> list[str]:
        return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", str(self.directory / "conf")]


PROXIES: dict[str, type[ProxyProcess]] = {"bascule": BasculeProcess, "nginx": NginxProcess, "haproxy": HaproxyProcess}


def open_sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(entry).startswith("socket:")
    return count


def wait_refused(address: tuple[str, int], deadline_s: float = 10.0) -> None:
    """Wait until nobody listens on an address any more."""

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(address) != 0

    until(refused, f"{address} refuses connections", deadline_s)
