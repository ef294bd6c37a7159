"""The table of docs/performance.md about rate limits, rendered from bench/results/limits.json (bench/load/limits.py)."""

import statistics

from bench.load.results import NOT_MEASURED, Rows, stored

BYTES_A_PERIOD = 16
PROMISED_NS = 200.0


def table_limits() -> str:
    """What a decision costs by clients and periods, in a worker and in the table alone."""
    document = stored("limits")
    if document is None:
        return NOT_MEASURED
    rows: Rows = document["rows"]
    lines = [
        "| clients | periods | bytes a client | table MiB | the stage ns | promised | with its wait for memory "
        "| table alone ns | before | first request | before |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, rounds in rows.items():
        clients, periods, size_bytes = map(int, size.split())
        keys = ("stage_ns", "stage_late_ns", "ns", "before_ns", "first_ns", "before_first_ns")
        stage, *others = (statistics.median(one[key] for one in rounds) if key in rounds[0] else None for key in keys)
        met = "met" if stage is not None and stage <= PROMISED_NS else "**missed**"
        cells = [f"{clients:,}", str(periods), str(periods * BYTES_A_PERIOD), str(size_bytes >> 20)]
        cells += [f"{stage:.0f}", f"{met} ({PROMISED_NS:g})"]
        # Below 10,000 clients first requests are those for pages of memory.
        others = others if clients >= 10_000 else [*others[:3], None, None]
        cells += ["-" if ns is None else f"{ns:.0f}" for ns in others]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
