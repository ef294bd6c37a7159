"""What `bascule status` shows: the status document (JSON) and its rendering for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bascule.model.limits import LISTED_MAX

if TYPE_CHECKING:
    from bascule.shared.statistics import ObjectTotals, Reader


SHED = ("client", "server", "request")


class Latency(msgspec.Struct, frozen=True):
    """Time from a request's first byte to the end of its response, in microseconds; within 0.8 %."""

    mean_us: float
    p50_us: int
    p75_us: int
    p95_us: int
    p99_us: int
    p999_us: int
    max_us: int


class ObjectStatus(msgspec.Struct, frozen=True):
    """The traffic of one listener, frontend, backend or server (id "backend/server") over all workers."""

    id: str
    requests: int
    statuses: dict[str, int]
    """Status code, or "4xx" for the unregistered ones of a class -> responses."""
    errors: dict[str, int]
    """Reason -> count; reasons that did not occur are left out."""
    in_flight: int
    connections: int
    connections_open: int
    bytes_in: int
    bytes_out: int
    latency: Latency | None
    """None before the first exchange."""


class Traffic(msgspec.Struct, frozen=True):
    """All objects that count, by id."""

    listeners: tuple[ObjectStatus, ...] = ()
    frontends: tuple[ObjectStatus, ...] = ()
    backends: tuple[ObjectStatus, ...] = ()
    servers: tuple[ObjectStatus, ...] = ()
    latencies_lost: int = 0
    """Latencies that found no room in the histograms: they are in the means and not in the quantiles."""
    log_lines_lost: int = 0
    """Access log lines that their file, pipe or socket did not take."""
    shed: dict[str, int] = {}
    """What was given up because the memory budget was used up: client, server (idle connections), request -> count."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker process."""

    number: int
    pid: int
    state: str = ""
    revision: int = 0
    """The newest snapshot it has acknowledged, 0 before the first."""
    refused: str = ""
    """Why it did not take the snapshot in force."""


class ProcessStatus(msgspec.Struct, frozen=True):
    """The keeper or the master."""

    pid: int
    alive: bool = True


class Death(msgspec.Struct, frozen=True):
    """A worker that keeps dying."""

    worker: int
    deaths: int
    reason: str
    restart_in_ms: int = 0


class Trouble(msgspec.Struct, frozen=True):
    """One problem of the last reload: bascule.model.problems.Problem as far as it is shown."""

    message: str
    remedy: str = ""
    file: str = ""
    line: int = 0


class ReloadOutcome(msgspec.Struct, frozen=True):
    """How the last reload ended."""

    ok: bool = True
    problems: tuple[Trouble, ...] = ()


class LastReload(msgspec.Struct, frozen=True):
    """The last reload; `outcome` is None before the first."""

    outcome: ReloadOutcome | None = None


class StoreStatus(msgspec.Struct, frozen=True):
    """The store of a live configuration, as the master hears of it."""

    kind: str
    place: str
    connected: bool = True
    failure: str = ""
    revision: int = 0
    """The newest that was heard of."""
    behind: int = 0
    """So many revisions are heard of and not in force."""


class FreezeStatus(msgspec.Struct, frozen=True):
    """Why nothing new comes into force: bascule.change.live.Freeze."""

    reason: str
    remedy: str = ""


class ServerNote(msgspec.Struct, frozen=True):
    """A server that does not plainly serve (bascule.change.leases.Standing) or has gone lately (departures.Departed)."""

    backend: str
    server: str
    state: str = ""
    share: float = 0.0
    reason: str = ""
    how: str = ""
    draining: bool = False


class ServersStatus(msgspec.Struct, frozen=True):
    """What the configuration alone does not say of servers."""

    standings: tuple[ServerNote, ...] = ()
    departed: tuple[ServerNote, ...] = ()
    ignored_checks: tuple[str, ...] = ()


