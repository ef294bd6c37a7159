"""Measures Bascule beside its peers and writes the tables of docs/performance.md.

python -m bench.load run [--rounds 5] [--seconds 2] CASE ...    measures and stores bench/results/CASE.json
python -m bench.load stages FILE                                stores what pytest-benchmark wrote with --benchmark-json=FILE
python -m bench.load render                                     writes the tables into docs/performance.md
"""

import argparse
import signal
import sys
from pathlib import Path

from bench.load.cases import ALL, LOADS
from bench.load.render import DOCUMENT, rendered
from bench.load.run import run_idle, run_latency, run_load
from bench.load.stages import store_stages
from bench.load.workers import run_workers


def run_case(case: str, rounds: int, seconds: int) -> Path:
    if case in LOADS:
        return run_load(case, rounds, seconds)
    return {"idle": run_idle, "latency": run_latency, "workers": run_workers}[case](rounds, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--seconds", type=int, default=2, help="of one proxy in one round")
    run.add_argument("cases", nargs="+", choices=ALL, metavar="CASE", help=", ".join(ALL))
    stages = commands.add_parser("stages")
    stages.add_argument("file", type=Path)
    commands.add_parser("render")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # under timeout(1): end what was started, too
    if arguments.command == "run":
        for case in arguments.cases:
            print(f"stored {run_case(case, arguments.rounds, arguments.seconds)}")
    elif arguments.command == "stages":
        print(f"stored {store_stages(arguments.file)}")
    else:
        DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
        print(f"wrote {DOCUMENT}")


main()
