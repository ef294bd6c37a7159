"""Upgrades that succeed, switching back, and probation; every one of them under load, of which no request may fail."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.client import get
from kit.load import Load, Result
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, gone, serves, tree
from process.upgrading import Ordered, children, command, order, receipts, upgrade_state
from process.versions import Version

VERSIONS = ("1.0", "1.1")


class Running:
    """The balancer of this module, and the versions it may run."""

    def __init__(self, directory: Path, origin: ScriptedOrigin) -> None:
        self.port = free_port()
        self.origin = origin
        self.versions = {name: Version(directory / name, name) for name in VERSIONS}
        self.balancer = Balancer(
            directory,
            self.tree(),
            workers=2,
            program=[str(self.versions["1.0"].launcher)],
            arguments=["--drain-timeout", "2s"],
            environment={"PYTHONPATH": ""},
        )
        self.balancer.until_workers(2)

    def tree(self, **servers: str) -> dict[str, Any]:
        found = tree({"web": f"127.0.0.1:{self.port}"}, self.origin.address)
        found["frontends"]["limited"] = {
            "route": "Path(`/limited`)",
            "backend": "app",
            "middlewares": {"rl": {"type": "rate_limit", "requests": 1, "period": "1h", "burst": 1}},
        }
        for name, address in servers.items():
            found["backends"]["app"]["servers"][name] = {"url": f"http://{address}"}
        return found

    def version(self) -> str:
        return str(upgrade_state(self.balancer)["version"])

    def other(self) -> Version:
        """Return the version that does not serve."""
        return next(version for name, version in self.versions.items() if name != self.version())

    def upgraded(self, **options: Any) -> dict[str, Any]:
        """Upgrade to the version that does not serve and return the receipt."""
        receipt: dict[str, Any] = order(self.balancer, program=self.other(), **options)["receipt"]
        assert receipt["ok"], receipt["failed"]
        return receipt

    def back(self) -> dict[str, Any]:
        receipt: dict[str, Any] = order(self.balancer, "back")["receipt"]
        assert receipt["ok"], receipt
        return receipt

    def requests_counted(self) -> int:
        """Return how many requests the statistics have seen on the one frontend."""
        until(self.balancer.ready, "a master", 20.0)
        text = self.balancer.request("GET", "/metrics")[1].decode()
        return sum(
            int(n) for n in re.findall(r'^bascule_frontend_requests_total\{frontend="app".*\} (\d+)', text, re.M)
        )

    def limited(self) -> int:
        """Return the status of a request to the route that lets one an hour through."""
        return int(get(("127.0.0.1", self.port), "/limited").status)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, origin: ScriptedOrigin) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("upgrades"), origin)
    with found.balancer:
        yield found


class Traffic:
    """New connections all the time, and connections that are kept; no request of either may fail."""

    def __init__(self, port: int) -> None:
        address = ("127.0.0.1", port)
        self.churn = Load(address, clients=2, per_connection=1, pause_s=0.01)
        self.kept = Load(address, clients=3, pause_s=0.01)

    def __enter__(self) -> "Traffic":
        self.churn.start()
        self.kept.start()
        return self

    def more(self) -> None:
        """Wait until some more requests have been answered."""
        before = [self._answered(load) for load in (self.churn, self.kept)]
        until(
            lambda: all(self._answered(load) > n + 10 for load, n in zip((self.churn, self.kept), before, strict=True)),
            "more answers",
            20.0,
        )

    @staticmethod
    def _answered(load: Load) -> int:
        return load.result.statuses.total()

    def __exit__(self, *error: object) -> None:
        results: list[Result] = [self.churn.stop(), self.kept.stop()]
        if error[0] is None:
            assert [result.failures for result in results] == [{}, {}]


@pytest.fixture
def served(running: Running) -> Iterator[Running]:
    """The same under load, with nothing resting and all gates open before."""
    open_gates(running)
    if upgrade_state(running.balancer)["resting"]:
        order(running.balancer, "finish")
    with Traffic(running.port) as traffic:
        traffic.more()
        yield running
        traffic.more()
    assert upgrade_state(running.balancer)["phase"] == ""


def open_gates(running: Running) -> None:
    for version in running.versions.values():
        version.clear()


def workers(running: Running) -> dict[int, int]:
    return until(lambda: running.balancer.worker_pids() if running.balancer.ready() else {}, "a master", 20.0)


def test_one_version_after_another(served: Running) -> None:
    keeper, counted, seen = served.balancer.process.pid, served.requests_counted(), set[int]()
    for _ in range(3):
        wanted = served.other().version
        receipt = served.upgraded()
        pids = set(workers(served).values()) | {served.balancer.status()["master"]["pid"]}
        assert len(pids) == 3
        assert not seen & pids
        seen |= pids
        assert (receipt["to"]["version"], served.version()) == (wanted, wanted)
        assert receipt["slots"] == 24
        assert receipt["self_test_requests"] >= 2
        before, counted = counted, served.requests_counted()
        assert counted > before
    assert served.balancer.process.pid == keeper
    assert served.balancer.process.poll() is None
    assert len([receipt for receipt in receipts(served.balancer) if receipt["ok"]]) == 3
    assert served.limited() in {200, 429}


def test_what_the_command_prints(served: Running) -> None:
    done = command(served.balancer, "--probation", "90s", program=served.other())
    assert done.returncode == 0, done.stderr
    assert "the new workers answer test requests" in done.stderr
    assert re.search(r"upgrade done in [\d.]+ s: version 1\.\d -> 1\.\d, generation \d+ -> \d+", done.stdout)
    assert "slots        24, none closed" in done.stdout
    status = command(served.balancer, "--status").stdout
    assert "waits for another" in status
    assert 0 < json.loads(command(served.balancer, "--status", "--json").stdout)["probation_left_s"] <= 90
    history = command(served.balancer, "--history").stdout
    assert "(bascule upgrade)" in history.splitlines()[-1]
    back = command(served.balancer, "--back", "--json", "--reason", "it was a try")
    receipt = json.loads(back.stdout)
    assert (back.returncode, receipt["kind"], receipt["reason"]) == (0, "back", "it was a try")
    status = command(served.balancer, "--status").stdout
    assert "serves, version" in status
    assert "waits for another" not in status


def test_new_workers_have_imported_all_they_need_before_they_serve(served: Running) -> None:
    """What a worker does beside requests delays them: importing its second loop was a p99 of five times the usual."""
    keeper = served.balancer.process.pid
    before, mapped = set(children(keeper)), list[bool]()

    def look() -> None:
        new = [pid for pid, name in children(keeper).items() if pid not in before and name.startswith("bascule-work")]
        mapped.extend("/uvloop/loop." in Path(f"/proc/{pid}/maps").read_text() for pid in new)

    served.upgraded(at={"testing": look})
    assert mapped == [True, True]


def test_a_version_that_does_not_know_how_to_settle_first(served: Running) -> None:
    served.other().set(settling="unknown")
    served.upgraded()


def test_back_is_to_the_processes_that_waited(served: Running) -> None:
    before = workers(served)
    master = served.balancer.status()["master"]["pid"]
    served.balancer.write(served.tree(again=served.origin.address))
    assert served.balancer.reload()[0] == 200  # by the master: the keeper knows what its workers had at their start
    served.upgraded()
    assert not set(workers(served).values()) & set(before.values())
    receipt = served.back()
    assert receipt["committed_after_s"] < 10
    assert workers(served) == before
    assert served.balancer.status()["master"]["pid"] == master
    answer = order(served.balancer, "back")
    assert (answer["type"], answer["reason"]) == ("failed", "no generation rests")


def test_back_after_a_change_made_in_between(served: Running) -> None:
    """A server is removed and stopped while the old workers rest: they know of it before they serve."""
    with ScriptedOrigin() as leaving:
        served.balancer.write(served.tree(b1=leaving.address))
        assert served.balancer.reload()[0] == 200
        served.upgraded()
        until(served.balancer.ready, "the new master")
        served.balancer.write(served.tree())
        until(lambda: served.balancer.reload()[0] == 200, "the change")
    served.back()
    assert [serves(served.port) for _ in range(20)] == [True] * 20


def test_finish_ends_the_probation(served: Running) -> None:
    old = workers(served)
    served.upgraded()
    assert order(served.balancer, "finish")["type"] == "finished"
    until(lambda: all(gone(pid) for pid in old.values()), "the old workers' end", 20.0)
    assert upgrade_state(served.balancer)["resting"] is None
    assert order(served.balancer, "finish")["type"] == "failed"
    assert order(served.balancer, "back")["type"] == "failed"


@pytest.mark.parametrize("probation_ms", [0, 300])
def test_without_a_probation_and_after_it_the_old_ones_end(served: Running, probation_ms: int) -> None:
    old = workers(served)
    served.upgraded(probation_ms=probation_ms)
    until(lambda: all(gone(pid) for pid in old.values()), "the old workers' end", 20.0)
    assert upgrade_state(served.balancer)["resting"] is None


def test_a_failed_upgrade_leaves_the_way_back(served: Running) -> None:
    old = workers(served)
    served.upgraded()
    serving = served.version()
    served.other().set(starting="raise")
    answer = order(served.balancer, program=served.other())
    assert answer["receipt"]["ok"] is False
    assert upgrade_state(served.balancer)["resting"] is not None
    served.back()
    assert served.version() != serving
    assert workers(served) == old


def test_no_way_back_when_one_that_rests_is_killed(served: Running) -> None:
    old = workers(served)
    served.upgraded()
    os.kill(old[min(old)], signal.SIGKILL)
    until(lambda: upgrade_state(served.balancer)["resting"] is None, "no way back", 20.0)
    assert "there is no way back to the generation before" in served.balancer.log()
    said = command(served.balancer, "--status").stdout
    assert re.search(r"no way back to the version before: its worker \d+ died: killed by SIGKILL", said)
    assert order(served.balancer, "back")["reason"] == "no generation rests"
    until(lambda: all(gone(pid) for pid in old.values()), "the end of the rest", 20.0)


def test_regions_of_another_layout_begin_anew_alone(served: Running) -> None:
    if served.limited() == 200:
        assert served.limited() == 429
    counted = served.requests_counted()
    served.other().set(verdicts="unknown")
    assert served.upgraded()["regions_restarted"] == ["verdicts"]
    assert served.requests_counted() > counted
    assert served.limited() == 429

    open_gates(served)
    served.other().set(limits="unknown")
    counted = served.requests_counted()
    receipt = served.upgraded()
    assert receipt["regions_restarted"] == ["limits"]
    assert served.requests_counted() > counted
    assert (served.limited(), served.limited()) == (200, 429)
    assert "begins anew" in served.balancer.log()

    open_gates(served)
    served.other().set(statistics="unknown")
    before = served.requests_counted()
    assert served.upgraded()["regions_restarted"] == ["statistics", "snapshot"]
    assert served.requests_counted() < before
    assert served.limited() == 429
    served.back()  # to workers that have the old regions still
    assert served.requests_counted() >= before


def test_a_snapshot_that_is_not_understood_is_compiled_anew(served: Running) -> None:
    served.other().set(snapshot="unknown")
    counted = served.requests_counted()
    assert served.upgraded()["regions_restarted"] == ["snapshot"]
    assert served.requests_counted() > counted
    with ScriptedOrigin() as more:
        until(served.balancer.ready, "the new master")
        served.balancer.write(served.tree(b1=more.address))
        assert until(lambda: served.balancer.reload()[0] == 200, "a change")
        until(lambda: serves(served.port) and more.requests, "a request there")
        served.balancer.write(served.tree())
        assert served.balancer.reload()[0] == 200
    served.other().set(starting="raise")  # an upgrade that fails in between changes nothing about what is understood
    assert not order(served.balancer, program=served.other())["receipt"]["ok"]
    served.back()


def test_worker_count_changes_meanwhile(served: Running) -> None:
    served.other().set(starting="hold")
    upgrade = Ordered(served.balancer, program=served.other())
    upgrade.reached("starting")
    served.balancer.signal(signal.SIGTTIN)
    served.balancer.logged("the number of workers stays as it is")
    open_gates(served)
    assert upgrade.answer()["receipt"]["ok"]
    served.balancer.signal(signal.SIGTTIN)
    until(lambda: len(workers(served)) == 3, "three workers", 20.0)
    served.back()
    until(lambda: len(workers(served)) == 3, "three workers of the version before", 20.0)
    served.balancer.signal(signal.SIGTTOU)
    until(lambda: len(workers(served)) == 2, "two workers", 20.0)
