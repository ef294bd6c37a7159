"""Runs one case: starts the measuring tool with Bascule beside its peers, and takes the rounds out of the tool's JSON.

The tools (`peers.py`, `scale.py`, with their load generator and origin in C) live outside this repository, in the folder named by
$MEASURE (default: ../shared/measure); $PEERS_VENV is where its `setup-peers` put the peers. Both tools pin the proxy to CPU 0
and everything else to CPU 1, and take the proxies in turn within a round, so that a ratio is between neighbours in time.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.load.cases import LOADS, PEERS, Load
from bench.load.results import ROOT, Rows, store

MEASURE = Path(os.environ.get("MEASURE", ROOT.parent / "shared" / "measure"))


def bascule(state: Path, workers: int = 1, port: str = "{port}", origin: str = "{origin}") -> str:
    """The command of the proxy under test: everything a user gets by default, counters and headers on."""
    return (
        f"env PYTHONPATH={ROOT / 'src'} {sys.executable} -m bascule proxy --listen 127.0.0.1:{port} "
        f"--to 127.0.0.1:{origin} --workers {workers} --state {state}"
    )


def refuse_occupied(tool: Path) -> None:
    """Stops before a run whose ports somebody has: SO_REUSEPORT would let both listen, and each would get half the load."""
    match = re.search(r"\bORIGIN\b[^\n]*?\b(\d{4,5})\b[^\n]*?\b(\d{4,5})\b", tool.read_text())
    if match is None:
        raise SystemExit(f"{tool} does not say which ports it uses: look at {__file__}")
    first = int(match[2])
    for port in (int(match[1]), *range(first, first + 6), *range(first + 10, first + 60, 10)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SystemExit(f"port {port} is in use: end what listens there, then run again")


SLICE_MAX_S = 0.005


def refuse_long_slices() -> None:
    """Under SCHED_RR, load generator and origin, on one processor, take turns of a slice each: at the usual 100 ms the proxy gets
    its requests in bursts, which are cheap to serve and have a p99 of 40 ms."""
    if os.sched_getscheduler(0) == os.SCHED_RR and os.sched_rr_get_interval(0) > SLICE_MAX_S:
        raise SystemExit(
            "the slice of real-time round robin is too long: sysctl -w kernel.sched_rr_timeslice_ms=2, then run again"
        )


LEAVING = "fflush(stdout); for (int i = 0; i < nconn; i++)"
STAYING = "fflush(stdout); if (nidle) usleep(500000); for (int i = 0; i < nconn; i++)"


def staying_tools(folder: Path) -> Path:
    """A copy of the measuring scripts whose load generator keeps its idle connections half a second beyond its report.

    As it is, it ends at once, so that the proxy is closing 10,000 connections (20 us each, nine tenths of it in close(2)) while its
    CPU time is read: 3 us a request too much in a run of two seconds, for every proxy.
    """
    copy = folder / "measure"
    copy.mkdir()
    for name in ("scale.py", "lg.c"):
        shutil.copy(MEASURE / name, copy)
    text = (copy / "lg.c").read_text()
    if text.count(LEAVING) != 1:
        raise SystemExit(f"{MEASURE / 'lg.c'} is not the one known here: look at its end, and at {__file__}")
    (copy / "lg.c").write_text(text.replace(LEAVING, STAYING))
    return copy


def run_tool(script: str, arguments: list[str], folder: Path, tools: Path = MEASURE) -> Any:
    """Runs a measuring script, its table on this terminal; returns what it wrote as JSON."""
    result = folder / "result.json"
    tool = tools / script
    if not tool.exists():
        raise SystemExit(f"{tool} is not there: set MEASURE to the folder of the measuring scripts")
    refuse_occupied(tool)
    refuse_long_slices()
    environment = {"PEERS_VENV": str(MEASURE / ".peers"), **os.environ, "BENCH_LOCK": str(folder / "lock")}
    command = [sys.executable, str(tool), *arguments, "--json", str(result)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it ends the proxies, the origin and the load itself
            raise
    if code or not result.exists():
        raise SystemExit(f"{tool.name} failed ({code}); see above. Are the peers installed (setup-peers, PEERS_VENV)?")
    return json.loads(result.read_text())


def from_peers(raw: dict[str, list[dict[str, Any]]]) -> Rows:
    """Rounds of peers.py: CPU us a request, requests/s, ms, MiB."""
    for proxy, rounds in raw.items():
        if any(one["bad"].strip() for one in rounds):
            print(f"note: {proxy} answered with errors: {rounds[-1]['bad']}", file=sys.stderr)
    names = {"us": "cpu_us", "rps": "requests_per_s", "p50": "p50_ms", "p99": "p99_ms", "mem": "memory_mib"}
    return {proxy: [{to: one[of] for of, to in names.items()} for one in rounds] for proxy, rounds in raw.items()}


def run_load(case: str, rounds: int, seconds: int) -> Path:
    """One of cases.LOADS. With peers.py the time is (1 + rounds * seconds) s for each proxy."""
    load: Load = LOADS[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["--rounds", str(rounds), "--secs", str(seconds)]
        proxies = [*load.beside, f"bascule={bascule(folder / 'state')}"]
        raw = run_tool(f"{load.tool}.py", [*load.arguments, *common, *proxies], folder)
    if load.tool == "peers":
        rows = from_peers(raw)
    else:
        rows = {
            proxy: [{"cpu_us": one["us"], "requests_per_s": one["rps"]} for one in found]
            for proxy, found in raw["raw"]["churn"].items()
        }
    return store(case, rows, rounds=rounds, seconds=seconds)


def beside_peers(command: str, names: dict[str, str], rounds: int, seconds: int) -> tuple[Any, Rows]:
    """Runs a command of scale.py; returns what it wrote, and its columns (`names`: theirs to ours) as rows of each proxy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [command, "--rounds", str(rounds), "--secs", str(seconds)]
        tools = staying_tools(folder) if command == "idle" else MEASURE
        raw = run_tool("scale.py", [*common, *PEERS, f"bascule={bascule(folder / 'state')}"], folder, tools)
    count = {proxy: len(columns[next(iter(names))]) for proxy, columns in raw["res"].items()}
    rows: Rows = {
        proxy: [{to: columns[of][i] for of, to in names.items()} for i in range(count[proxy])]
        for proxy, columns in raw["res"].items()
    }
    return raw, rows


def run_idle(rounds: int, seconds: int) -> Path:
    """10,000 idle keep-alive connections: memory of each, and the cost of 64 busy ones beside them."""
    names = {"kib": "kib_per_connection", "us0": "cpu_us_alone", "us": "cpu_us_beside", "total": "memory_mib"}
    raw, rows = beside_peers("idle", names, rounds, seconds)
    return store("idle", rows, rounds=rounds, seconds=seconds, faults=raw["bad"])


def run_latency(rounds: int, seconds: int) -> Path:
    """1,000 requests a second, open loop: what the proxy adds to the origin's own latency."""
    names = {"rp50+": "p50_added_us", "rp99+": "p99_added_us", "rus": "cpu_us", "1p50+": "p50_added_alone_us"}
    raw, rows = beside_peers("latency", names, rounds, seconds)
    return store("latency", rows, rounds=rounds, seconds=seconds, direct=raw["direct"], faults=raw["bad"])
