"""Takes the per-call times out of pytest-benchmark's JSON: a benchmark that repeats a step in a compiled loop says how often
in its extra info ("calls"), and the whole exchange gives its CPU time directly ("cpu_us").
"""

import json
from pathlib import Path

from bench.load.results import Rows, store


def store_stages(file: Path) -> Path:
    """Stores bench/results/stages.json: test name -> [{"ns": median, "minimum_ns": best}] of one call."""
    rows: Rows = {}
    for benchmark in json.loads(file.read_text())["benchmarks"]:
        calls = benchmark["extra_info"].get("calls")
        if calls:
            times = benchmark["stats"]
            rows[benchmark["name"]] = [{"ns": times["median"] / calls * 1e9, "minimum_ns": times["min"] / calls * 1e9}]
    return store("stages", rows)
