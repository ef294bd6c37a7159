"""What an upgrade costs those who are served meanwhile: latency at half load, memory of two generations, the old one's end.

python -m bench.torture.half_load [--rounds 5] [--cores one|both] [--store NAME] [SUBJECT ...]

The rate is half of what the closed loop of the same clients reaches just before. It is an open loop: the latency of a request
counts from when it was due, so what waits behind a stall is late too. With `--cores one` the balancer has CPU 0 to itself with one
worker, and everything else is on CPU 1; with `both` it has two workers and both processors, which it shares with its clients.
"""

import argparse
import compileall
import contextlib
import itertools
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bascule
from bench.load.results import store
from bench.torture import network
from bench.torture.bascule import Bascule
from bench.torture.peers import PEERS, Peer
from bench.torture.processes import MemoryWatch
from bench.torture.programs import Origin, Swarm
from bench.torture.run import balancer_of, ports
from kit.waiting import until

CLIENTS = 64
CLOSED_S = 3.0
BEFORE_S = 5.0
AFTER_S = 5.0
RECORD = struct.Struct("QII")


def pin(balancer: bool, cores: str) -> None:
    """Decide where what is started next runs."""
    everywhere = set(range(os.cpu_count() or 1))
    os.sched_setaffinity(0, everywhere if cores == "both" else {0} if balancer else {1 % len(everywhere)})


def prefer(*pids: int) -> None:
    """Let the sessions of these processes go before others' on the same processors, as measure/scale.py does."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text("-12")


def closed_loop(port: int, seed: int) -> float:
    """Return how many requests a second the closed loop reaches."""
    with Swarm(seed) as swarm:
        swarm.target(0, port)
        swarm.group("keepalive", CLIENTS)
        until(lambda: swarm.seen.requests > 0, "the first requests", 20.0)
        before, begun_s = swarm.seen.requests, time.monotonic()
        time.sleep(CLOSED_S)
        until(lambda: swarm.seen.requests > before, "more requests", 20.0)
        return (swarm.seen.requests - before) / (time.monotonic() - begun_s)


def windows(log: Path, marks: Sequence[float]) -> list[list[int]]:
    """Return the latencies (us) of the requests that ended between each mark (CLOCK_MONOTONIC, s) and the next."""
    found: list[list[int]] = [[] for _ in marks[1:]]
    for end_us, took_us, _ in RECORD.iter_unpack(log.read_bytes()):
        for number, (begin_s, end_s) in enumerate(itertools.pairwise(marks)):
            if begin_s <= end_us / 1e6 < end_s:
                found[number].append(took_us)
    return found


def percentile(values: list[int], q: float) -> float:
    """Return a percentile in milliseconds."""
    return sorted(values)[min(int(len(values) * q), len(values) - 1)] / 1000 if values else 0.0


def one_round(balancer: Bascule | Peer, rate: int, seed: int) -> dict[str, float]:
    """Upgrade once under a steady load; return what was seen of it."""
    log = Path(tempfile.mkstemp(prefix="half-load-")[1])
    with Swarm(seed, log) as swarm, MemoryWatch(balancer.members, 0.1) as memory:
        swarm.target(0, balancer.port)
        swarm.order(f"schedule {rate}")
        swarm.group("keepalive", CLIENTS)
        time.sleep(1.0)
        marks = [time.monotonic()]
        time.sleep(BEFORE_S)
        marks.append(time.monotonic())
        balancer.upgrades()["upgrade"]()
        marks.append(time.monotonic())
        time.sleep(AFTER_S)
        marks.append(time.monotonic())
        seen = swarm.stop()
    before, during, after = windows(log, marks)
    log.unlink()
    if isinstance(balancer, Bascule):
        balancer.finished()
    return {
        "rate": rate, "failed": seen.failed_requests, "took_s": round(marks[2] - marks[1], 3),
        "p99_before_ms": percentile(before, 0.99), "p99_during_ms": percentile(during, 0.99),
        "p99_after_ms": percentile(after, 0.99), "max_before_ms": percentile(before, 1.0),
        "max_during_ms": percentile(during, 1.0), "memory_before_mib": memory.document()["first_mib"],
        "memory_peak_mib": memory.document()["peak_mib"],
        "old_gone_s": round(balancer.old_gone_s[-1], 2) if balancer.old_gone_s else -1.0,
    }  # fmt: skip


def measure(subject: str, rounds: int, cores: str) -> list[dict[str, float]]:
    """Measure one balancer; prints each round."""
    found, numbers = [], ports(7)
    pin(False, cores)
    with Origin(numbers[3:]):
        balancer = balancer_of(subject, numbers[:3], numbers[3:], 1 if cores == "one" else 2, 0)
        pin(True, cores)
        with balancer:
            pin(False, cores)
            assert balancer.process is not None
            prefer(balancer.process.pid, os.getpid())
            for number in range(rounds):
                rate = int(closed_loop(balancer.port, number) / 2)
                found.append(one_round(balancer, rate, number))
                print(subject, cores, found[-1], flush=True)
    return found


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", choices=["one", "both"], default="one")
    parser.add_argument("--store", metavar="NAME")
    parser.add_argument(
        "subjects", nargs="*", default=["bascule"], metavar="SUBJECT", help=f"bascule, {', '.join(PEERS)}"
    )
    arguments = parser.parse_args()
    network.enter_private("bench.torture.half_load", sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.suppress(OSError):
        os.setsid()
    # An installed program has its bytecode beside it. Compiling that at every start would be measured instead, for seconds.
    compileall.compile_dir(Path(bascule.__file__).parent, quiet=1)
    rows: dict[str, Any] = {name: measure(name, arguments.rounds, arguments.cores) for name in arguments.subjects}
    if arguments.store:
        store(arguments.store, rows, rounds=arguments.rounds, cores=arguments.cores)


if __name__ == "__main__":
    main()
