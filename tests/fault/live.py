"""A balancer that lives from etcd, clients that never stop asking it, and the ways to see a change come into force."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kit.client import get
from kit.etcd import Etcd
from kit.http1 import Cut, Ended, Malformed
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load

PATIENCE_S = 40.0
"""For what the balancer does by itself; pauses between its attempts grow to ten seconds."""
PREFIX = "/bascule"


class EtcdBalancer(Balancer):
    """`bascule run --store etcd` on a state directory of its own."""

    def __init__(
        self, directory: Path, endpoints: Sequence[str], *, workers: int = 2, store: str = "", **more: Any
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.table = f'[store]\ntype = "etcd"\nendpoints = {json.dumps(list(endpoints))}\ntimeout = "2s"\n{store}'
        super().__init__(directory, {}, workers=workers, **more)

    def write(self, tree: Mapping[str, Any]) -> None:
        """Write where the configuration lives; the tree is in etcd."""
        self.config = self.directory / "bascule.toml"
        self.config.write_text(self.table)

    def spawn(self) -> None:
        command = [sys.executable, "-m", "bascule", "run", "-c", str(self.config), "--state", str(self.state)]
        command += ["--workers", str(self.workers_at_start), *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self.environment, cwd=self.directory)


class Site:
    """An etcd with a small tree in it, a balancer on it, and load on both its ways: kept connections and new ones.

    As a context it starts all of that, and at the end checks that not one request has failed.
    """

    def __init__(self, etcd: Etcd, directory: Path, origin: ScriptedOrigin, **options: Any) -> None:
        self.etcd = etcd
        self.origin = origin
        self.port = free_port()
        endpoints = options.pop("endpoints", [member.endpoint for member in etcd.members])
        self.loads: list[Load] = []
        self.probes = 0
        self.fill()
        self.balancer = EtcdBalancer(directory, endpoints, **options)

    def tree(self) -> dict[str, Any]:
        """Return what the site begins with."""
        return {
            "listeners/web": {"address": f"127.0.0.1:{self.port}"},
            "backends/app": {},
            "backends/app/servers/a1": {"url": f"http://{self.origin.address}"},
            "frontends/app": {"route": "Path(`/`)", "backend": "app"},
        }

    def fill(self) -> None:
        """Put what the site begins with into etcd."""
        self.etcd.transact({f"{PREFIX}/{key}": json.dumps(value) for key, value in self.tree().items()})

    def __enter__(self) -> "Site":
        self.balancer.until_workers(self.balancer.workers_at_start)
        self.start_load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_load(check=error is None)
        finally:
            self.balancer.__exit__(kind, error, trace)

    def start_load(self) -> None:
        """Begin to ask, and wait until it goes well."""
        for keep_alive in (True, False):
            self.loads.append(Load(self.port, clients=2, keep_alive=keep_alive, pause_s=0.005).__enter__())
        self.more()

    def stop_load(self, *, check: bool = True) -> None:
        """Ask no more; AssertionError with `check` when a request failed."""
        loads, self.loads = self.loads, []
        for load in loads:
            load.__exit__(None, None, None)
        if check:
            assert [load.failures for load in loads] == [[], []]
            assert all(load.served > 20 for load in loads)

    # ---- what it says and does

    def more(self, count: int = 20) -> None:
        """Wait until so many more requests have been served on each way."""
        for load in self.loads:
            load.more(count)

    def code(self, path: str, port: int = 0) -> int:
        """Ask for a path; 0 when nobody answers."""
        try:
            return get(("127.0.0.1", port or self.port), path).status
        except (OSError, Cut, Ended, Malformed):
            return 0

    def put(self, key: str, value: Any) -> None:
        """Put an object as an operator would."""
        self.etcd.put(f"{PREFIX}/{key}", json.dumps(value))

    def probe(self, deadline_s: float = PATIENCE_S) -> str:
        """Add a route to etcd and wait until it is in force; return its key."""
        self.probes += 1
        path = f"/probe-{self.probes}"
        assert self.code(path) == 404
        key = f"frontends/probe-{self.probes}"
        self.put(key, {"route": f"Path(`{path}`)", "backend": "app"})
        self.until_code(path, 200, deadline_s)
        return key

    def until_code(self, path: str, code: int, deadline_s: float = PATIENCE_S) -> None:
        """Wait until a path is answered so."""
        until(
            lambda: self.code(path) == code, f"{code} on {path}; log:\n{self.balancer.log()[-3000:]}", deadline_s, 0.02
        )

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return self.balancer.status()

    def until_connected(self, wanted: bool) -> None:
        """Wait until the balancer says that it follows its store, or that it cannot."""
        until(lambda: self.status()["store"]["connected"] is wanted, f"connected: {wanted}", PATIENCE_S, 0.05)

    def until_frozen(self, part: str) -> dict[str, Any]:
        """Wait until it is frozen for a reason that has this part; return the freeze."""

        def frozen() -> dict[str, Any] | None:
            freeze = self.status()["freeze"]
            return freeze if freeze and part in freeze["reason"] else None

        found = until(frozen, f"frozen: {part}; log:\n{self.balancer.log()[-3000:]}", PATIENCE_S, 0.05)
        assert found is not None
        return found

    def held(self) -> list[str]:
        """Return the keys that are held."""
        status, answer = self.balancer.ask("GET", "/v1/objects")
        assert status == 200, answer
        return [item["key"] for item in answer["items"] if item["state"] == "held"]

    def adopt(self) -> None:
        """Adopt what is held back."""
        status, answer = self.balancer.ask("POST", "/v1/adopt")
        assert status == 200, answer

    def master_pid(self) -> int:
        """Return the pid of the master."""
        return int(self.status()["master"]["pid"])
