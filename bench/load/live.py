"""One etcd and nodes that live from it, for measuring: a tree of any size, puts whose acknowledgement is timed, CPU and memory.

Every node is a whole load balancer (keeper, master, workers) as a user starts it. Run with PYTHONPATH=src:tests: the etcd servers
are those of the tests' kit.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from bascule.store.etcd.client import EtcdClient, rpc
from kit.etcd import Etcd
from kit.proxies import BasculeProcess
from kit.waiting import until

PREFIX = "/bascule"
OPERATIONS = 1000
"""Of one transaction that fills etcd, whose own bound is raised for it (--max-txn-ops)."""
AT_ONCE = 4
SETTLE_S = 300.0


def tree(frontends: int, port: int, origin: int, trusted: str = "") -> Iterator[tuple[str, bytes]]:
    """Yields key and value of one listener and so many frontends, each with a backend of one server. `trusted` is who is
    believed what it says of forwarding."""
    listener = {"address": f"127.0.0.1:{port}", "trusted_proxies": [trusted] if trusted else []}
    yield "listeners/web", json.dumps(listener).encode()
    for number in range(frontends):
        name = f"{number:06d}"
        yield f"backends/b{name}", b"{}"
        yield f"backends/b{name}/servers/s", server(origin)
        route = f"PathPrefix(`/svc-{name}/`)"
        yield f"frontends/f{name}", json.dumps({"route": route, "backend": f"b{name}"}).encode()


def passes(frontends: int, port: int, origin: int, times: int) -> Iterator[tuple[str, bytes]]:
    """Yields a tree whose requests pass the balancer so many times: each server is the balancer itself, until
    X-Forwarded-For, to which every pass adds an address, has become so long that the origin is next.

    So the work of one worker is multiplied, and that of the load generator and the origin is not.
    """
    yield from tree(frontends, port, port if times > 1 else origin, trusted="127.0.0.0/8")
    for number in range(1, times):
        last = number == times - 1
        yield f"backends/pass{number}", b"{}"
        yield f"backends/pass{number}/servers/s", server(origin if last else port)
        came = ", ".join(["127.0.0.1"] * number)
        frontend = {"route": f"Header(`X-Forwarded-For`, `{came}`)", "backend": f"pass{number}", "priority": 100}
        yield f"frontends/pass{number}", json.dumps(frontend).encode()


def server(origin: int, weight: int = 1) -> bytes:
    """A server's value."""
    return b'{"url":"http://127.0.0.1:%d","weight":%d}' % (origin, weight)


class Writer:
    """Puts into one etcd, from one event loop."""

    def __init__(self, etcd: Etcd, prefix: str = PREFIX) -> None:
        self.client = EtcdClient(etcd.options(prefix))
        self.prefix = prefix

    async def put(self, key: str, value: bytes) -> tuple[int, float]:
        """Puts one object; returns its revision and when (Unix time) etcd's acknowledgement was here."""
        request = rpc.PutRequest(key=f"{self.prefix}/{key}".encode(), value=value)
        answer = await self.client.call("KV", "Put", request)
        return int(answer.header.revision), time.time()

    async def fill(self, objects: Iterator[tuple[str, bytes]]) -> int:
        """Puts many objects, many a transaction; returns the last revision."""
        running: set[asyncio.Task[int]] = set()
        revision = 0
        while some := list(islice(objects, OPERATIONS)):
            puts = [rpc.PutRequest(key=f"{self.prefix}/{key}".encode(), value=value) for key, value in some]
            request = rpc.TxnRequest(success=[rpc.RequestOp(request_put=put) for put in puts])
            running.add(asyncio.create_task(self._transact(request)))
            if len(running) == AT_ONCE:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                revision = max([revision, *(task.result() for task in done)])
        return max([revision, *await asyncio.gather(*running)])

    async def _transact(self, request: Any) -> int:
        answer = await self.client.call("KV", "Txn", request, timeout_s=60.0)
        return int(answer.header.revision)

    async def close(self) -> None:
        """Ends the connection."""
        await self.client.close()


class Node(BasculeProcess):
    """A load balancer that lives from an etcd."""

    def __init__(
        self, etcd: Etcd, *, workers: int = 2, coalesce: str = "0ms", prefix: str = PREFIX, store: str = ""
    ) -> None:
        endpoints = json.dumps([member.endpoint for member in etcd.members])
        config = f'[store]\ntype = "etcd"\nendpoints = {endpoints}\nprefix = "{prefix}"\n'
        config += f'coalesce = "{coalesce}"\ncoalesce_max = "250ms"\n{store}'
        super().__init__(config=config, workers=workers)

    def until_revision(self, revision: int, deadline_s: float = SETTLE_S) -> dict[str, Any]:
        """Waits until a store revision is in force in every worker; returns the status."""

        def reached() -> dict[str, Any] | None:
            try:
                status = self.status()
            except TimeoutError:  # with a million objects the master is busy for seconds after a start
                return None
            return status if status["store_revision"] >= revision and not status["lagging"] else None

        found = until(reached, f"revision {revision}; log:\n{self.log_text()[-2000:]}", deadline_s, 0.05)
        assert found is not None
        return found

    def cpu_us(self) -> float:
        """CPU time that all its processes have used so far."""
        return sum(run_time_us(pid) for pid in self.pids())

    def master_pid(self) -> int:
        """The pid of its master."""
        return self.master_pids()[0]


def run_time_us(pid: int) -> float:
    """CPU time of all threads of a process so far, of those that have ended too."""
    total = 0.0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0]) / 1000
    return total


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process now and at its largest since `forget_peak`; its share of what it shares (PSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()

    def kib(name: str, text: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    return {"rss": kib("VmRSS", status), "peak": kib("VmHWM", status), "pss": kib("Pss", rollup)}


def forget_peak(pid: int) -> None:
    """Begins the largest resident memory of a process anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def etcd_counters(etcd: Etcd) -> Mapping[str, float]:
    """What etcd itself counts that matters here: watchers, requests by method, streams."""
    found = etcd.metrics()
    wanted = {
        "watchers": "etcd_debugging_mvcc_watcher_total",
        "watch streams": "etcd_debugging_mvcc_watch_stream_total",
        "slow watchers": "etcd_debugging_mvcc_slow_watcher_total",
        "events sent": "etcd_debugging_mvcc_events_total",
        "range operations": "etcd_debugging_mvcc_range_total",
        "put operations": "etcd_debugging_mvcc_put_total",
    }
    counters = {name: found.get(key, 0.0) for name, key in wanted.items()}
    for name, value in found.items():
        match = re.search(r'grpc_server_started_total\{.*grpc_method="(\w+)"', name)
        if match and match[1] in ("Range", "Txn", "Put", "Watch", "LeaseKeepAlive", "Authenticate"):
            counters[f"{match[1]} calls"] = value
    return counters
