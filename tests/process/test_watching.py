"""Whether a new version is worse than the one before: what is counted, what is compared, and that it is switched back from."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.process.watching import (
    ERRORS_MIN,
    LATENCY_REQUESTS_MIN,
    LOOKS_MIN,
    REQUESTS_MIN,
    Baseline,
    Sight,
    baseline_of,
    worse_errors,
    worse_latency,
)
from bascule.shared.statistics import Directory, Reader, Traffic, Writer, create
from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, serves, tree
from process.upgrading import order, receipts, upgrade_state
from process.versions import Version

NO_ROUTE, NO_SERVER, CONNECT_FAILED, CLIENT_GONE = 4, 5, 8, 14
NOTICED_S = 90.0


class Counted:
    """A statistics region, and what is counted in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.slot = Directory(fd).slot("listener", "web")
        Directory(fd).slot("frontend", "app")
        self.writers = [Writer(fd, worker) for worker in range(4)]

    def count(self, requests: int, *, errors: int = 0, error: int = NO_SERVER, us: int = 1000, worker: int = 0) -> None:
        for number in range(requests):
            self.writers[worker].record(self.slot, 200, us, error=error if number < errors else 0)

    def reader(self) -> Reader:
        return Reader(self.fd, only="listener")

    def traffic(self, **counts: int) -> Traffic:
        before = self.reader().traffic(3)
        self.count(**counts, worker=3)
        return self.reader().traffic(3).since(before)


@pytest.fixture
def counted() -> Iterator[Counted]:
    descriptor = create(workers=4, objects=64)
    yield Counted(descriptor)
    os.close(descriptor)


# ---- numbers


def test_traffic_is_what_one_worker_counted_between_two_moments(counted: Counted) -> None:
    counted.count(100, errors=7, us=1000, worker=1)
    counted.count(50, worker=2)
    reader = counted.reader()
    before = reader.traffic(1)
    assert (before.requests, before.errors) == (100, {"no_server": 7})
    counted.count(300, errors=3, error=CONNECT_FAILED, us=20_000, worker=1)
    after = reader.traffic(1).since(before)
    assert (after.requests, after.errors) == (300, {"connect_failed": 3})
    assert after.quantile_us(0.01) == after.quantile_us(0.99) == pytest.approx(20_000, rel=0.01)
    both = before.plus(after)
    assert both.requests == 400
    assert both.quantile_us(0.25) == pytest.approx(1000, rel=0.01)
    assert both.quantile_us(0.26) == pytest.approx(20_000, rel=0.01)
    assert Traffic().quantile_us(0.99) == 0
    with pytest.raises(ValueError, match="no segment for worker 4"):
        reader.traffic(4)


def test_a_listener_that_is_gone_takes_its_numbers_with_it(counted: Counted) -> None:
    counted.count(10)
    reader = counted.reader()
    before = reader.traffic(0)
    Directory(counted.fd).release("listener", "web")
    assert reader.traffic(0).since(before).requests == 0


def test_one_kind_of_objects_can_be_known_alone(counted: Counted) -> None:
    assert [row.kind for row in counted.reader().totals()] == ["listener"]
    assert [row.kind for row in Reader(counted.fd).totals()] == ["listener", "frontend"]


# ---- judgement

WELL = Baseline(requests=100_000, failed=10, refused=100, p99_us=4000)


@pytest.mark.parametrize(
    ("requests", "errors", "error", "before", "worse"),
    [
        (1000, 200, NO_SERVER, WELL, True),
        (1000, ERRORS_MIN, NO_SERVER, WELL, True),
        (1000, 9, NO_SERVER, WELL, False),  # less than a hundredth
        (REQUESTS_MIN, ERRORS_MIN - 1, NO_SERVER, WELL, False),  # nearly a tenth, of very few
        (REQUESTS_MIN - 1, 100, NO_SERVER, WELL, False),  # idle
        (1000, 200, NO_SERVER, Baseline(requests=REQUESTS_MIN - 1), False),  # idle before
        (1000, 200, NO_SERVER, Baseline(requests=1000, failed=100), False),  # a tenth failed before, too
        (1000, 200, NO_SERVER, Baseline(requests=1000, failed=60), True),
        (1000, 90, NO_ROUTE, WELL, False),  # somebody looks for holes
        (1000, 900, NO_ROUTE, WELL, True),
        (1000, 900, NO_ROUTE, Baseline(requests=1000, refused=400), False),
        (1000, 900, CLIENT_GONE, WELL, False),  # not ours
    ],
)
def test_errors(counted: Counted, requests: int, errors: int, error: int, before: Baseline, worse: bool) -> None:
    assert bool(worse_errors(counted.traffic(requests=requests, errors=errors, error=error), before)) == worse


