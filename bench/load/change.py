"""What a change costs: one change, a thousand a second, a start, and what twenty nodes ask of their etcd.

    export PYTHONPATH=src:tests
    python -m bench.load.change one 10 1000 10000 100000      from etcd's acknowledgement to in force in all workers
    python -m bench.load.change rate --frontends 10000        1,000 changes a second for 30 s under full load
    python -m bench.load.change start --frontends 100000      from etcd, and from the last good configuration without etcd
    python -m bench.load.change nodes --nodes 20              etcd's own counters

Each stores bench/results/change-<name>.json; `python -m bench.load render` writes the tables. Needs etcd, wrk, a C compiler, and
$MEASURE (see bench/README.md). Nothing else should run on the machine; `flock /tmp/bench.lock chrt -r 10` keeps most of what does away.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load.live import (
    PREFIX,
    SETTLE_S,
    Node,
    Writer,
    etcd_counters,
    forget_peak,
    memory_mib,
    passes,
    run_time_us,
    server,
    tree,
)
from bench.load.results import Round, Rows, store
from bench.load.run import MEASURE
from bench.load.workers import started, wait_for
from kit.client import get
from kit.etcd import Etcd
from kit.http1 import Cut, Ended, Malformed
from kit.waiting import free_port, until

FLAGS = ("--quota-backend-bytes", "8589934592", "--max-request-bytes", "8388608", "--max-txn-ops", "2000")
COMPACTED_MAX = 100_000
QUIET_S = 5.0
"""After a round, before memory is looked at."""
WARM_S = 10.0
ARMS = (("beside", "/elsewhere"), ("ours", PREFIX))
CONNECTIONS = 200
PASSES = 4
"""Of a request through the balancer: with fewer it is load generator and origin, on one CPU together, that are busy."""
PAUSE_S = 0.3
"""Between two single changes, so that each is alone."""


@contextmanager
def origin() -> Iterator[int]:
    """The measuring scripts' origin, for as long as the block lasts; yields its port."""
    with tempfile.TemporaryDirectory() as name:
        program, port = Path(name) / "origin", free_port()
        subprocess.run(["cc", "-O2", "-o", str(program), str(MEASURE / "origin.c")], check=True)
        with started([str(program), str(port)]):
            wait_for(port)
            yield port


async def filled(etcd: Etcd, node: Node, frontends: int, origin_port: int, times: int = 1) -> int:
    """Fills etcd with a tree whose requests pass the balancer so many times; returns the last revision."""
    writer = Writer(etcd)
    objects = passes(frontends, node.port, origin_port, times) if times > 1 else tree(frontends, node.port, origin_port)
    revision = await writer.fill(objects)
    await writer.close()
    if frontends <= COMPACTED_MAX:  # nothing was written twice; a million take etcd longer than etcdctl waits
        etcd.compact()
    return revision


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# ---- one change


def measure_one(frontends: int, changes: int) -> dict[str, list[Round]]:
    """Rounds of each kind of change (server, route): ms to in force in all workers, CPU ms of all processes."""
    rows: dict[str, list[Round]] = {}
    with Etcd(1, FLAGS) as etcd, origin() as origin_port:
        node = Node(etcd)
        revision = asyncio.run(filled(etcd, node, frontends, origin_port))
        node.start(probe=False)
        with node_running(node, revision):
            pids = node.pids()
            for kind in ("server", "route"):
                for pid in pids:
                    forget_peak(pid)
                before = memory_mib(node.master_pid())
                rows[f"{kind} {frontends}"] = asyncio.run(
                    single_changes(etcd, node, kind, frontends, changes, origin_port)
                )
                after = memory_mib(node.master_pid())
                for one in rows[f"{kind} {frontends}"]:
                    one |= {"master_mib": before["rss"], "master_peak_mib": after["peak"]}
    return rows


@contextmanager
def node_running(node: Node, revision: int) -> Iterator[Node]:
    """Waits until a started node is at a revision; ends it with the block."""
    try:
        until(lambda: (node.state / "admin.sock").exists(), f"the admin socket; {node.log_text()}", SETTLE_S, 0.05)
        node.until_revision(revision)
        yield node
    finally:
        node.kill()
        node.cleanup()


async def single_changes(
    etcd: Etcd, node: Node, kind: str, frontends: int, changes: int, origin_port: int
) -> list[Round]:
    """Makes changes one by one. The CPU of a pause without a change is taken off each."""
    writer, rounds = Writer(etcd), []
    pids = node.pids()
    for number in range(-3, changes):
        await asyncio.sleep(PAUSE_S)
        idle_from = sum(map(run_time_us, pids))
        await asyncio.sleep(PAUSE_S)
        idle = sum(map(run_time_us, pids)) - idle_from
        from_us = idle_from + idle
        if kind == "server":
            key, value = f"backends/b{abs(number) % frontends:06d}/servers/s", server(origin_port, 5 + number % 97)
        else:
            key, value = f"frontends/n{number}", b'{"route":"PathPrefix(`/new-%d/`)","backend":"b000000"}' % number
        revision, acknowledged_s = await writer.put(key, value)
        await asyncio.sleep(PAUSE_S)
        cpu_us = sum(map(run_time_us, pids)) - from_us - idle
        status = await asyncio.to_thread(node.until_revision, revision)
        in_force_s = max(worker["applied_at"] for worker in status["workers"])
        if number >= 0:  # the first three warm up
            rounds.append({"ms": (in_force_s - acknowledged_s) * 1000, "cpu_ms": cpu_us / 1000})
    await writer.close()
    return rounds