class Generation(msgspec.Struct, frozen=True):
    """A generation of processes and the version that it runs."""

    generation: int
    version: str


class Replaced(msgspec.Struct, frozen=True, rename={"before": "from"}):
    """How the last upgrade or switch back ended."""

    at: float
    kind: str
    ok: bool
    took_s: float
    before: Generation
    to: Generation | None = None
    reason: str = ""
    failed: str = ""


class UpgradeStatus(msgspec.Struct, frozen=True):
    """Which generation serves, and whether there is a way back."""

    generation: int = 0
    version: str = ""
    phase: str = ""
    """Of the upgrade that is under way; empty: none is."""
    resting: Generation | None = None
    probation_left_s: float = 0.0
    lost_because: str = ""
    """Why there is no way back although the last upgrade had left one."""
    last: Replaced | None = None


class Status(msgspec.Struct, frozen=True):
    """The part of the status document that `render_text` shows; further fields of a decoded document are ignored."""

    revision: int
    workers: tuple[WorkerStatus, ...] = ()
    traffic: Traffic = Traffic()
    configuration: str = ""
    keeper: ProcessStatus | None = None
    master: ProcessStatus | None = None
    warnings: tuple[str, ...] = ()
    unresolved: dict[str, str] = {}
    """Host name -> why its last lookup failed."""
    deaths: tuple[Death, ...] = ()
    reload: LastReload = LastReload()
    servers: ServersStatus = ServersStatus()
    upgrade: UpgradeStatus = UpgradeStatus()
    store: StoreStatus | None = None
    """None when a file or a command line is the configuration."""
    store_revision: int = 0
    """In force, of a live store; `revision` counts snapshots then."""
    objects: dict[str, int] = {}
    """How many stored objects are in which state."""
    freeze: FreezeStatus | None = None


# ---- document ----


def status_name(code: int) -> str:
    """The name under which a status counter appears: "200", "4xx" for 4, "other" for 0."""
    if code >= 100:
        return str(code)
    return f"{code}xx" if code else "other"


def build_traffic(reader: Reader) -> Traffic:
    """Sum the statistics of all workers."""
    segments = reader.segments()
    objects: dict[str, list[ObjectStatus]] = {"listener": [], "frontend": [], "backend": [], "server": []}
    for totals in reader.totals(touched=len(reader) > LISTED_MAX):
        objects[totals.kind].append(_object_status(totals))
    return Traffic(
        listeners=tuple(objects["listener"]),
        frontends=tuple(objects["frontend"]),
        backends=tuple(objects["backend"]),
        servers=tuple(objects["server"]),
        latencies_lost=sum(segment.latency_lost for segment in segments),
        log_lines_lost=sum(segment.events["log_line_lost"] for segment in segments),
        shed={what: sum(segment.events[f"shed_{what}"] for segment in segments) for what in SHED},
    )


def build_status(reader: Reader, workers: Iterable[WorkerStatus], revision: int) -> Status:
    """The status of one node: the snapshot revision in force, its workers and the traffic they counted."""
    return Status(revision=revision, workers=tuple(workers), traffic=build_traffic(reader))


def _object_status(totals: ObjectTotals) -> ObjectStatus:
    latency = None
    if totals.latency_count:
        latency = Latency(
            mean_us=round(totals.mean_us, 1),
            p50_us=totals.p50_us,
            p75_us=totals.p75_us,
            p95_us=totals.p95_us,
            p99_us=totals.p99_us,
            p999_us=totals.p999_us,
            max_us=totals.max_us,
        )
    return ObjectStatus(
        id=totals.id,
        requests=totals.requests,
        statuses={status_name(code): count for code, count in totals.statuses.items()},
        errors=totals.errors,
        in_flight=totals.in_flight,
        connections=totals.connections,
        connections_open=totals.connections_open,
        bytes_in=totals.bytes_in,
        bytes_out=totals.bytes_out,
        latency=latency,
    )


# ---- text ----

