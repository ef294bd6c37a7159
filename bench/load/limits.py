"""What a decision of a rate limit costs, by clients and periods: the table alone beside that of another tree, and the stage in a worker.

python -m bench.load.limits [--before TREE/src] [--rounds 5] [--clients 1000 ...]     stores bench/results/limits.json

The table alone: hash and decide, nothing in between, so the wait for memory is in it. The stage: around composing the head, as a worker
does it, less composing alone. Every round is a process of its own; the trees take turns. Regions have twice the room that the keys
need, and are on huge pages when the master would have moved them there. The last size is once more in a table of the default
size, which it overflows.
"""

import argparse
import json
import os
import statistics as middle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.load.results import ROOT, Round, Rows, store
from bench.requests import ANSWER_HEAD, REQUEST

SECOND_NS = 1_000_000_000
START_NS = 1000 * SECOND_NS
BYTES_A_CELL = 16
DEFAULT_BYTES = 64 << 20
HUGE_FROM_KEYS = 10_000
CALLS = 200_000
CLIENTS = (1000, 100_000, 1_000_000, 10_000_000)
PERIODS = (1, 2, 4)
CONFIG = """
[listeners.web]
address = "127.0.0.1:1"
[frontends.app]
route = "PathPrefix(`/real`)"
backend = "app"
[frontends.app.middlewares.each]
type = "rate_limit"
limits = [{limits}]
key = "client.ip"
[backends.app.servers.a]
url = "http://127.0.0.1:9000"
"""


def region_bytes(keys: int, periods: int) -> int:
    """Room for twice the keys, and at least the default."""
    return max(DEFAULT_BYTES, 2 * BYTES_A_CELL * keys * periods)


def region(keys: int, size_bytes: int) -> int:
    """A region, on huge pages when a quarter of it would be resident."""
    from bascule.shared.limits import create
    from bascule.shared.region import use_huge_pages

    descriptor = create(size_bytes)
    if keys >= HUGE_FROM_KEYS:
        use_huge_pages(descriptor)
    return descriptor


def measured(step: Callable[[], object], calls: int) -> float:
    began_ns = time.thread_time_ns()
    step()
    return (time.thread_time_ns() - began_ns) / calls


def measure_table(keys: int, periods: int, size_bytes: int) -> Round:
    """ns a decision: of a client's first request, and of every later one; all keys are gone through in turn."""
    from bascule.shared.limits import LimitTable, rate

    table = LimitTable(region(keys, size_bytes), 0)
    rates = [rate(1000 * 60**i, SECOND_NS * 60**i) for i in range(periods)]
    first_ns = measured(lambda: table.repeat(1, b"client-address", rates, keys, START_NS, 0, keys), keys)
    calls = max(CALLS, keys)
    again = [
        measured(lambda: table.repeat(1, b"client-address", rates, calls, START_NS, 1000, keys), calls)
        for _ in range(3 if keys > CALLS else 9)
    ]
    return {"first_ns": first_ns, "ns": middle.median(again), "live_evictions": table.live_evictions}


def measure_stage(keys: int, periods: int, size_bytes: int) -> Round:
    """ns that the stage adds to composing the head, with its first half before that and, for comparison, after it."""
    from bascule.bench.stages import Stages
    from bascule.change.compile import compile_snapshot
    from bascule.shared import statistics
    from bascule.shared.statistics_directory import Directory
    from bascule.store.file import parse

    limits = ", ".join(
        f'{{requests = 1000000000, period = "{period}"}}' for period in ("1s", "1m", "1h", "24h")[:periods]
    )
    descriptors = statistics.create(workers=1, objects=256), region(keys, size_bytes)
    tree = parse(CONFIG.format(limits=limits).encode(), "bench.toml").tree
    image = compile_snapshot(tree, revision=1, slot=Directory(descriptors[0]).slot, addresses={}).image
    stages = Stages(
        request=REQUEST,
        response=ANSWER_HEAD,
        image=image,
        statistics_fd=descriptors[0],
        limits_fd=descriptors[1],
    )
    if stages.limit_around(keys, keys, True, 1) != keys:
        raise SystemExit("a request was refused: the stage would not be measured")

    def ns(clients: int, begun_before: bool) -> float:
        return measured(lambda: stages.limit_around(CALLS, clients, begun_before, 2000), CALLS)

    rows = [(ns(0, False), ns(keys, True), ns(keys, False)) for _ in range(9)]
    return {
        "compose_ns": middle.median(row[0] for row in rows),
        "stage_ns": middle.median(row[1] - row[0] for row in rows),
        "stage_late_ns": middle.median(row[2] - row[0] for row in rows),
    }


def child(what: str, source: Path, *numbers: int) -> Round:
    """One round in a process of its own, with the program of this tree."""
    result: Round = json.loads(
        subprocess.check_output(
            [sys.executable, "-m", "bench.load.limits", "--child", what, *map(str, numbers)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
    )
    return result


def run(before: Path | None, rounds: int, clients: list[int]) -> Path:
    """All sizes; trees and kinds take turns within a round."""
    sizes = [(keys, periods, region_bytes(keys, periods)) for keys in clients for periods in PERIODS]
    sizes += [(clients[-1], periods, DEFAULT_BYTES) for periods in PERIODS]
    rows: Rows = {" ".join(map(str, size)): [] for size in sizes}
    ours = ROOT / "src"
    for round_ in range(rounds):
        for size, row in zip(sizes, rows.values(), strict=True):
            one = child("table", ours, *size) | child("stage", ours, *size)
            if before is not None:
                one |= {f"before_{key}": value for key, value in child("table", before, *size).items()}
            row.append(one)
            print(f"{round_} {size}: {one}", flush=True)
    return store("limits", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the src of another tree, built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure = {"table": measure_table, "stage": measure_stage}[arguments.child[0]]
        print(json.dumps(measure(*map(int, arguments.child[1:]))))
    else:
        print(f"stored {run(arguments.before, arguments.rounds, list(arguments.clients))}")


if __name__ == "__main__":
    main()