# ---- a thousand a second


class Load:
    """What wrk says."""

    def __init__(self, port: int, seconds: float, frontends: int) -> None:
        script = (
            "local n=0 request=function() n=(n*7+11)%%%d return wrk.format('GET',string.format('/svc-%%06d/a',n)) end"
        )
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "routes.lua"
        path.write_text(script % frontends)
        command = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds:g}s",
            "--latency",
            "-s",
            str(path),
            f"http://127.0.0.1:{port}",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> Round:
        """Waits for its end; requests/s, p50 and p99 in ms, failures."""
        text = self.process.communicate()[0]
        self.directory.cleanup()
        failures = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        failures += sum(map(int, errors.groups())) if errors else 0
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        assert rate, text
        return {
            "requests_per_s": float(rate[1]),
            "p50_ms": _ms(text, "50%"),
            "p99_ms": _ms(text, "99%"),
            "failures": float(failures),
        }


def _ms(text: str, name: str) -> float:
    found = re.search(rf"{name}\s+([\d.]+)(us|ms|s)", text)
    assert found, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


async def put_steadily(etcd: Etcd, prefix: str, per_s: int, seconds: float, frontends: int, origin_port: int) -> int:
    """Changes servers' weights at a steady rate; returns how many puts were acknowledged."""
    writer = Writer(etcd, prefix)
    begin_s, number, running = time.monotonic(), 0, set[asyncio.Task[tuple[int, float]]]()
    while time.monotonic() - begin_s < seconds:
        while number < (time.monotonic() - begin_s) * per_s:
            key = f"backends/b{number * 7 % frontends:06d}/servers/s"
            task = asyncio.create_task(writer.put(key, server(origin_port, 1 + number % 9)))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*running)
    await writer.close()
    return number


def measure_rate(frontends: int, per_s: int, seconds: float, rounds: int) -> Rows:
    """Interleaved: load beside changes elsewhere in the same etcd (`beside`), and beside as many of ours (`ours`)."""
    rows: Rows = {"beside": [], "ours": []}
    os.sched_setaffinity(0, {1})
    with Etcd(1, FLAGS) as etcd, origin() as origin_port:
        node = Node(etcd, workers=1, coalesce="20ms")
        revision = asyncio.run(filled(etcd, node, frontends, origin_port, PASSES))
        node.start(probe=False)
        with node_running(node, revision):
            _place(node)
            for _, prefix in ARMS:  # buffers, pools and journals reach their size
                _rate_round(node, etcd, prefix, per_s, WARM_S, frontends)
            time.sleep(QUIET_S)
            before = _resident(node)
            for number in range(rounds):
                for name, prefix in ARMS if number % 2 == 0 else ARMS[::-1]:  # the machine has its own ups and downs
                    rows[name].append(_rate_round(node, etcd, prefix, per_s, seconds, frontends))
                time.sleep(QUIET_S)
                rows["ours"][-1] |= before | {f"{name}_after": mib for name, mib in _resident(node).items()}
                print(rows["beside"][-1], rows["ours"][-1], sep="\n", flush=True)
    return rows


def _resident(node: Node) -> Round:
    """Resident memory of the master, and of keeper and worker."""
    mib = {pid: memory_mib(pid)["rss"] for pid in node.pids()}
    master = mib.pop(node.master_pid())
    return {"master_rss_mib": master, "rest_rss_mib": sum(mib.values())}


def _place(node: Node) -> None:
    """The worker has CPU 0 to itself; everything else is on CPU 1, like this process."""
    for pid in node.worker_pids():
        os.sched_setaffinity(pid, {0})


def _rate_round(node: Node, etcd: Etcd, prefix: str, per_s: int, seconds: float, frontends: int) -> Round:
    cpu_us = node.cpu_us()
    worker_us = sum(map(run_time_us, node.worker_pids()))
    load = Load(node.port, seconds, frontends)
    puts = asyncio.run(put_steadily(etcd, prefix, per_s, seconds, frontends, node.port))
    found = load.result()
    requests = found["requests_per_s"] * seconds
    worker_us = sum(map(run_time_us, node.worker_pids())) - worker_us
    found["worker_cpu_us_a_request"] = worker_us / requests / PASSES
    found["worker_cpu_share"] = worker_us / 1e6 / seconds
    found["puts_per_s"] = puts / seconds
    found["master_cpu_share"] = (node.cpu_us() - cpu_us - worker_us) / 1e6 / seconds
    if prefix == PREFIX:
        node.until_revision(etcd.revision())
    return found


