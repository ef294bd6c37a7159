"""Statistics: every count arrives, quantiles have two digits, slots keep their identity over masters and crashes."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Iterator

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.shared.region import RegionError
from bascule.shared.statistics import (
    LATENCY_BOUNDS_US,
    STATUS_CODES,
    Directory,
    DirectoryFull,
    Reader,
    Writer,
    create,
)

from .processes import Child

HOUR_US = 3_600_000_000


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = create(workers=4, objects=1024)
    yield descriptor
    os.close(descriptor)


def allocated_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def total(fd: int, kind: str, id: str):  # type: ignore[no-untyped-def]
    found = Reader(fd).total(kind, id)
    assert found is not None
    return found


# ---- counting ----


def test_counts_are_summed_over_workers(fd: int) -> None:
    directory = Directory(fd)
    slot, other = directory.slot("frontend", "shop"), directory.slot("backend", "shop")
    writers = [Writer(fd, worker) for worker in range(4)]
    for worker, writer in enumerate(writers):
        writer.record(slot, 200, 100, bytes_in=10, bytes_out=1000)
        writer.record(slot, 404, 100 * worker, bytes_in=1, error=4)
        writer.gauges(slot, in_flight=worker, connections_open=2)
    row = total(fd, "frontend", "shop")
    assert (row.requests, row.bytes_in, row.bytes_out) == (8, 44, 4000)
    assert row.statuses == {200: 4, 404: 4}
    assert row.errors == {"no_route": 4}
    assert (row.in_flight, row.connections, row.connections_open) == (6, 8, 8)
    assert (row.latency_count, row.latency_sum_us, row.mean_us, row.max_us) == (8, 1000, 125.0, 300 - 300 % 4 + 1)
    assert total(fd, "backend", "shop").requests == 0
    assert other != slot


def test_what_was_never_counted_for_can_be_left_out(fd: int) -> None:
    directory, reader = Directory(fd), Reader(fd)
    slots = [directory.slot("frontend", f"f{number}") for number in range(200)]
    Writer(fd, 1).record(slots[130], 200, 100)
    Writer(fd, 3).record(slots[5], 200, 100)
    assert len(reader) == len(reader.totals()) == 200
    assert {row.id for row in reader.totals(touched=True)} == {"f130", "f5"}


def test_statuses_fall_into_registered_codes_or_their_class(fd: int) -> None:
    slot = Directory(fd).slot("listener", "web")
    writer = Writer(fd, 0)
    expected: dict[int, int] = {}
    for status in [*range(700), 2**32 - 1]:
        writer.record(slot, status)
        key = status if status in STATUS_CODES[6:] else status // 100 if 100 <= status < 600 else 0
        expected[key] = expected.get(key, 0) + 1
    assert total(fd, "listener", "web").statuses == expected
    assert len(STATUS_CODES) <= 64


def test_slots_out_of_range_are_harmless(fd: int) -> None:
    writer = Writer(fd, 3)
    for slot in (1024, 2**31, 2**32 - 1):
        writer.record(slot, 200, 5)
    assert Reader(fd).totals() == []


# ---- histogram ----


def exact_quantile(values: list[int], quantile: float) -> int:
    ordered = sorted(values)
    return ordered[max(1, math.ceil(quantile * len(ordered))) - 1]


LATENCIES = st.one_of(st.integers(0, 200), st.integers(0, 10_000), st.integers(1, HOUR_US))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(LATENCIES, max_size=40), min_size=1, max_size=4).filter(any))
def test_quantiles_over_workers_agree_with_the_values_and_with_hdrhistogram(parts: list[list[int]]) -> None:
    fd = create(workers=4, objects=8)
    try:
        slot = Directory(fd).slot("server", "a/1")
        reference = HdrHistogram(1, HOUR_US, 2)
        for worker, values in enumerate(parts):
            Writer(fd, worker).latencies(slot, values)
            for value in values:
                reference.record_value(max(1, value))
        row = total(fd, "server", "a/1")
    finally:
        os.close(fd)
    merged = [value for values in parts for value in values]
    assert row.latency_count == len(merged)
    assert row.latency_sum_us == sum(merged)
    for quantile, measured in [
        (0.5, row.p50_us),
        (0.75, row.p75_us),
        (0.95, row.p95_us),
        (0.99, row.p99_us),
        (0.999, row.p999_us),
        (1.0, row.max_us),
    ]:
        expected = exact_quantile(merged, quantile)
        assert measured == pytest.approx(expected, rel=0.008), quantile
        rank = max(1, math.ceil(quantile * len(merged)))
        hdr = reference.get_value_at_percentile(100 * rank / len(merged))
        assert max(1, measured) == pytest.approx(hdr, rel=0.016), quantile
    for bound, count in zip(LATENCY_BOUNDS_US, row.cumulative, strict=True):
        assert sum(v <= bound * 0.984 for v in merged) <= count <= sum(v <= bound * 1.016 for v in merged)


def test_small_values_are_exact_and_large_ones_clamp(fd: int) -> None:
    directory, writer = Directory(fd), Writer(fd, 0)
    for value in (0, 1, 63, 64, 127):
        slot = directory.slot("server", f"b/{value}")
        writer.latencies(slot, [value])
        assert total(fd, "server", f"b/{value}").max_us == value
    slot = directory.slot("server", "b/huge")
    writer.latencies(slot, [2**63, 2**64 - 1])
    assert total(fd, "server", "b/huge").max_us == pytest.approx(2**39, rel=0.008)


def test_an_exhausted_octave_pool_is_reported_not_ignored() -> None:
    fd = create(workers=1, objects=100)
    try:
        directory, writer, reader = Directory(fd), Writer(fd, 0), Reader(fd)
        wide = [1 << bit for bit in range(5, 39)]
        for i in range(100):
            writer.latencies(directory.slot("frontend", str(i)), wide)
        segment = reader.segments()[0]
        rows = reader.totals()
        assert segment.octaves_used == segment.octaves_max == 1424
        assert segment.latency_lost == sum(row.latency_lost for row in rows) > 0
        assert {row.latency_count + row.latency_lost for row in rows} == {len(wide)}
        assert {row.mean_us for row in rows} == {sum(wide) / len(wide)}
    finally:
        os.close(fd)


def test_renewed_blocks_give_their_octaves_back() -> None:
    fd = create(workers=1, objects=1)
    try:
        directory, writer = Directory(fd, reuse_delay_s=0), Writer(fd, 0)
        pool = Reader(fd).segments()[0].octaves_max
        slot = directory.slot("frontend", "f")
        writer.latencies(slot, [1])
        # A slot that changes hands for ever never uses the pool up.
        for turn in range(2 * pool):
            directory.release("frontend", "f")
            slot = directory.slot("frontend", "f")
            writer.latencies(slot, [1, 70 << (turn % 20)])
        row = total(fd, "frontend", "f")
        assert (row.latency_count, row.latency_lost) == (2, 0)
        assert Reader(fd).segments()[0].octaves_used <= 4
    finally:
        os.close(fd)


# ---- identity ----


def test_slots_are_stable_and_dense(fd: int) -> None:
    directory = Directory(fd)
    slots = {(kind, f"o{i}"): directory.slot(kind, f"o{i}") for kind in ("frontend", "backend") for i in range(100)}
    assert sorted(slots.values()) == list(range(200))
    assert all(directory.slot(*key) == slot for key, slot in slots.items())
    successor = Directory(fd)
    assert len(successor) == 200
    assert all(successor.slot(*key) == slot for key, slot in slots.items())
    assert successor.slot("listener", "new") == 200


def test_unknown_kinds_and_ids_are_refused(fd: int) -> None:
    directory = Directory(fd)
    with pytest.raises(ValueError, match="unknown kind 'route': use listener"):
        directory.slot("route", "x")
    with pytest.raises(KeyError, match="no frontend 'x'"):
        directory.release("frontend", "x")
    with pytest.raises(ValueError, match="5000 bytes"):
        directory.slot("frontend", "x" * 5000)
    assert directory.slot("frontend", "ü" * 100) >= 0
    assert Reader(fd).totals()[0].id == "ü" * 100


def test_reused_slots_never_show_the_old_numbers(fd: int) -> None:
    directory, reader = Directory(fd, reuse_delay_s=0), Reader(fd)
    writers = [Writer(fd, worker) for worker in range(3)]
    slot = directory.slot("frontend", "old")
    for writer in writers:
        writer.record(slot, 500, 1234, bytes_in=5, error=8)
    directory.release("frontend", "old")
    assert reader.totals() == []
    assert directory.slot("frontend", "new") == slot
    row = reader.total("frontend", "new")
    assert row is not None
    assert (row.requests, row.statuses, row.errors, row.latency_count, row.max_us) == (0, {}, {}, 0, 0)
    writers[1].record(slot, 200, 10)
    row = reader.total("frontend", "new")
    assert row is not None
    assert (row.requests, row.statuses, row.errors, row.latency_count, row.max_us) == (1, {200: 1}, {}, 1, 10)


def test_a_slot_rests_while_anything_is_in_flight(fd: int) -> None:
    directory, writer = Directory(fd, reuse_delay_s=0), Writer(fd, 2)
    busy = directory.slot("server", "a/1")
    writer.gauges(busy, in_flight=1)
    directory.release("server", "a/1")
    assert directory.slot("server", "a/2") != busy
    writer.gauges(busy, in_flight=-1)
    assert directory.slot("server", "a/3") == busy


def test_a_slot_rests_for_the_delay_also_under_the_next_master(fd: int) -> None:
    directory = Directory(fd, reuse_delay_s=3600)
    slot = directory.slot("server", "a/1")
    directory.release("server", "a/1")
    assert directory.slot("server", "a/2") != slot
    successor = Directory(fd, reuse_delay_s=3600)
    assert successor.slot("server", "a/3") == 2
    assert Directory(fd, reuse_delay_s=0).slot("server", "a/4") == slot


def test_a_full_directory_reuses_early_and_then_says_what_to_do() -> None:
    fd = create(workers=1, objects=10)
    try:
        directory = Directory(fd, reuse_delay_s=3600)
        for i in range(10):
            directory.slot("backend", str(i))
        directory.release("backend", "7")
        assert directory.slot("backend", "again") == 7
        with pytest.raises(DirectoryFull, match="all 10 statistics slots are taken: restart with a larger region"):
            directory.slot("backend", "more")
    finally:
        os.close(fd)


def test_the_log_is_compacted_under_a_reader(fd: int) -> None:
    directory, reader = Directory(fd, reuse_delay_s=0), Reader(fd)
    kept = {f"kept-{i}": directory.slot("frontend", f"kept-{i}") for i in range(50)}
    # Each round logs 12 + 12 + 28 bytes; one half of the log holds 1024 * 128.
    for i in range(10_000):
        directory.slot("backend", f"passing-{i:016d}")
        directory.release("backend", f"passing-{i:016d}")
        if i % 997 == 0:
            assert {row.id: row.slot for row in reader.totals()} == kept
    assert {row.id: row.slot for row in reader.totals()} == kept
    successor = Directory(fd, reuse_delay_s=0)
    assert {id: slot for _, id, slot in successor.items()} == kept
    assert successor.retain([("frontend", "kept-3")]) == 49
    assert [row.id for row in reader.totals()] == ["kept-3"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["slot", "release", "count", "adopt"]), st.integers(0, 12)), max_size=120))
def test_directory_and_counts_follow_a_plain_model(steps: list[tuple[str, int]]) -> None:
    fd = create(workers=1, objects=16)
    try:
        directory, reader, writer = Directory(fd, reuse_delay_s=0), Reader(fd), Writer(fd, 0)
        model: dict[str, int] = {}
        for action, number in steps:
            id = f"object-{number}"
            if action == "slot":
                directory.slot("backend", id)
                model.setdefault(id, 0)
            elif action == "release" and id in model:
                directory.release("backend", id)
                del model[id]
            elif action == "count" and id in model:
                writer.record(directory.slot("backend", id), 200, number)
                model[id] += 1
            elif action == "adopt":
                directory = Directory(fd, reuse_delay_s=0)
        assert {row.id: row.requests for row in reader.totals()} == model
        assert {row.id: row.latency_count for row in reader.totals()} == model
    finally:
        os.close(fd)


# ---- memory ----


def test_untouched_pages_cost_nothing() -> None:
    fd = create()
    try:
        directory = Directory(fd)
        for i in range(1000):
            directory.slot("frontend", f"frontend-{i}")
        writer = Writer(fd, 63)
        writer.record(directory.slot("frontend", "frontend-999"), 200, 300)
        Writer(fd, 63)
        Writer(fd, 62)
        assert len(Reader(fd).totals()) == 1000
        assert allocated_bytes(fd) < 400_000
    finally:
        os.close(fd)


def test_an_object_takes_at_most_sixty_bytes_of_log() -> None:
    fd = create()
    try:
        directory = Directory(fd)
        before = allocated_bytes(fd)
        for i in range(30_000):
            directory.slot("server", f"backend-{i:06d}/server-{i:06d}")
        assert (allocated_bytes(fd) - before) / 30_000 < 60
    finally:
        os.close(fd)


# ---- damage ----


def test_foreign_and_cut_regions_are_refused(fd: int) -> None:
    other = os.memfd_create("other")
    try:
        with pytest.raises(RegionError, match="is empty"):
            Writer(other, 0)
        os.ftruncate(other, 1 << 20)
        for opened in (lambda: Writer(other, 0), lambda: Reader(other), lambda: Directory(other)):
            with pytest.raises(RegionError, match="no statistics region"):
                opened()
        os.pwrite(other, os.pread(fd, 4096, 0), 0)
        with pytest.raises(RegionError, match="cut or its header was overwritten"):
            Writer(other, 0)
    finally:
        os.close(other)
    with pytest.raises(RegionError, match="no segment"):
        Writer(fd, 4)
    os.pwrite(fd, b"\x09", 8)
    with pytest.raises(RegionError, match="layout that this version does not know"):
        Writer(fd, 0)


# ---- several processes ----


def count_many(fd: int, worker: int, slots: list[int], rounds: int) -> int:
    writer = Writer(fd, worker)
    rng = random.Random(worker)
    for _ in range(rounds):
        for slot in slots:
            writer.record(slot, rng.choice([200, 404, 503]), rng.randrange(1, 100_000), bytes_in=3, bytes_out=7)
    return worker


def count_then_hang(fd: int, worker: int, slot: int) -> None:
    writer = Writer(fd, worker)
    writer.record(slot, 200, 500)
    writer.gauges(slot, in_flight=5, connections_open=9)
    print("counted", flush=True)
    sys.stdin.read()


def test_processes_write_while_a_reader_reads(fd: int) -> None:
    directory, reader = Directory(fd), Reader(fd)
    slots = [directory.slot("server", f"pool/{i}") for i in range(20)]
    children = [Child(__name__, "count_many", fd, worker, slots, 3000) for worker in range(3)]
    last = dict.fromkeys(slots, 0)
    deadline = time.monotonic() + 60
    while any(child.process.poll() is None for child in children):
        for row in reader.totals():
            assert row.requests >= last[row.slot]
            last[row.slot] = row.requests
            assert abs(row.latency_count - row.requests) <= 10
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [child.result() for child in children] == [0, 1, 2]
    for row in reader.totals():
        assert row.requests == sum(row.statuses.values()) == row.latency_count == 9000
        assert (row.bytes_in, row.bytes_out) == (27_000, 63_000)
    assert [segment.worker for segment in reader.segments()] == [0, 1, 2]


def test_a_killed_worker_leaves_its_counters_and_not_its_gauges(fd: int) -> None:
    directory, reader = Directory(fd), Reader(fd)
    slot = directory.slot("listener", "web")
    child = Child(__name__, "count_then_hang", fd, 1, slot)
    assert child.line() == "counted"
    child.kill()
    row = reader.total("listener", "web")
    assert row is not None
    assert (row.in_flight, row.connections_open, row.requests) == (5, 9, 1)
    Writer(fd, 1)
    row = reader.total("listener", "web")
    assert row is not None
    assert (row.in_flight, row.connections_open, row.connections, row.requests) == (0, 0, 9, 1)
    assert reader.segments()[0].opened == 2
