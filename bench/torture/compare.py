"""Bascule and its peers upgraded under the same load by the same harness: what each of them loses.

python -m bench.torture.compare [--upgrades 10] [--store NAME] [SUBJECT ...]

With --store, subjects that are measured replace theirs in bench/results/NAME.json, the others stay.
"""

import argparse
import signal
import sys
from typing import Any

from bench.load.results import store, stored
from bench.torture import network
from bench.torture.__main__ import options
from bench.torture.peers import PEERS
from bench.torture.run import Run

SHOWN = (
    "requests", "messages", "failed", "failed_by_kind", "failed_by_reason", "resets_by_sender", "noticed", "events",
    "problems", "memory", "old_generations", "latency_us", "upgrades",
)  # fmt: skip


def measure(subject: str, upgrades: int, seed: int) -> dict[str, Any]:
    """Upgrade one balancer so often; return what is shown of the report."""
    words = ["--subject", subject, "--upgrades", str(upgrades), "--plain", "--seed", str(seed)]
    words += ["--no-changes", "--no-disturbances", "--give-up", "100000", "--pause", "2"]
    report = Run(options().parse_args(words)).go()
    return {key: report[key] for key in SHOWN if key in report}


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", metavar="NAME")
    parser.add_argument("subjects", nargs="*", default=["bascule", "haproxy", "nginx", "envoy"], metavar="SUBJECT")
    arguments = parser.parse_args()
    assert set(arguments.subjects) <= {"bascule", *PEERS}, f"there are bascule, {', '.join(PEERS)}"
    network.enter_private("bench.torture.compare", sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for subject in arguments.subjects:
        found = measure(subject, arguments.upgrades, arguments.seed)
        print(subject, {key: found[key] for key in found if key not in {"latency_us", "events"}}, flush=True)
        if arguments.store:
            before = (stored(arguments.store) or {}).get("reports", {})
            store(arguments.store, {}, upgrades=arguments.upgrades, reports={**before, subject: found})


if __name__ == "__main__":
    main()
