"""The tables of docs/upgrade-proof.md, rendered from bench/results: figures and text cannot drift (a test compares them).

python -m bench.torture.render

The document holds a marker pair for each table, `<!-- table: NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.load.results import ROOT, stored
from bench.torture.programs import KINDS

DOCUMENT = ROOT / "docs" / "upgrade-proof.md"
MISSING = "not measured yet"
TWICE = 2.0
"""How many times the p99 before an upgrade the p99 during it may be."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float) -> str:
    """Return a count with separators."""
    return f"{value:,.0f}"


def table_run() -> str:
    """The long run: what was done and what was lost."""
    report = stored("torture")
    if report is None:
        return MISSING
    done, took_s = report["upgrades"]["done"], report["upgrades"]["took_s"]
    connections = report["upgrades"]["connections"]
    rows = [
        ("taken", f"{report['taken']}, commit {report['commit']}, seed {report['seed']}, {report['seconds'] / 60:.0f} min"),
        ("upgrades; switch-backs", f"{done.get('upgrade', 0)}; {done.get('back', 0)}"),
        ("requests answered", number(report["requests"])),
        ("WebSocket messages returned", number(report["messages"])),
        ("**failed requests**", f"**{report['failed']}**"),
        ("**resets seen by the kernel**", f"**{report['resets']}**{_senders(report)}"),
        ("WebSocket streams broken", report["failed_by_kind"].get("websocket", 0)),
        ("idle connections closed", report["noticed"].get("closed while idle", 0)),
        ("ListenDrops, ListenOverflows", f"{report['kernel']['ListenDrops']}, {report['kernel']['ListenOverflows']}"),
        ("handed over: idle connections; tunnels", _pair(connections, "handed_over_idle", "handed_over_tunnels")),
        ("an upgrade, median; longest", f"{took_s['median']:.1f} s; {took_s['longest']:.1f} s"),
        ("upgrades that failed, changed nothing, and were tried again", sum(report["upgrades"]["failed_and_tried_again"].values())),
        ("memory before; at most (all generations)", f"{report['memory']['first_mib']:.0f} MiB; {report['memory']['peak_mib']:.0f} MiB"),
        ("events that did not do what they should", len(report["problems"])),
    ]  # fmt: skip
    return table(("", ""), rows)


def _senders(report: dict[str, Any]) -> str:
    senders = ", ".join(f"{count} {name}" for name, count in report["resets_by_sender"].items())
    return f" ({senders})" if senders else ""


def _pair(values: dict[str, int], *keys: str) -> str:
    return "; ".join(number(values.get(key, 0)) for key in keys)


def table_kinds() -> str:
    """The long run by kind of client."""
    report = stored("torture")
    if report is None:
        return MISSING
    rows = []
    for kind in KINDS:
        latency = report["latency_us"][kind]
        count = report["messages"] if kind == "websocket" else report["by_kind"][kind]
        cells = [f"{latency[key] / 1000:,.1f}" for key in ("p50", "p99", "max")]
        rows.append((kind, number(count), report["failed_by_kind"].get(kind, 0), *cells))
    return table(("clients", "answered", "failed", "p50 ms", "p99 ms", "longest ms"), rows)


def table_events() -> str:
    """What happened meanwhile."""
    report = stored("torture")
    if report is None:
        return MISSING
    rows = [
        (name, event["times"], event["problems"], number(event["median_ms"]), number(event["longest_ms"]))
        for name, event in report["events"].items()
    ]
    return table(("event", "times", "problems", "median ms", "longest ms"), rows)


def table_kills() -> str:
    """Workers killed with -9."""
    report = stored("torture-kills")
    if report is None:
        return MISSING
    killed = report["killed"]
    rows = [
        ("workers killed", killed["times"]),
        ("client connections they held", number(killed["connections"])),
        ("requests lost on these connections", number(killed["requests_lost"])),
        ("**requests lost on any other connection**", f"**{report['failed']}**"),
        ("resets of any other connection", report["resets"]),
        ("requests answered", number(report["requests"])),
    ]
    return table(("", ""), rows)


def _kind(report: dict[str, Any], *kinds: str) -> int:
    return sum(report["failed_by_kind"].get(kind, 0) for kind in kinds)


def table_peers() -> str:
    """Bascule and its peers under the same load."""
    found = stored("torture-peers")
    if found is None:
        return MISSING
    rows = []
    for name, report in found["reports"].items():
        memory, old = report["memory"], report["old_generations"]
        gone = f"{statistics.median(old['gone_s']):.1f}" if old["gone_s"] else "-"
        rows.append(
            (
                name,
                report["events"]["upgrade"]["times"],
                number(report["requests"]),
                f"**{report['failed']}**",
                _kind(report, "keepalive", "churn", "idle"),
                _kind(report, "pipeline"),
                _kind(report, "upload", "download"),
                _kind(report, "websocket"),
                report["noticed"].get("closed while idle", 0) + report["noticed"].get("closed between requests", 0),
                report["resets_by_sender"].get("balancer to client", 0),
                gone + (f" ({old['stayed']} stayed)" if old["stayed"] else ""),
                f"{memory['first_mib']:.0f}; {memory['peak_mib']:.0f}",
            )
        )
    head = (
        "", "upgrades", "requests", "failed", "keep-alive, churn, idle", "pipelined", "uploads, downloads", "WebSockets",
        "idle connections closed", "resets of clients", "old generation gone after s", "MiB before; at most",
    )  # fmt: skip
    return table(head, rows)


def table_half_load() -> str:
    """Latency around an upgrade."""
    rows = []
    for name in ("half-load-one", "half-load-both"):
        found = stored(name)
        for subject, rounds in (found or {}).get("rows", {}).items():

            def median(key: str, rounds: list[dict[str, float]] = rounds) -> float:
                return statistics.median(one[key] for one in rounds)

            ratio = statistics.median(one["p99_during_ms"] / one["p99_before_ms"] for one in rounds)
            rows.append(
                (
                    subject,
                    (found or {})["cores"],
                    number(median("rate")),
                    sum(int(one["failed"]) for one in rounds),
                    f"{median('p99_before_ms'):.2f}",
                    f"{median('p99_during_ms'):.2f}",
                    f"{ratio:.1f}{'' if subject != 'bascule' else ' (met)' if ratio <= TWICE else ' (**missed**: 2)'}",
                    f"{median('p99_after_ms'):.2f}",
                    f"{median('max_during_ms'):.1f}",
                    f"{median('memory_before_mib'):.0f}; {median('memory_peak_mib'):.0f}",
                    f"{median('old_gone_s'):.2f}",
                )
            )
    head = (
        "", "cores", "requests/s", "failed", "p99 ms before", "during", "x", "5 s after", "longest ms during",
        "MiB before; at most", "old generation gone after s",
    )  # fmt: skip
    return table(head, rows) if rows else MISSING


TABLES: dict[str, Callable[[], str]] = {
    "run": table_run,
    "kinds": table_kinds,
    "events": table_events,
    "kills": table_kills,
    "peers": table_peers,
    "half_load": table_half_load,
}


def rendered(document: str) -> str:
    """The document with every table replaced by what the results say now; other text is untouched."""

    def replaced(match: re.Match[str]) -> str:
        made = TABLES.get(match[1])
        return f"<!-- table: {match[1]} -->\n{made()}\n<!-- end -->" if made else match[0]

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replaced, document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
    print(f"wrote {DOCUMENT}")
