"""The statistics in Prometheus' text exposition format, version 0.0.4.

One family of metrics for each kind of object, labelled by its id: `bascule_frontend_requests_total{frontend="shop"}`; a
server has the labels `backend` and `server`. Counters start when the object appears in the configuration and survive
worker crashes and configuration changes. Codes and reasons that never occurred, and histograms of objects without
traffic, are left out: at 10,000 objects they would be nine tenths of the text.
Reference: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from bascule.admin.status import SHED, WorkerStatus, status_name
from bascule.model.limits import LISTED_MAX
from bascule.shared.statistics import LATENCY_BOUNDS_US

if TYPE_CHECKING:
    from bascule.shared.statistics import ObjectTotals, Reader

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_KINDS = ("listener", "frontend", "backend", "server")
_BOUNDS = tuple(f'le="{bound / 1e6:g}"' for bound in LATENCY_BOUNDS_US)

# Metric name without the kind, type, help, and the number of an object.
_SIMPLE: tuple[tuple[str, str, str, Callable[[ObjectTotals], int]], ...] = (
    ("requests_total", "counter", "Exchanges ended.", lambda row: row.requests),
    ("received_bytes_total", "counter", "Bytes of requests received from clients.", lambda row: row.bytes_in),
    ("sent_bytes_total", "counter", "Bytes of responses sent to clients.", lambda row: row.bytes_out),
    ("requests_in_flight", "gauge", "Exchanges under way.", lambda row: row.in_flight),
)
_CONNECTIONS: tuple[tuple[str, str, str, Callable[[ObjectTotals], int]], ...] = (
    ("connections_total", "counter", "Connections made.", lambda row: row.connections),
    ("connections_open", "gauge", "Connections open.", lambda row: row.connections_open),
)

_Labelled = Sequence[tuple[str, "ObjectTotals"]]


def render_metrics(reader: Reader, *, revision: int = 0, workers: Iterable[WorkerStatus] = ()) -> str:
    """All metrics of one node as the body of an answer to a Prometheus server."""
    lines: list[str] = []
    _process_metrics(lines, reader, revision, workers)
    groups: dict[str, list[tuple[str, ObjectTotals]]] = {kind: [] for kind in _KINDS}
    for row in reader.totals(touched=len(reader) > LISTED_MAX):
        groups[row.kind].append((_labels(row.kind, row.id), row))
    for kind, rows in groups.items():
        if rows:
            _kind_metrics(lines, kind, rows)
    lines.append("")
    return "\n".join(lines)


def escape(value: str) -> str:
    """A label value, as it stands between the quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(kind: str, id: str) -> str:
    if kind != "server":
        return f'{kind}="{escape(id)}"'
    backend, _, server = id.partition("/")
    return f'backend="{escape(backend)}",server="{escape(server)}"'


def _family(lines: list[str], name: str, type: str, help: str) -> None:
    lines.append(f"# HELP {name} {help}")
    lines.append(f"# TYPE {name} {type}")


def _process_metrics(lines: list[str], reader: Reader, revision: int, workers: Iterable[WorkerStatus]) -> None:
    _family(lines, "bascule_config_revision", "gauge", "Store revision of the snapshot in force.")
    lines.append(f"bascule_config_revision {revision}")
    workers = tuple(workers)
    if workers:
        _family(lines, "bascule_worker_config_revision", "gauge", "Store revision that a worker has acknowledged.")
        lines += [f'bascule_worker_config_revision{{worker="{w.number}"}} {w.revision}' for w in workers]
    segments = reader.segments()
    if segments:
        name = "bascule_worker_starts_total"
        _family(lines, name, "counter", "Processes that have served under a worker number.")
        lines += [f'{name}{{worker="{segment.worker}"}} {segment.opened}' for segment in segments]
        name = "bascule_worker_latencies_lost_total"
        _family(lines, name, "counter", "Latencies missing in histograms because their memory was used up.")
        lines += [f'{name}{{worker="{segment.worker}"}} {segment.latency_lost}' for segment in segments]
        name = "bascule_worker_log_lines_lost_total"
        _family(lines, name, "counter", "Access log lines that their file, pipe or socket did not take.")
        lines += [f'{name}{{worker="{segment.worker}"}} {segment.events["log_line_lost"]}' for segment in segments]
        name = "bascule_worker_shed_total"
        _family(lines, name, "counter", "What was given up because the memory budget was used up.")
        lines += [
            f'{name}{{worker="{segment.worker}",what="{what}"}} {segment.events[f"shed_{what}"]}'
            for segment in segments
            for what in SHED
        ]


def _kind_metrics(lines: list[str], kind: str, rows: _Labelled) -> None:
    simple = _SIMPLE + _CONNECTIONS if kind in ("listener", "server") else _SIMPLE
    for suffix, type, help, number in simple:
        name = f"bascule_{kind}_{suffix}"
        _family(lines, name, type, help)
        lines += [f"{name}{{{labels}}} {number(row)}" for labels, row in rows]
    name = f"bascule_{kind}_responses_total"
    _family(lines, name, "counter", "Responses by status code.")
    for labels, row in rows:
        lines += [f'{name}{{{labels},code="{status_name(code)}"}} {n}' for code, n in row.statuses.items()]
    name = f"bascule_{kind}_errors_total"
    _family(lines, name, "counter", "Exchanges that failed, and retries, by reason.")
    for labels, row in rows:
        lines += [f'{name}{{{labels},reason="{reason}"}} {n}' for reason, n in row.errors.items()]
    _histogram(lines, f"bascule_{kind}_request_duration_seconds", rows)


def _histogram(lines: list[str], name: str, rows: _Labelled) -> None:
    _family(lines, name, "histogram", "Time from the first byte of a request to the end of its response.")
    for labels, row in rows:
        count = row.latency_count + row.latency_lost
        if not count:
            continue
        prefix = f"{name}_bucket{{{labels},"
        lines += [f"{prefix}{bound}}} {n}" for bound, n in zip(_BOUNDS, row.cumulative, strict=True)]
        lines.append(f'{prefix}le="+Inf"}} {count}')
        lines.append(f"{name}_sum{{{labels}}} {row.latency_sum_us / 1e6:.6f}")
        lines.append(f"{name}_count{{{labels}}} {count}")