_ODD_STATES = ("waiting", "quarantined", "held")
_SHED_NAMES = {
    "client": "idle client connections",
    "server": "idle server connections",
    "request": "requests (503)",
}
SERVERS_SHOWN = 20
_COLUMNS = ("requests", "2xx", "3xx", "4xx", "5xx", "in flight", "p50", "p95", "p99", "in", "out", "errors")


def render_text(status: Status) -> str:
    """The status for a terminal: what is wrong, workers, then the objects in the order of a request's way."""
    sections = [
        _headline(status),
        _upgrade(status.upgrade),
        _store(status),
        _servers(status),
        _notes(status),
        _workers_table(status),
    ]
    traffic = status.traffic
    for title, objects in (
        ("listener", traffic.listeners),
        ("frontend", traffic.frontends),
        ("backend", traffic.backends),
        ("server", traffic.servers),
    ):
        if objects:
            sections.append(_table((title, *_COLUMNS), [_cells(row) for row in objects]))
    sections.append("\n".join([*_losses(traffic), ""]) if _losses(traffic) else "")
    return "\n".join(section for section in sections if section)


def _servers(status: Status) -> str:
    """Servers that get less than the configuration says, and those that went; a line each, at most SERVERS_SHOWN."""
    lines = [
        f"backend {name}: every server fails its health check, so the check is ignored"
        for name in status.servers.ignored_checks
    ]
    for note in status.servers.standings:
        share = f", {note.share:.0%} of its weight" if note.state == "ramping" else ""
        lines.append(f"{note.backend}/{note.server} {note.state}{share}" + (f": {note.reason}" if note.reason else ""))
    lines += [
        f"{note.backend}/{note.server} {note.how}" + (", draining" if note.draining else "")
        for note in status.servers.departed
    ]
    if len(lines) > SERVERS_SHOWN:
        lines = [*lines[:SERVERS_SHOWN], f"and {len(lines) - SERVERS_SHOWN} more: bascule status --json"]
    return "\n".join([*lines, ""]) if lines else ""


def _losses(traffic: Traffic) -> list[str]:
    """What is missing because there was no room for it, one line each."""
    lines = []
    if traffic.latencies_lost:
        lines.append(
            f"{traffic.latencies_lost} latencies found no room in the histograms and are missing in the quantiles."
        )
    if traffic.log_lines_lost:
        lines.append(
            f"{traffic.log_lines_lost} access log lines were lost: their file, pipe or socket did not take them."
        )
    shed = [f"{count} {_SHED_NAMES[what]}" for what, count in traffic.shed.items() if count]
    if shed:
        lines.append(f"given up because the memory budget was used up: {', '.join(shed)}.")
    return lines


def _headline(status: Status) -> str:
    what = "snapshot" if status.store is not None else "revision"
    parts = [f"{what} {status.revision}" + (f" of {status.configuration}" if status.configuration else "")]
    for name, process in (("keeper", status.keeper), ("master", status.master)):
        if process is not None:
            parts.append(f"{name} {process.pid}" if process.alive else f"{name} {process.pid} is gone")
    return ", ".join(parts) + "\n"


def _store(status: Status) -> str:
    """The live store, and what of it is not plainly in force; empty without one."""
    store = status.store
    if store is None:
        return ""
    line = f"store {store.kind}, revision {status.store_revision} in force"
    line += f", {store.behind} behind" if store.behind else ""
    if not store.connected and store.failure:
        line += f"; not connected: {store.failure}"
    lines = [line]
    odd = [f"{count} {state}" for state, count in sorted(status.objects.items()) if count and state in _ODD_STATES]
    if odd:
        lines.append(f"objects not plainly in force: {', '.join(odd)}; see them with: bascule objects")
    if status.freeze is not None:
        lines.append(f"frozen: {status.freeze.reason}")
        lines += [f"    {status.freeze.remedy}"] if status.freeze.remedy else []
    return "\n".join([*lines, ""])


