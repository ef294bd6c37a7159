"""The tables of docs/performance.md about changes of the configuration, rendered from bench/results/change-*.json."""

import statistics

from bench.load.results import NOT_MEASURED, Round, Rows, stored

PROMISED_MS = {10_000: 25.0, 100_000: 100.0}
"""From the store's acknowledgement to in force in all workers, at the median."""
PROMISED_CPU_MS = {10_000: 10.0}
PROMISED_START_S = {"etcd": 3.0, "last good": 1.0}
PROMISED_RATE = 0.05


def percentile(rounds: list[Round], key: str, share: float) -> float:
    """The value of this column that so large a share of the rounds does not exceed."""
    ordered = sorted(one[key] for one in rounds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(rounds: list[Round], key: str) -> float:
    """The median of a column."""
    return statistics.median(one[key] for one in rounds)


def met(value: float, promise: float | None) -> str:
    """What became of a promise."""
    if promise is None:
        return "-"
    return f"met ({promise:g})" if value <= promise else f"**missed** ({promise:g})"


def table_changes() -> str:
    """One change at a time, at every size."""
    document = stored("change-one")
    if document is None:
        return NOT_MEASURED
    lines = [
        "| change | frontends | median ms | promised | p99 ms | CPU ms, all processes | promised | master MiB before | at most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rounds in document["rows"].items():
        kind, size = name.split()
        ms, cpu_ms = median(rounds, "ms"), median(rounds, "cpu_ms")
        cells = [f"{'one weight' if kind == 'server' else 'one route more'}", f"{int(size):,}", f"{ms:.1f}"]
        cells += [met(ms, PROMISED_MS.get(int(size))), f"{percentile(rounds, 'ms', 0.99):.1f}", f"{cpu_ms:.1f}"]
        cells += [met(cpu_ms, PROMISED_CPU_MS.get(int(size)))]
        cells += [f"{median(rounds, key):.0f}" for key in ("master_mib", "master_peak_mib")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_churn() -> str:
    """A thousand changes a second."""
    document = stored("change-rate")
    if document is None:
        return NOT_MEASURED
    rows: Rows = document["rows"]
    lines = [
        "| the changes | puts/s | requests/s | p50 ms | p99 ms | failed | worker, CPUs | its CPU us a pass | master and keeper, CPUs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, text in (("beside", "are elsewhere in the same etcd"), ("ours", "are ours")):
        rounds = rows[name]
        keys = (("puts_per_s", ",.0f"), ("requests_per_s", ",.0f"), ("p50_ms", ".2f"), ("p99_ms", ".2f"))
        cells = [text, *(format(median(rounds, key), form) for key, form in keys)]
        cells += [f"{sum(one['failures'] for one in rounds):.0f}", f"{median(rounds, 'worker_cpu_share'):.2f}"]
        cells += [f"{median(rounds, 'worker_cpu_us_a_request'):.1f}", f"{median(rounds, 'master_cpu_share'):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    pairs = list(zip(rows["ours"], rows["beside"], strict=True))
    rate = 1 - statistics.median(ours["requests_per_s"] / beside["requests_per_s"] for ours, beside in pairs)
    p99 = statistics.median(ours["p99_ms"] / beside["p99_ms"] for ours, beside in pairs) - 1
    last = rows["ours"][-1]
    lines += [
        "",
        f"Requests a second lost: {rate:.1%}, {met(rate, PROMISED_RATE)}; p99 longer by {p99:.1%}, {met(p99, PROMISED_RATE)}. "
        f"Resident memory of the master: {last['master_rss_mib']:.0f} MiB before all rounds, {last['master_rss_mib_after']:.0f} "
        f"after them; of keeper and worker: {last['rest_rss_mib']:.0f} and {last['rest_rss_mib_after']:.0f}.",
    ]
    return "\n".join(lines)


def table_starts() -> str:
    """From exec to the first answer."""
    document = stored("change-start")
    if document is None:
        return NOT_MEASURED
    lines = ["| from | s to the first answer | promised | CPU s, all processes | master MiB |", "|---|---|---|---|---|"]
    for name, rounds in document["rows"].items():
        s = median(rounds, "s")
        cells = [name, f"{s:.2f}", met(s, PROMISED_START_S[name])]
        lines.append(
            "| " + " | ".join([*cells, *(f"{median(rounds, key):.2f}" for key in ("cpu_s", "master_mib"))]) + " |"
        )
    lines += [
        "",
        f"{document['frontends']:,} frontends, each with a backend of one server: three times as many objects.",
    ]
    return "\n".join(lines)


def table_nodes() -> str:
    """What etcd counts."""
    document = stored("change-nodes")
    if document is None:
        return NOT_MEASURED
    lines = [
        f"| etcd counts | now | in {document['seconds']:g} s without a change | in ten changes |",
        "|---|---|---|---|",
    ]
    for name, rounds in document["rows"].items():
        cells = [f"{rounds[0][key]:.0f}" for key in ("now", "without a change", "ten changes")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_TABLES = {
    "changes": (table_changes, "change-one"),
    "churned": (table_churn, "change-rate"),
    "starts": (table_starts, "change-start"),
    "nodes": (table_nodes, "change-nodes"),
}
CHANGE_TABLES = {name: table for name, (table, result) in _TABLES.items() if stored(result) is not None}
CHANGE_RESULTS = tuple(result for _, result in _TABLES.values())