@pytest.mark.parametrize(
    ("requests", "us", "before_us", "worse"),
    [
        (1000, 100_000, 4000, True),
        (1000, 50_000, 4000, False),  # not so much more that anybody is hurt
        (1000, 100_000, 40_000, False),  # less than three times
        (LATENCY_REQUESTS_MIN - 1, 100_000, 4000, False),
    ],
)
def test_latency(counted: Counted, requests: int, us: int, before_us: int, worse: bool) -> None:
    before = Baseline(requests=10_000, p99_us=before_us)
    assert bool(worse_latency(counted.traffic(requests=requests, us=us), before)) == worse


def test_the_reason_has_the_numbers(counted: Counted) -> None:
    text = worse_errors(counted.traffic(requests=1000, errors=250), WELL)
    assert (
        text
        == "25.0% of 1000 requests were failed by the load balancer itself (no_server 250), 0.01% before the upgrade"
    )
    text = worse_latency(counted.traffic(requests=1000, us=100_000), WELL)
    assert text.startswith("the p99 latency is 9")
    assert text.endswith("ms, it was 4.0 ms before the upgrade")


# ---- windows


def test_only_the_workers_of_this_generation_count(counted: Counted) -> None:
    counted.count(1000, errors=1000, worker=1)  # before
    sight = Sight(counted.reader(), 0.0)
    counted.count(500, errors=500, worker=0)  # of the generation before, which still drains
    counted.count(300, errors=3, worker=1)
    sight.look([1], 10.0, 60.0)
    window = sight.window(3.0, 200)
    assert (window.requests, window.errors) == (300, {"no_server": 3})
    counted.count(100, worker=1)
    sight.look([2], 11.0, 60.0)  # worker 1 died: what it counted stays
    assert sight.window(11.0, 0).requests == 400


def test_the_window_is_the_shortest_that_says_something(counted: Counted) -> None:
    sight = Sight(counted.reader(), 0.0)
    for second in range(1, 101):
        counted.count(10 * second)
        sight.look([0], float(second), 60.0)
    assert sight.window(3.0, 200).requests == 1000 + 990 + 980
    assert sight.window(3.0, 4000).requests == 1000 + 990 + 980 + 970 + 960
    assert sight.window(3.0, 100_000).requests == 0
    assert sight.window(60.0, 0).requests == sum(10 * second for second in range(41, 101))
    assert sight.window(61.0, 0).requests == 0  # forgotten


def test_the_baseline_is_of_the_last_minutes_or_of_all_time(counted: Counted) -> None:
    counted.count(5000, errors=500)
    sight = Sight(counted.reader(), 0.0)
    sight.look([0], 1.0, 600.0)
    assert sight.baseline() == baseline_of(counted.reader().traffic(0))
    counted.count(1000, errors=1)
    sight.look([0], 2.0, 600.0)
    assert sight.baseline().requests == 1000
    assert sight.baseline().failed == 1


# ---- real generations


