"""`bascule top`: rates of a running load balancer, refreshed."""

import sys
import time
from typing import Any, Final

import click

from bascule.admin.status import bytes_text, duration_text
from bascule.cli.admin import Client
from bascule.cli.output import OK, print_json, table
from bascule.cli.reach import reach

_KINDS: Final = ("listeners", "frontends", "backends", "servers")
_CLEAR: Final = "\x1b[H\x1b[2J"


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
@click.option("--lines", type=click.IntRange(1), default=15, show_default=True, help="Of each kind, the busiest first.")
@reach
def top(client: Client, interval: float, count: int | None, lines: int, as_json: bool) -> int:
    """Show requests a second, what is in flight, and latencies, by frontend and server, until Ctrl-C.

    Latencies are of all exchanges since the object appeared. With --json each look is one object.

    \b
    bascule top
    bascule top --json --count 1 | jq '.servers[] | [.id, .requests_per_s]'
    """
    before, before_s = client.ask("GET", "/v1/status"), time.monotonic()
    number = 0
    while count is None or number < count:
        time.sleep(interval)
        now, now_s = client.ask("GET", "/v1/status"), time.monotonic()
        rates = measure(before, now, now_s - before_s)
        if as_json:
            print_json(rates)
        else:
            clear = _CLEAR if sys.stdout.isatty() else ""
            click.echo(clear + _text(rates, lines))
        before, before_s, number = now, now_s, number + 1
    return OK


def measure(before: dict[str, Any], now: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the rates between two status documents, by kind of object, the busiest first."""
    rates: dict[str, Any] = {"revision": now.get("store_revision", now["revision"]), "seconds": round(seconds, 3)}
    for kind in _KINDS:
        old = {row["id"]: row for row in before["traffic"][kind]}
        rows = [_rates(old.get(row["id"]), row, seconds) for row in now["traffic"][kind]]
        rates[kind] = sorted(rows, key=lambda row: (-row["requests_per_s"], row["id"]))
    return rates


def _rates(before: dict[str, Any] | None, now: dict[str, Any], seconds: float) -> dict[str, Any]:
    def rate(name: str) -> float:
        grown: int = now[name] - (before[name] if before else 0)
        return round(max(grown, 0) / seconds, 1)

    def failed(row: dict[str, Any] | None) -> int:
        return sum(count for code, count in row["statuses"].items() if code.startswith("5")) if row else 0

    latency = now["latency"] or {}
    return {
        "id": now["id"],
        "requests_per_s": rate("requests"),
        "failed_per_s": round(max(failed(now) - failed(before), 0) / seconds, 1),
        "in_flight": now["in_flight"],
        "in_bytes_per_s": rate("bytes_in"),
        "out_bytes_per_s": rate("bytes_out"),
        "p50_us": latency.get("p50_us"),
        "p99_us": latency.get("p99_us"),
    }


def _text(rates: dict[str, Any], lines: int) -> str:
    sections = [f"revision {rates['revision']}, over {rates['seconds']:.1f} s"]
    for kind in _KINDS:
        if not rates[kind]:
            continue
        rows = [
            (
                row["id"],
                f"{row['requests_per_s']:.0f}",
                f"{row['failed_per_s']:.0f}",
                str(row["in_flight"]),
                bytes_text(int(row["in_bytes_per_s"])) + "/s",
                bytes_text(int(row["out_bytes_per_s"])) + "/s",
                duration_text(row["p50_us"]) if row["p50_us"] is not None else "-",
                duration_text(row["p99_us"]) if row["p99_us"] is not None else "-",
            )
            for row in rates[kind][:lines]
        ]
        more = len(rates[kind]) - lines
        header = (kind.rstrip("s"), "req/s", "5xx/s", "in flight", "in", "out", "p50", "p99")
        sections.append(table(header, rows) + (f"\n({more} more)" if more > 0 else ""))
    return "\n\n".join(sections) + "\n"
