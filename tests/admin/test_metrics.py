"""The Prometheus text against prometheus_client's own parser."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from bascule.admin.metrics import render_metrics
from bascule.admin.status import WorkerStatus
from bascule.shared.statistics import Directory, Reader, Writer, create


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = create(workers=4, objects=256)
    yield descriptor
    os.close(descriptor)


def parse(text: str) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family appears twice"
    return {family.name: family for family in families}


def samples(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


def test_empty_region_gives_a_valid_text(fd: int) -> None:
    text = render_metrics(Reader(fd))
    assert text.endswith("\n")
    assert set(parse(text)) == {"bascule_config_revision"}


def test_every_kind_has_its_labels_and_types(fd: int) -> None:
    directory, writer = Directory(fd), Writer(fd, 2)
    for kind, id in [("listener", "web"), ("frontend", "shop"), ("backend", "app"), ("server", "app/a1")]:
        slot = directory.slot(kind, id)
        writer.record(slot, 200, 900, bytes_in=5, bytes_out=70)
        writer.record(slot, 404, 2_000_000, error=4)
        writer.record(slot, 599, 40_000)
        writer.gauges(slot, in_flight=2, connections_open=3)
    families = parse(render_metrics(Reader(fd), revision=7, workers=[WorkerStatus(2, 99, revision=6)]))
    for kind, labels in [
        ("listener", (("listener", "web"),)),
        ("frontend", (("frontend", "shop"),)),
        ("backend", (("backend", "app"),)),
        ("server", (("backend", "app"), ("server", "a1"))),
    ]:
        prefix = f"bascule_{kind}_"
        assert samples(families[prefix + "requests"]) == {(prefix + "requests_total", labels): 3}
        assert samples(families[prefix + "received_bytes"]) == {(prefix + "received_bytes_total", labels): 5}
        assert samples(families[prefix + "sent_bytes"]) == {(prefix + "sent_bytes_total", labels): 70}
        assert families[prefix + "requests_in_flight"].type == "gauge"
        assert samples(families[prefix + "requests_in_flight"]) == {(prefix + "requests_in_flight", labels): 2}
        codes = {sample.labels["code"]: sample.value for sample in families[prefix + "responses"].samples}
        assert codes == {"200": 1, "404": 1, "5xx": 1}
        reasons = {sample.labels["reason"]: sample.value for sample in families[prefix + "errors"].samples}
        assert reasons == {"no_route": 1}
        assert (prefix + "connections_open" in families) == (kind in ("listener", "server"))
        histogram = families[prefix + "request_duration_seconds"]
        assert histogram.type == "histogram"
        buckets = {s.labels["le"]: s.value for s in histogram.samples if s.name.endswith("_bucket")}
        assert [buckets[le] for le in ("0.0005", "0.001", "0.025", "0.05", "1", "2.5", "+Inf")] == [0, 1, 1, 2, 2, 3, 3]
        totals = {s.name.rsplit("_", 1)[1]: s.value for s in histogram.samples if not s.name.endswith("_bucket")}
        assert totals == {"sum": pytest.approx(2.0409), "count": 3}
    assert samples(families["bascule_config_revision"]) == {("bascule_config_revision", ()): 7}
    assert families["bascule_worker_config_revision"].samples[0].value == 6
    assert families["bascule_worker_starts"].samples[0].labels == {"worker": "2"}


def test_label_values_are_escaped(fd: int) -> None:
    id = 'a"b\\c\nd'
    Directory(fd).slot("frontend", id)
    families = parse(render_metrics(Reader(fd)))
    assert families["bascule_frontend_requests"].samples[0].labels == {"frontend": id}
