"""CPU a request with two workers against one, on a machine of two processors that also runs the load.

Two arrangements, each interleaved round by round with one worker under the same load (wrk, 64 keep-alive connections, the
headers of `real`; origin.c of the measuring scripts):

  same     the workers on CPU 0, load and origin on CPU 1: what a second process costs by itself (fewer events a turn, two sets of
           upstream connections), with nothing shared between processors.
  apart    one worker on each CPU, load and origin wherever the kernel puts them; the single worker is measured on CPU 0 and on
           CPU 1 in turn under the same conditions. Here two processors write what the workers share, so a contended cache line
           would show.

CPU is the workers' own run time (/proc/PID/schedstat), keeper and master excluded: they sleep.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load.results import Rows, store
from bench.load.run import MEASURE, bascule, refuse_long_slices
from bench.requests import HEADERS, TARGET

ORIGIN, PORT = 9401, 9410
CONNECTIONS = 64


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers_of(pid: int, count: int) -> list[int]:
    """The worker processes below a keeper, waiting until there are `count`."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [child for child in children(pid) if b"process.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise SystemExit(f"the balancer did not start {count} workers")


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on port {port}")


def run_time_us(pids: list[int]) -> float:
    """CPU time of these processes so far."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1000


@contextmanager
def started(command: list[str]) -> Iterator[int]:
    """A process for as long as the block lasts; yields its pid."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def drive(port: int, seconds: int, cpus: str) -> int:
    """Loads the port; returns the number of requests answered."""
    command = ["taskset", "-c", cpus, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    for name, value in HEADERS:
        command += ["-H", f"{name}: {value}"]
    text = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{TARGET}"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"requests failed: {text}")
    match = re.search(r"(\d+) requests in", text)
    assert match
    return int(match[1])


def one_round(pids: list[int], port: int, placement: list[set[int]], seconds: int, cpus: str) -> float:
    """CPU us a request of these workers, placed so."""
    for pid, where in zip(pids, placement, strict=True):
        os.sched_setaffinity(pid, where)
    before = run_time_us(pids)
    requests = drive(port, seconds, cpus)
    return (run_time_us(pids) - before) / requests


def run_workers(rounds: int, seconds: int) -> Path:
    """Rows: same-1, same-2, apart-1 (mean of both CPUs), apart-2; each round's cpu_us."""
    refuse_long_slices()
    rows: Rows = {name: [] for name in ("same-1", "same-2", "apart-1", "apart-2")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "origin"
        subprocess.run(["cc", "-O2", "-o", str(source), str(MEASURE / "origin.c")], check=True)
        one, two = (
            shlex.split(bascule(folder / f"state{count}", count, str(PORT + count), str(ORIGIN))) for count in (1, 2)
        )
        with started([str(source), str(ORIGIN)]) as origin, started(one) as single, started(two) as double:
            for port in (ORIGIN, PORT + 1, PORT + 2):
                wait_for(port)
            first, both = workers_of(single, 1), workers_of(double, 2)
            for port in (PORT + 1, PORT + 2):
                drive(port, 1, "0,1")
            for _ in range(rounds):
                os.sched_setaffinity(origin, {1})
                rows["same-1"].append({"cpu_us": one_round(first, PORT + 1, [{0}], seconds, "1")})
                rows["same-2"].append({"cpu_us": one_round(both, PORT + 2, [{0}, {0}], seconds, "1")})
                os.sched_setaffinity(origin, {0, 1})
                alone = [one_round(first, PORT + 1, [{cpu}], seconds, "0,1") for cpu in (0, 1)]
                rows["apart-1"].append({"cpu_us": sum(alone) / 2})
                rows["apart-2"].append({"cpu_us": one_round(both, PORT + 2, [{0}, {1}], seconds, "0,1")})
    return store("workers", rows, rounds=rounds, seconds=seconds)