class Running:
    """A balancer under load, which has a past to be compared with."""

    def __init__(self, directory: Path, document: dict[str, Any], port: int) -> None:
        self.directory = directory
        self.port = port
        self.balancer = Balancer(directory, document, workers=2)

    def load(self, clients: int, pause_s: float = 0.005) -> Load:
        return Load(("127.0.0.1", self.port), clients=clients, pause_s=pause_s)

    def upgrade(self, load: Load, patches: dict[str, str]) -> None:
        """Upgrade to a version with these faults, when there is enough to compare it with."""
        until(lambda: load.result.requests > 2 * REQUESTS_MIN, "what the new version is measured by", 30.0)
        version = Version(self.directory / "2", "2.0", patches)
        answer = order(self.balancer, program=version, probation_ms=600_000)
        assert answer["receipt"]["ok"], answer

    def back(self) -> dict[str, Any]:
        """Return the receipt of the switch back that comes by itself."""
        return until(
            lambda: [receipt for receipt in receipts(self.balancer) if receipt["kind"] == "back"],
            f"a switch back; the log:\n{self.balancer.log()}",
            NOTICED_S,
            0.1,
        )[0]


@pytest.fixture
def running(tmp_path: Path, origin: ScriptedOrigin) -> Iterator[Running]:
    port = free_port()
    found = Running(tmp_path, tree({"web": f"127.0.0.1:{port}"}, origin.address), port)
    with found.balancer:
        yield found


@pytest.mark.timeout(240)
def test_a_version_that_fails_requests_is_switched_back_from(running: Running) -> None:
    """It cannot read the snapshot in force, and loses the servers when it makes its own."""
    document = json.loads(running.balancer.config.read_text())
    document["backends"]["app"]["servers"] = {}
    lost = running.directory / "lost.json"
    lost.write_text(json.dumps(document))
    faults = {
        "process/standby.py": "def _snapshot_is_readable(master):\n    return False\n",
        "process/configuration.py": f"""
_load = load
def load(options):
    return _load({{**options, "config": {str(lost)!r}}})
""",
    }
    with running.load(clients=4) as load:
        running.upgrade(load, faults)
        back = running.back()
        until(lambda: serves(running.port), "the version before", 20.0)
    assert back["ok"]
    assert back["reason"].startswith("the new version is worse: ")
    assert "no_server" in back["reason"]
    assert (back["from"]["version"], back["to"]["generation"]) == ("2.0", 1)
    assert set(load.result.failures) == {"status 503"}
    assert load.result.failures.total() >= ERRORS_MIN
    assert "the new version is worse than the one before" in running.balancer.log()


@pytest.mark.timeout(240)
def test_a_version_that_is_slow_is_switched_back_from(running: Running) -> None:
    """How slow is said after the upgrade: four times as slow as this machine was before."""
    pause = running.directory / "pause_s"
    faults = {
        "process/worker.py": f"""
_tick = Worker.tick
def _slow_tick(self):
    wait_s = _tick(self)
    try:
        with open({str(pause)!r}) as file:
            pause_s = float(file.read())
    except FileNotFoundError:
        return wait_s
    time.sleep(pause_s)
    return min(wait_s, 0.01)
Worker.tick = _slow_tick
"""
    }
    with running.load(clients=64, pause_s=0.1) as load:
        running.upgrade(load, faults)
        before_s = upgrade_state(running.balancer)["baseline"]["p99_us"] / 1e6
        new = pause.with_suffix(".new")
        new.write_text(str(4 * before_s + 0.1))
        new.rename(pause)
        back = running.back()
    assert back["ok"]
    assert "the p99 latency is" in back["reason"]
    assert not load.result.failures


@pytest.mark.timeout(240)
def test_a_version_under_which_as_much_fails_as_before_stays(running: Running) -> None:
    broken = tree({"web": f"127.0.0.1:{running.port}"}, "127.0.0.1:1")
    running.balancer.write(broken)
    assert running.balancer.reload()[0] == 200
    with running.load(clients=4) as load:
        until(lambda: load.result.failures.total() > 4 * REQUESTS_MIN, "what the new version is measured by", 30.0)
        running.upgrade(load, {})
        began_s, began = time.monotonic(), load.result.requests
        until(
            lambda: time.monotonic() - began_s > LOOKS_MIN + 4 and load.result.requests - began > 2 * REQUESTS_MIN,
            "as many looks as it would take",
            30.0,
        )
    assert upgrade_state(running.balancer)["resting"] is not None
    assert [receipt["kind"] for receipt in receipts(running.balancer)] == ["upgrade"]
