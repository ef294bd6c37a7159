"""The tables of docs/performance.md, rendered from bench/results: figures and text cannot drift (a test compares them).

The document holds a marker pair for each table, `<!-- table: NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

import re
import statistics
from collections.abc import Callable
from typing import Any

from bench.load.cases import BESIDE_IDLE, IDLE_KIB, LOADS, PEERS, TWO_WORKERS, Load, Promise
from bench.load.render_change import CHANGE_RESULTS, CHANGE_TABLES
from bench.load.render_limits import table_limits
from bench.load.results import NOT_MEASURED, ROOT, Round, Rows, stored

ONE_EXCHANGE = (
    "test_parse[scanner]",
    "test_route",
    "test_limit[off]",
    "test_balance[1]",
    "test_compose",
    "test_respond",
    "test_account",
)
DOCUMENT = ROOT / "docs" / "performance.md"


def median(rounds: list[Round], key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def ratio(rounds: list[Round], base: list[Round], key: str) -> float:
    """Median over the rounds of the ratio within one round: neighbours in time."""
    return statistics.median(a[key] / b[key] for a, b in zip(rounds, base, strict=True))


def better(rows: Rows, key: str, best: Callable[[float, float], float]) -> str:
    """The peer with the better median in this column."""
    present = [peer for peer in PEERS if peer in rows]
    wanted = median(rows[present[0]], key)
    for peer in present[1:]:
        wanted = best(wanted, median(rows[peer], key))
    return next(peer for peer in present if median(rows[peer], key) == wanted)


def cell(rows: Rows, proxy: str, key: str, form: str) -> str:
    """A median, or "-" where nothing was measured."""
    return format(median(rows[proxy], key), form) if key in rows.get(proxy, [{}])[0] else "-"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def verdict(value: float, promise: Promise, *, at_most: bool) -> str:
    if promise.must is None:
        return ""
    for limit, word in ((promise.aim, "aim"), (promise.must, "must")):
        if limit is not None and (value <= limit if at_most else value >= limit):
            return word
    return "**missed**"


def load_row(load: Load, rows: Rows) -> str:
    cells = [load.title]
    cells += [cell(rows, proxy, "cpu_us", ".1f") for proxy in (*PEERS, "floor", "bascule")]
    cpu = ratio(rows["bascule"], rows[better(rows, "cpu_us", min)], "cpu_us")
    rate = ratio(rows["bascule"], rows[better(rows, "requests_per_s", max)], "requests_per_s")
    cells += [f"{cpu:.2f}", number(load.cpu.must), number(load.cpu.aim), verdict(cpu, load.cpu, at_most=True)]
    cells += [f"{rate:.2f}", number(load.rate.must), number(load.rate.aim), verdict(rate, load.rate, at_most=False)]
    return "| " + " | ".join(cells) + " |"


def table_loads() -> str:
    """CPU a request of everyone, and Bascule's ratios to the better peer."""
    lines = [
        "| load | HAProxy us | nginx-deb us | byte relay us | Bascule us | CPU x better peer | must | aim | met "
        "| requests/s x better peer | must | aim | met |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, load in LOADS.items():
        document = stored(name)
        if document is not None:
            lines.append(load_row(load, document["rows"]))
    return "\n".join(lines)


def table_speed() -> str:
    """Requests a second and memory."""
    lines = [
        "| load | HAProxy | nginx-deb | byte relay | Bascule | p50 ms HAProxy | Bascule | p99 ms HAProxy | Bascule |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, load in LOADS.items():
        document = stored(name)
        if document is None:
            continue
        rows: Rows = document["rows"]
        cells = [load.title]
        cells += [cell(rows, proxy, "requests_per_s", ",.0f") for proxy in (*PEERS, "floor", "bascule")]
        cells += [cell(rows, proxy, key, ".2f") for key in ("p50_ms", "p99_ms") for proxy in ("haproxy", "bascule")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_idle() -> str:
    """Memory of an idle connection, and the cost of a request beside ten thousand of them."""
    document = stored("idle")
    if document is None:
        return NOT_MEASURED
    rows: Rows = document["rows"]
    lines = [
        "| proxy | KiB an idle connection | CPU us a request, alone | beside 10,000 idle | ratio |",
        "|---|---|---|---|---|",
    ]
    for proxy, rounds in rows.items():
        slower = statistics.median(one["cpu_us_beside"] / one["cpu_us_alone"] for one in rounds)
        lines.append(
            f"| {proxy} | {median(rounds, 'kib_per_connection'):.2f} | {median(rounds, 'cpu_us_alone'):.1f} "
            f"| {median(rounds, 'cpu_us_beside'):.1f} | {slower:.2f} |"
        )
    ours = rows["bascule"]
    memory = median(ours, "kib_per_connection")
    slower = statistics.median(one["cpu_us_beside"] / one["cpu_us_alone"] for one in ours)
    cost = "met" if slower <= BESIDE_IDLE else "**missed**"
    lines += [
        "",
        f"Memory: must {IDLE_KIB.must} KiB, aim {IDLE_KIB.aim} KiB: {verdict(memory, IDLE_KIB, at_most=True)}. "
        f"Cost beside idle connections: must ratio {BESIDE_IDLE}: {cost}.",
    ]
    return "\n".join(lines)


def table_latency() -> str:
    """What each proxy adds at 1,000 requests a second."""
    document = stored("latency")
    if document is None:
        return NOT_MEASURED
    rows: Rows = document["rows"]
    lines = [
        "| proxy | p50 added us | p99 added us | CPU us a request | one connection, closed loop: p50 added us |",
        "|---|---|---|---|---|",
    ]
    for proxy, rounds in rows.items():
        keys = ("p50_added_us", "p99_added_us", "cpu_us", "p50_added_alone_us")
        lines.append(f"| {proxy} | " + " | ".join(f"{median(rounds, key):.0f}" for key in keys) + " |")
    peer = better(rows, "p50_added_us", min)
    times = {name: ratio(rows["bascule"], rows[name], "p50_added_us") for name in PEERS}
    text = ", ".join(f"{value:.2f} x {name}" for name, value in times.items())
    met = "met" if times[peer] <= 1 else "**missed**"
    lines += [
        "",
        f"p50 added, median of the ratio within one round: {text}. Must: no more than the better peer ({peer}): {met}.",
    ]
    return "\n".join(lines)


def table_workers() -> str:
    """Two workers against one."""
    document = stored("workers")
    if document is None:
        return NOT_MEASURED
    rows: Rows = document["rows"]
    lines = ["| arrangement | one worker us | two workers us | ratio |  |", "|---|---|---|---|---|"]
    for name, text in (("same", "both on CPU 0"), ("apart", "one on each CPU")):
        one, two = rows[f"{name}-1"], rows[f"{name}-2"]
        value = ratio(two, one, "cpu_us")
        met = "met" if value <= TWO_WORKERS else "**missed**"
        lines.append(
            f"| {text} | {median(one, 'cpu_us'):.1f} | {median(two, 'cpu_us'):.1f} | {value:.2f} | {met} (1.10) |"
        )
    return "\n".join(lines)


def table_stages() -> str:
    """One call of each stage."""
    document = stored("stages")
    if document is None:
        return NOT_MEASURED
    lines = ["| benchmark | ns a call, median | best |", "|---|---|---|"]
    for name, rounds in document["rows"].items():
        lines.append(f"| `{name}` | {rounds[0]['ns']:,.0f} | {rounds[0]['minimum_ns']:,.0f} |")
    own_us = sum(document["rows"][name][0]["ns"] for name in ONE_EXCHANGE) / 1000
    whole_us = document["rows"]["test_exchange[real]"][0]["ns"] / 1000
    lines += [
        "",
        f"The stages of one `real` exchange without a limit add up to {own_us:.1f} us of the {whole_us:.1f} us of the whole way; "
        "the rest is system calls and the network stack below them.",
    ]
    return "\n".join(lines)


def table_taken() -> str:
    """When and where each result was taken."""
    lines = ["| result | taken | commit | rounds |", "|---|---|---|---|"]
    last: dict[str, Any] = {}
    for name in (*LOADS, "idle", "latency", "workers", "stages", "limits", *CHANGE_RESULTS):
        document = stored(name)
        if document is not None:
            last = document
            timed = "rounds" in document and "seconds" in document
            rounds = f"{document['rounds']} x {document['seconds']:g} s" if timed else "-"
            lines.append(f"| {name} | {document['taken']} | {document['commit']} | {rounds} |")
    if last:
        lines += ["", f"{last['processors']} x {last['processor']}, Linux {last['kernel']}, Python {last['python']}."]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "loads": table_loads,
    "speed": table_speed,
    "idle": table_idle,
    "latency": table_latency,
    "workers": table_workers,
    "stages": table_stages,
    "limits": table_limits,
    **CHANGE_TABLES,
    "taken": table_taken,
}


def rendered(document: str) -> str:
    """The document with every table of ours replaced by what the results say now; other text is untouched."""

    def replace(match: re.Match[str]) -> str:
        table = TABLES.get(match[1])
        return f"<!-- table: {match[1]} -->\n{table()}\n<!-- end -->" if table else match[0]

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replace, document, flags=re.DOTALL)
