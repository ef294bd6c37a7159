"""The status document and its text."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import pytest

from bascule.admin.status import (
    Status,
    WorkerStatus,
    build_status,
    build_traffic,
    bytes_text,
    duration_text,
    render_text,
)
from bascule.shared.statistics import Directory, Reader, Writer, create


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = create(workers=4, objects=256)
    yield descriptor
    os.close(descriptor)


def sample(fd: int) -> Status:
    directory, writer = Directory(fd), Writer(fd, 0)
    directory.slot("listener", "web")
    shop, server = directory.slot("frontend", "shop"), directory.slot("server", "app/a1")
    for status, latency_us, error in [(200, 900, 0), (204, 950, 0), (301, 10, 0), (404, 70, 0), (503, 1_500_000, 5)]:
        for slot in (shop, server):
            writer.record(slot, status, latency_us, bytes_in=100, bytes_out=2000, error=error)
    writer.gauges(server, in_flight=3)
    workers = [WorkerStatus(0, 100, "serving", 7), WorkerStatus(1, 101, "serving", 6)]
    return build_status(Reader(fd), workers, 7)


def test_json_says_everything_and_decodes_again(fd: int) -> None:
    status = sample(fd)
    document = msgspec.json.decode(msgspec.json.encode(status))
    shop = document["traffic"]["frontends"][0]
    assert shop["statuses"] == {"200": 1, "204": 1, "301": 1, "404": 1, "503": 1}
    assert shop["errors"] == {"no_server": 1}
    assert shop["latency"]["p50_us"] == pytest.approx(900, rel=0.008)
    assert document["traffic"]["listeners"][0]["latency"] is None
    assert document["traffic"]["servers"][0]["in_flight"] == 3
    assert msgspec.json.decode(msgspec.json.encode(document | {"ready": True}), type=Status) == status


def test_text_is_a_table_of_what_counts(fd: int) -> None:
    lines = render_text(sample(fd)).splitlines()
    assert lines[0] == "revision 7"
    worker = next(line for line in lines if line.startswith("1 "))
    assert " ".join(worker.split()) == "1 101 serving 6 not yet applied"
    header = next(line for line in lines if line.startswith("SERVER"))
    row = next(line for line in lines if line.startswith("app/a1"))
    assert " ".join(header.split()) == "SERVER REQUESTS 2XX 3XX 4XX 5XX IN FLIGHT P50 P95 P99 IN OUT ERRORS"
    assert " ".join(row.split()) == "app/a1 5 2 1 1 1 3 899 us 1.5 s 1.5 s 500 B 9.8 KiB no_server 1"
    idle = next(line for line in lines if line.startswith("web"))
    assert idle.split() == ["web", "0", "0", "0", "0", "0", "0", "-", "-", "-", "0", "B", "0", "B", "-"]


def test_text_begins_with_what_is_wrong() -> None:
    document = {
        "revision": 3,
        "configuration": "/etc/bascule.toml",
        "keeper": {"pid": 10, "alive": False},
        "master": {"pid": 11, "started_at": 1.5},
        "warnings": ["f:1: frontends.a: warning: the same route\n    remedy"],
        "unresolved": {"app.internal": "Name or service not known"},
        "deaths": [{"worker": 1, "pid": 12, "reason": "killed by SIGKILL", "deaths": 3, "at": 2.5, "restart_in_ms": 400}],
        "reload": {"count": 1, "at": 3.5, "outcome": {
            "ok": False, "changed": False, "revision": 3,
            "problems": [{"message": "unknown field 'x'", "remedy": "remove it", "path": ["x"], "file": "f", "line": 9}],
        }},
    }  # fmt: skip
    assert render_text(msgspec.convert(document, Status, strict=False)).splitlines() == [
        "revision 3 of /etc/bascule.toml, keeper 10 is gone, master 11",
        "",
        "the last reload failed; what was in force stays:",
        "  f:9: unknown field 'x'",
        "      remove it",
        "f:1: frontends.a: warning: the same route",
        "app.internal cannot be looked up: Name or service not known",
        "worker 1 has died 3 times: killed by SIGKILL",
    ]


def test_text_of_a_live_store() -> None:
    document = {
        "revision": 4,
        "store_revision": 17,
        "store": {"kind": "etcd", "place": "http://e/bascule", "connected": False, "failure": "no answer", "behind": 2},
        "objects": {"waiting": 1, "quarantined": 0, "held": 3, "stored": 50},
        "freeze": {"by": "gate", "reason": "another cluster", "since_s": 1.0, "remedy": "look first"},
        "servers": {
            "standings": [
                {"backend": "app", "server": "a1", "state": "unhealthy", "share": 0, "reason": "connection refused"},
                {"backend": "app", "server": "a2", "state": "ramping", "share": 0.25, "reason": ""},
            ],
            "ignored_checks": ["old"],
            "departed": [
                {"backend": "app", "server": "a4", "how": "left", "draining": True, "at_s": 1.0, "url": "http://h"},
                {"backend": "app", "server": "a5", "how": "left", "draining": False, "at_s": 1.0, "url": "http://h"},
            ],
        },
    }
    assert render_text(msgspec.convert(document, Status, strict=False)).splitlines() == [
        "snapshot 4",
        "",
        "store etcd, revision 17 in force, 2 behind; not connected: no answer",
        "objects not plainly in force: 3 held, 1 waiting; see them with: bascule objects",
        "frozen: another cluster",
        "    look first",
        "",
        "backend old: every server fails its health check, so the check is ignored",
        "app/a1 unhealthy: connection refused",
        "app/a2 ramping, 25% of its weight",
        "app/a4 left, draining",
        "app/a5 left",
    ]


def test_nothing_yet(fd: int) -> None:
    assert render_text(build_status(Reader(fd), [], 0)) == "revision 0\n"
    assert build_traffic(Reader(fd)).frontends == ()


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0 us"), (999, "999 us"), (1240, "1.24 ms"), (999_499, "999 ms"), (999_500, "1 s"), (3_600_000_000, "3600 s")],
)
def test_durations(us: int, text: str) -> None:
    assert duration_text(us) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1024**2 - 1, "1.0 MiB"), (5 * 1024**5, "5120 TiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text