# ---- starts


def measure_start(frontends: int, rounds: int) -> Rows:
    """Seconds from exec to the first answer: from etcd with a new state directory, and from the last good without etcd."""
    rows: Rows = {"etcd": [], "last good": []}
    with Etcd(1, FLAGS) as etcd, origin() as origin_port:
        first = Node(etcd)
        revision = asyncio.run(filled(etcd, first, frontends, origin_port))
        for _ in range(rounds):
            node = Node(etcd)
            node.port = first.port
            rows["etcd"].append(_started(node, frontends))
            with node_running(node, revision):
                until(
                    lambda node=node: list(node.directory.glob("**/last-good.*")), "a last good configuration", 60, 0.1
                )
                time.sleep(5)
                node.kill()
                etcd.member.freeze()
                try:
                    rows["last good"].append(_started(node, frontends))
                finally:
                    etcd.member.thaw()
                    node.kill()
    return rows


def _started(node: Node, frontends: int) -> Round:
    begin_s = time.monotonic()
    node.start(probe=False)

    def answers() -> bool:
        try:
            return get(node.address, f"/svc-{frontends - 1:06d}/a").status == 200
        except (OSError, Cut, Ended, Malformed):
            return False

    until(answers, f"an answer; {node.log_text()[-3000:]}", 60, 0.005)
    took_s = time.monotonic() - begin_s
    return {"s": took_s, "cpu_s": node.cpu_us() / 1e6, "master_mib": memory_mib(node.master_pid())["rss"]}


# ---- many nodes


def measure_nodes(nodes: int, seconds: float) -> Rows:
    """What etcd counts while so many nodes follow it, `seconds` without a change and then with ten changes."""
    with Etcd(1, FLAGS) as etcd, origin() as origin_port:
        running = [Node(etcd, workers=1) for _ in range(nodes)]
        for node in running:
            node.port = running[0].port  # SO_REUSEPORT: they share the listener's address
        revision = asyncio.run(filled(etcd, running[0], 10, origin_port))
        try:
            for node in running:
                node.start(probe=False)
            for node in running:
                until(lambda node=node: (node.state / "admin.sock").exists(), node.log_text(), 120, 0.05)
                node.until_revision(revision)
            time.sleep(2)
            first = etcd_counters(etcd)
            time.sleep(seconds)
            idle = etcd_counters(etcd)
            revision = asyncio.run(_ten_changes(etcd, origin_port))
            for node in running:
                node.until_revision(revision)
            changed = etcd_counters(etcd)
        finally:
            for node in running:
                node.kill()
                node.cleanup()
    return {
        name: [
            {"now": idle[name], "without a change": idle[name] - first[name], "ten changes": changed[name] - idle[name]}
        ]
        for name in first
    }


async def _ten_changes(etcd: Etcd, origin_port: int) -> int:
    writer = Writer(etcd)
    for number in range(10):
        revision, _ = await writer.put("backends/b000000/servers/s", server(origin_port, 2 + number))
        await asyncio.sleep(0.2)
    await writer.close()
    return revision


# ---- command line


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("one")
    one.add_argument("sizes", type=int, nargs="+")
    one.add_argument("--changes", type=int, default=40)
    rate = commands.add_parser("rate")
    rate.add_argument("--per-s", type=int, default=1000)
    rate.add_argument("--seconds", type=float, default=30)
    start = commands.add_parser("start")
    nodes = commands.add_parser("nodes")
    nodes.add_argument("--nodes", type=int, default=20)
    nodes.add_argument("--seconds", type=float, default=30)
    for command, size in ((rate, 10_000), (start, 100_000)):
        command.add_argument("--frontends", type=int, default=size)
        command.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    more = {key: value for key, value in vars(arguments).items() if key != "command"}
    if arguments.command == "one":
        rows: Rows = {}
        for size in arguments.sizes:
            rows |= measure_one(size, arguments.changes)
    elif arguments.command == "rate":
        rows = measure_rate(arguments.frontends, arguments.per_s, arguments.seconds, arguments.rounds)
    elif arguments.command == "start":
        rows = measure_start(arguments.frontends, arguments.rounds)
    else:
        rows = measure_nodes(arguments.nodes, arguments.seconds)
    for name, rounds in rows.items():
        shown = {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        p99 = {
            f"{key} p99": round(percentile([one[key] for one in rounds], 0.99), 3)
            for key in rounds[0]
            if len(rounds) > 9
        }
        print(f"{name:24} {shown} {p99}")
    print(f"stored {store(f'change-{arguments.command}', rows, **more)}")


if __name__ == "__main__":
    main()
