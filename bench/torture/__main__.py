"""The torture of Bascule: everything happens to it under every kind of load, and no request may fail.

python -m bench.torture --seconds 60                                      what can happen besides upgrades, for a minute
python -m bench.torture --upgrades 200 --requests 5000000 --load large --store torture
python -m bench.torture --kills 20 --no-disturbances                      kill -9 of workers: only what they held may fail

Needs PYTHONPATH=src:tests, a C compiler, and root for a network of its own (without it, resets are those of the whole machine).
The exit status is 0 when no request failed, the kernel saw no reset, and every event did what it should.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from bench.load.results import store
from bench.torture import network
from bench.torture.peers import PEERS
from bench.torture.run import LOADS, Run


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=["bascule", *PEERS], default="bascule", help="who is tortured")
    parser.add_argument("--upgrades", type=int, default=0)
    parser.add_argument("--pause", type=float, default=4.0, help="longest pause between upgrades, seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--requests", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on for so long")
    parser.add_argument("--at-most", type=float, default=0.0, help="end after so many seconds whatever is missing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load", choices=sorted(LOADS), default="small")
    parser.add_argument(
        "--rate", type=int, help="small requests (or batches of pipelined ones) a second; 0: closed loop"
    )
    parser.add_argument("--plain", action="store_true", help="upgrade and end the probation, nothing else")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 of workers")
    parser.add_argument("--keeper-kills", type=int, default=0, help="kill -9 of the keeper")
    parser.add_argument("--no-changes", action="store_true", help="leave the configuration alone")
    parser.add_argument("--no-disturbances", action="store_true", help="leave workers and master alone")
    parser.add_argument("--give-up", type=int, default=1000, help="end when so many requests have failed")
    parser.add_argument("--keep", action="store_true", help="keep the load balancer's log in any case")
    parser.add_argument("--report", type=Path, help="write the report there, as JSON")
    parser.add_argument("--store", metavar="NAME", help="store it as bench/results/NAME.json")
    return parser


def main() -> int:
    """Run and report."""
    arguments = options().parse_args()
    network.enter_private("bench.torture", sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began_s = time.monotonic()
    document = {
        "subject": arguments.subject,
        "seed": arguments.seed,
        **Run(arguments).go(),
        "seconds": round(time.monotonic() - began_s, 1),
    }
    if arguments.report:
        arguments.report.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.store:
        store(arguments.store, {}, **document)
    shown = {key: value for key, value in document.items() if key not in {"failures", "latency_us", "resets_seen"}}
    print(json.dumps(shown, indent=1))
    return 0 if document["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