def _upgrade(upgrade: UpgradeStatus) -> str:
    """Which version serves, whether there is a way back, and how the last upgrade ended; empty when nobody said."""
    if not upgrade.generation:
        return ""
    line = f"generation {upgrade.generation}, version {upgrade.version}"
    if upgrade.phase:
        line += f"; an upgrade is under way: {upgrade.phase}"
    if upgrade.resting is not None:
        line += (
            f"; version {upgrade.resting.version} waits for another {upgrade.probation_left_s:.0f} s "
            "(bascule upgrade --back, or --finish)"
        )
    elif upgrade.lost_because:
        line += f"; no way back to the version before: {upgrade.lost_because}"
    lines = [line]
    last = upgrade.last
    if last is not None:
        what = "switch back" if last.kind == "back" else "upgrade"
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.at))
        if last.ok and last.to is not None:
            how = f"from version {last.before.version} to {last.to.version} in {last.took_s:.2f} s: {last.reason}"
        else:
            how = f"failed, nothing changed: {last.failed}"
        lines.append(f"last {what} {at}, {how}")
    return "\n".join([*lines, ""])


def _notes(status: Status) -> str:
    """What an operator should know, one line each; empty when all is well."""
    lines = []
    outcome = status.reload.outcome
    if outcome is not None and not outcome.ok:
        lines.append("the last reload failed; what was in force stays:")
        for problem in outcome.problems:
            place = ":".join(str(part) for part in (problem.file, problem.line) if part)
            lines.append("  " + ": ".join(part for part in (place, problem.message) if part))
            lines += [f"      {problem.remedy}"] if problem.remedy else []
    lines += [text for warning in status.warnings for text in warning.splitlines()[:1]]
    lines += [f"{name} cannot be looked up: {reason}" for name, reason in sorted(status.unresolved.items())]
    lines += [f"worker {death.worker} has died {death.deaths} times: {death.reason}" for death in status.deaths]
    return "\n".join([*lines, ""]) if lines else ""


def _workers_table(status: Status) -> str:
    rows = []
    for worker in status.workers:
        note = worker.refused or ("" if worker.revision == status.revision else "not yet applied")
        rows.append((str(worker.number), str(worker.pid), worker.state, str(worker.revision), note))
    return _table(("worker", "pid", "state", "revision", ""), rows) if rows else ""


def _cells(row: ObjectStatus) -> tuple[str, ...]:
    classes = dict.fromkeys("2345", 0)
    for name, count in row.statuses.items():
        if name[0] in classes:
            classes[name[0]] += count
    latency = row.latency
    quantiles = ("-", "-", "-") if latency is None else (latency.p50_us, latency.p95_us, latency.p99_us)
    errors = ", ".join(f"{reason} {count}" for reason, count in sorted(row.errors.items(), key=lambda item: -item[1]))
    return (
        row.id,
        str(row.requests),
        *(str(count) for count in classes.values()),
        str(row.in_flight),
        *(value if isinstance(value, str) else duration_text(value) for value in quantiles),
        bytes_text(row.bytes_in),
        bytes_text(row.bytes_out),
        errors or "-",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two blanks apart: the first and the last to the left, numbers to the right."""
    lines = [[cell.upper() for cell in header], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    last = len(header) - 1
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def duration_text(us: int) -> str:
    """Microseconds as a person reads them: "830 us", "1.24 ms", "2.50 s"."""
    if us < 1000:
        return f"{us} us"
    return f"{us / 1000:.3g} ms" if us < 999_500 else f"{us / 1e6:.3g} s" if us < 999_500_000 else f"{us / 1e6:.0f} s"


def bytes_text(count: int) -> str:
    """Bytes as a person reads them: "512 B", "1.5 KiB", "3.2 GiB"."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.5 or unit == "TiB":
            return f"{value:.1f} {unit}" if value < 99.5 else f"{value:.0f} {unit}"
    raise AssertionError("unreachable")
