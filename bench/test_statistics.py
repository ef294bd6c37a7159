"""What counting costs a worker, and what reading costs the master, at 10,000 objects and four workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bascule.admin.metrics import render_metrics
from bascule.admin.status import build_status, render_text
from bascule.shared.checksum import crc32
from bascule.shared.snapshot import assemble, verify
from bascule.shared.statistics import Directory, Reader, Writer, create

CALLS = 200_000
OBJECTS = 10_000


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = create()
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="module")
def busy() -> Iterator[int]:
    """10,000 servers, each with traffic of five latencies in each of four workers."""
    descriptor = create()
    directory = Directory(descriptor)
    slots = [directory.slot("server", f"backend-{i // 4}/server-{i}") for i in range(OBJECTS)]
    for worker in range(4):
        writer = Writer(descriptor, worker)
        for slot in slots:
            for latency_us, status in [(180, 200), (420, 200), (900, 304), (2100, 404), (40_000, 503)]:
                writer.record(slot, status, latency_us, bytes_in=300, bytes_out=2000, error=5 if status == 503 else 0)
    yield descriptor
    os.close(descriptor)


def test_account_one_exchange(benchmark: BenchmarkFixture, fd: int) -> None:
    """All counters of one object for one exchange, in a compiled loop; read time / 200,000."""
    writer = Writer(fd, 0)
    benchmark.extra_info["calls"] = CALLS
    benchmark(writer.repeat, Directory(fd).slot("frontend", "shop"), CALLS)


def test_give_out_30000_slots(benchmark: BenchmarkFixture) -> None:
    """A first configuration of 10,000 routes: 10,000 frontends, backends and servers. Target: 15 ms of CPU."""
    ids = [(kind, f"{kind}-{i:05d}") for kind in ("frontend", "backend", "server") for i in range(OBJECTS)]
    descriptors = []

    def fresh() -> tuple[tuple[Directory], dict[str, object]]:
        descriptors.append(create())
        return (Directory(descriptors[-1]),), {}

    def give_out(directory: Directory) -> None:
        slot = directory.slot
        for kind, id in ids:
            slot(kind, id)

    benchmark.pedantic(give_out, setup=fresh, rounds=20)
    for descriptor in descriptors:
        os.close(descriptor)


def test_adopt_10000_identities(benchmark: BenchmarkFixture, busy: int) -> None:
    """A new master takes the directory over."""
    assert len(benchmark(Directory, busy)) == OBJECTS


def test_read_10000_objects(benchmark: BenchmarkFixture, busy: int) -> None:
    """Sum four workers, with quantiles."""
    assert len(benchmark(Reader(busy).totals)) == OBJECTS


def test_metrics_of_10000_objects(benchmark: BenchmarkFixture, busy: int) -> None:
    """Read and render for Prometheus."""
    text = benchmark(render_metrics, Reader(busy))
    benchmark.extra_info["bytes"] = len(text)


def test_status_of_10000_objects(benchmark: BenchmarkFixture, busy: int) -> None:
    """Read and render for a terminal."""
    reader = Reader(busy)
    benchmark(lambda: render_text(build_status(reader, [], 1)))


@pytest.mark.parametrize("tables_only", [False, True])
def test_checksum_of_64_mib(benchmark: BenchmarkFixture, tables_only: bool) -> None:
    """With and without the vector instructions."""
    block = os.urandom(64 << 20)
    benchmark(crc32, block, tables_only=tables_only)


def test_verify_an_image_of_200_mb(benchmark: BenchmarkFixture) -> None:
    """A million routes' worth of bytes: what a worker spends before it adopts."""
    image = assemble(1, {8: os.urandom(200_000_000)})
    assert benchmark(verify, image) == 1
