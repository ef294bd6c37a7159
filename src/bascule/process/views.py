"""What the master shows of itself: the status document and the metrics."""

from __future__ import annotations

import asyncio
import os
import time

from bascule.admin.metrics import render_metrics
from bascule.admin.status import Traffic, WorkerStatus, build_traffic
from bascule.process.server_metrics import server_metrics
from bascule.process.upgrade_views import metrics_part, receipts_of, state_of, status_part
from bascule.shared.statistics import Reader
from bascule.store.interface import Store, Translator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.process.control import Control
    from bascule.process.pipeline import Pipeline
    from bascule.process.publisher import Publisher, WorkerView

TRANSLATION_MAX = 100


async def status_document(control: Control) -> dict[str, Any]:
    """Return the status document: bascule.admin.status.Status, and how the processes are."""
    master, publisher, reloader = control.master, control.master.publisher, control.reloader
    async with control.summing:
        traffic = await asyncio.to_thread(_traffic, master.regions[0])
    workers = [_worker_status(worker, publisher) for _, worker in sorted(publisher.workers.items())]
    document = {
        "revision": publisher.revision,
        "workers": workers,
        "traffic": traffic,
        "ready": master.ready,
        "configuration": master.in_force.origin if master.in_force else "",
        "warnings": [
            *(warning.render() for warning in (master.in_force.warnings if master.in_force else ())),
            *publisher.problems(),
            *(_translation(control.pipeline.store) if control.pipeline is not None else ()),
        ],
        "unresolved": control.resolver.failures(),
        "published_at": publisher.published_s,
        "lagging": publisher.lagging(),
        "workers_wanted": master.workers_wanted,
        "deaths": [death for _, death in sorted(publisher.deaths.items())],
        "keeper": {"pid": master.keeper_pid, "alive": master.keeper is not None},
        "master": {"pid": os.getpid(), "started_at": control.started_at},
        "listeners": master.listening,
        "reload": {"count": reloader.count, "at": reloader.last_at, "outcome": reloader.last_outcome},
    }
    document["upgrade"] = status_part(state_of(master), await asyncio.to_thread(receipts_of, master))
    document["servers"] = control.servers.document()
    if control.pipeline is not None:
        document.update(_store_document(control.pipeline))
        document["configuration"] = control.pipeline.store.place
    return document


async def metrics_document(control: Control) -> bytes:
    """Return the statistics for Prometheus. Rendered by a thread: the time grows with the number of objects, and changes
    and acknowledgements do not wait for it."""
    publisher = control.master.publisher
    workers = [
        WorkerStatus(number, worker.pid, worker.state, worker.revision, worker.refused)
        for number, worker in sorted(publisher.workers.items())
    ]
    async with control.summing:
        rendered = await asyncio.to_thread(_metrics, control.master.regions[0], publisher.revision, workers)
    rendered += metrics_part(state_of(control.master), await asyncio.to_thread(receipts_of, control.master))
    rendered += server_metrics(control.servers.lifecycles).encode()
    return rendered if control.pipeline is None else rendered + _live_metrics(control.pipeline).encode()


def _translation(store: Store) -> list[str]:
    """Return what a store that translates could not put into our words, the first TRANSLATION_MAX of it."""
    found = store.problems() if isinstance(store, Translator) else ()
    shown = [problem.render() for problem in found[:TRANSLATION_MAX]]
    more = len(found) - len(shown)
    return [*shown, f"and {more} more of the store's objects: bascule import vulcand lists all"] if more else shown


def _objects(pipeline: Pipeline) -> dict[str, int]:
    table = pipeline.table
    return {**table.counts(), "held": len(pipeline.gates.held), "stored": len(table.ledger)}


def _store_document(pipeline: Pipeline) -> dict[str, Any]:
    following = pipeline.following
    return {
        "store": {
            "kind": pipeline.store.kind,
            "place": pipeline.store.place,
            "identity": pipeline.table.identity,
            "connected": bool(following.connected_s),
            "connected_since": following.connected_s,
            "failure": following.failure,
            "revision": following.seen,
            "behind": max(following.seen - pipeline.revision, 0),
            "silent_ms": round((time.monotonic() - following.heard_s) * 1000) if following.heard_s else None,
            "reconnects": following.reconnects,
        },
        "store_revision": pipeline.revision,
        "objects": _objects(pipeline),
        "freeze": pipeline.gates.freeze_state(),
        "last_good": pipeline.guard.last_good.status(),
        "reconciliation": None if pipeline.guard.reconciler is None else pipeline.guard.reconciler.status,
    }


def _live_metrics(pipeline: Pipeline) -> str:
    return pipeline.metrics.render(
        objects=_objects(pipeline),
        reconnects=pipeline.following.reconnects,
        connected=bool(pipeline.following.connected_s),
        revision=pipeline.revision,
        frozen=pipeline.gates.freeze_state() is not None,
    )


def _worker_status(worker: WorkerView, publisher: Publisher) -> dict[str, Any]:
    """Return what bascule.admin.status.WorkerStatus has, and what the worker itself last reported."""
    report = worker.report
    return {
        "number": worker.number,
        "pid": worker.pid,
        "state": worker.state,
        "revision": worker.revision,
        "refused": worker.refused,
        "applied_at": worker.applied_s,
        "lag_ms": _lag_ms(worker, publisher),
        "slots": report.get("slots", 0),
        "engine": report.get("engine", {}),
        "live_objects": report.get("live_objects", {}),
    }


def _lag_ms(worker: WorkerView, publisher: Publisher) -> float:
    """Return how long the worker took for the snapshot in force; how long it has been taking, when it has not got it."""
    until_s = worker.applied_s if worker.revision >= publisher.revision else time.time()
    return round(max(until_s - publisher.published_s, 0.0) * 1000, 3)


def _traffic(statistics_fd: int) -> Traffic:
    return build_traffic(Reader(statistics_fd))


def _metrics(statistics_fd: int, revision: int, workers: list[WorkerStatus]) -> bytes:
    return render_metrics(Reader(statistics_fd), revision=revision, workers=workers).encode()
