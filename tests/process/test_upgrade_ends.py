"""Upgrades where something else comes in between: the keeper is told to end, runs out of descriptors, versions crash, or the
files of the program are replaced under it. Each test has a balancer of its own, which does not live to be used again."""

import contextlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.waiting import until
from process.balancer import Balancer, gone, serves, tree
from process.live import LiveBalancer
from process.upgrading import Ordered, children, command, order, possessions, receipts, upgrade_state
from process.versions import SOURCE, Version


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return Version(tmp_path_factory.mktemp("versions") / "1.0", "1.0")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return Version(tmp_path_factory.mktemp("versions") / "1.1", "1.1")


@pytest.fixture
def begin(
    tmp_path: Path, origin: ScriptedOrigin, port: int, old: Version, new: Version
) -> Iterator[Callable[..., Balancer]]:
    """Start a balancer with one worker, or as `options` say; ended after the test."""
    old.clear()
    new.clear()
    running: list[Balancer] = []

    def beginner(kind: type[Balancer] = Balancer, **options: object) -> Balancer:
        directory = tmp_path / "balancer"
        directory.mkdir()
        settings = {"workers": 1, "program": [str(old.launcher)], "environment": {"PYTHONPATH": ""}, **options}
        given = (
            (directory,) if kind is LiveBalancer else (directory, tree({"web": f"127.0.0.1:{port}"}, origin.address))
        )
        running.append(kind(*given, **settings))  # type: ignore[arg-type]
        return running[-1]

    yield beginner
    for balancer in running:
        balancer.__exit__(None, None, None)


def ended(balancer: Balancer, before: set[int]) -> None:
    """The keeper ends in order, and so does everybody that it ever started."""
    assert balancer.wait() == 0
    until(lambda: all(gone(pid) for pid in before), "the end of every process")


ENDS = {
    "asking": "asking",
    "starting": "starting",
    "filling": "filling",
    "testing": "rehearsing",
    "lending": "accepting",
}


@pytest.mark.parametrize("phase", ENDS)
def test_term_while_a_candidate_is_(begin: Callable[..., Balancer], new: Version, phase: str) -> None:
    balancer = begin()
    gate = ENDS[phase]
    new.set(**{gate: "silent" if gate == "accepting" else "hold"})
    upgrade = Ordered(balancer, program=new)
    upgrade.reached(phase)
    pids = set(children(balancer.process.pid))
    balancer.signal(signal.SIGTERM)
    ended(balancer, pids)
    answer = upgrade.answer()
    assert answer["type"] == "closed" or "is being stopped" in answer["receipt"]["failed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_during_the_probation(begin: Callable[..., Balancer], new: Version, number: int) -> None:
    balancer = begin()
    assert order(balancer, program=new)["receipt"]["ok"]
    pids = set(children(balancer.process.pid))
    assert len(pids) == 4
    balancer.signal(number)
    ended(balancer, pids)


def test_term_while_the_old_master_lets_go(begin: Callable[..., Balancer], old: Version, new: Version) -> None:
    balancer = begin()
    old.set(letting_go="hold")
    upgrade = Ordered(balancer, program=new)
    upgrade.reached("taking over")
    pids = set(children(balancer.process.pid))
    balancer.signal(signal.SIGTERM)
    ended(balancer, pids)


def test_a_master_that_followed_a_killed_one_lets_go_before_it_has_begun(
    begin: Callable[..., Balancer], old: Version, new: Version
) -> None:
    """It is told to hold before its first reload, which then waits for an end of the hold that never comes."""
    balancer = begin()
    new.set(rehearsing="hold")
    upgrade = Ordered(balancer, program=new)
    upgrade.reached("testing")
    old.set(attaching="hold")
    os.kill(balancer.status()["master"]["pid"], signal.SIGKILL)
    balancer.logged("master died")

    def masters() -> int:
        return list(children(balancer.process.pid).values()).count("bascule-master")

    until(lambda: masters() == 2, "the one that follows, beside the candidate's", 20.0)
    new.clear("rehearsing")
    upgrade.reached("holding")
    old.clear("attaching")
    receipt = upgrade.answer()["receipt"]
    assert receipt["ok"], receipt["failed"]
    until(balancer.ready, "the new master", 20.0)
    assert "does not let go" not in balancer.log()
    assert upgrade_state(balancer)["resting"] is not None


def test_an_old_master_that_does_not_let_go_is_killed(
    begin: Callable[..., Balancer], old: Version, new: Version, port: int
) -> None:
    balancer = begin()
    old.set(letting_go="hold", **{"patience_taking over": "0.5"})
    receipt = order(balancer, program=new)["receipt"]
    assert receipt["ok"]
    until(balancer.ready, "the new master", 20.0)
    assert serves(port)
    until(lambda: upgrade_state(balancer)["resting"] is None, "no way back", 20.0)


def test_the_old_master_dies_while_it_lets_go(begin: Callable[..., Balancer], old: Version, new: Version) -> None:
    balancer = begin()
    old.set(letting_go="kill")
    assert order(balancer, program=new)["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    assert len(children(balancer.process.pid)) >= 2


def test_no_way_back_to_a_generation_whose_master_died_before_the_commit(
    begin: Callable[..., Balancer], new: Version, port: int
) -> None:
    """It has nobody to take charge."""
    balancer = begin()
    new.set(lending="hold")
    upgrade = Ordered(balancer, program=new)
    upgrade.reached("lending")
    master = balancer.status()["master"]["pid"]
    os.kill(master, signal.SIGKILL)
    until(lambda: gone(master), "the end of the master")
    new.clear("lending")
    assert upgrade.answer()["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    assert order(balancer, "back")["type"] == "failed"
    assert "its master died" in upgrade_state(balancer)["lost_because"]
    assert serves(port)


def test_back_although_the_master_hangs(begin: Callable[..., Balancer], old: Version, new: Version) -> None:
    balancer = begin()
    assert order(balancer, program=new)["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    old.set(patience_holding="0.5")
    os.kill(balancer.status()["master"]["pid"], signal.SIGSTOP)
    receipt = order(balancer, "back")["receipt"]
    assert receipt["ok"]
    until(balancer.ready, "the old master", 20.0)
    assert upgrade_state(balancer)["version"] == "1.0"


def test_a_version_that_crashes_is_switched_back_from(begin: Callable[..., Balancer], new: Version, port: int) -> None:
    balancer = begin(workers=2)
    before = balancer.until_workers(2)
    assert order(balancer, program=new)["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    for _ in range(2):
        deaths = balancer.log().count('msg="worker died"')
        pids = until(lambda: balancer.until_workers(2), "two workers", 20.0)
        os.kill(max(pids.values()), signal.SIGKILL)
        balancer.logged('msg="worker died"', deaths + 1)
    until(lambda: upgrade_state(balancer)["version"] == "1.0", "the version before", 20.0)
    until(balancer.ready, "its master", 20.0)
    assert balancer.until_workers(2) == before
    assert serves(port)
    last = until(lambda: [r for r in receipts(balancer) if r["kind"] == "back"], "the receipt", 20.0)[-1]
    assert last["ok"]
    assert last["reason"].startswith("the new version crashes: worker")


def test_out_of_descriptors(begin: Callable[..., Balancer], new: Version, port: int) -> None:
    """Whatever is left for a keeper to open, an upgrade succeeds, or fails with a reason, and never ends the keeper."""
    balancer = begin()
    before = balancer.until_workers(1)
    keeper = balancer.process.pid
    limits = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
    owned = possessions(keeper)
    highest = max(int(entry) for entry in os.listdir(f"/proc/{keeper}/fd"))
    said = set()
    with Load(("127.0.0.1", port), clients=2, per_connection=1, pause_s=0.01) as load:
        for spare in (0, 1, 2, 5, 20, 30):
            resource.prlimit(keeper, resource.RLIMIT_NOFILE, (highest + 1 + spare, limits[1]))
            answer = order(balancer, program=new)
            assert answer["type"] == "failed", answer
            said.add(answer["reason"])
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, limits)
        assert "the keeper has as many files open as it may" in said
        assert any("more files, and an upgrade needs" in reason for reason in said)
        until(lambda: possessions(keeper) == owned, "as many descriptors as before")
        assert balancer.until_workers(1) == before
        assert order(balancer, program=new)["receipt"]["ok"]
    assert load.result.failures == {}


def test_a_link_to_the_version_in_use_is_moved(
    begin: Callable[..., Balancer], tmp_path: Path, old: Version, new: Version, port: int
) -> None:
    current = tmp_path / "current"
    current.symlink_to(old.directory)
    balancer = begin(program=[str(current / "bin" / "bascule")])
    (tmp_path / "next").symlink_to(new.directory)
    (tmp_path / "next").rename(current)
    # Whoever dies before the upgrade is replaced by its own version, wherever the link leads by now.
    os.kill(balancer.until_workers(1)[0], signal.SIGKILL)
    balancer.logged('msg="worker died"')
    pid = until(lambda: balancer.until_workers(1), "the replacement")[0]
    assert str(old.directory) in Path(f"/proc/{pid}/environ").read_text()
    with Load(("127.0.0.1", port), clients=2, pause_s=0.01) as load:
        done = command(balancer)
        assert done.returncode == 0, done.stderr
    assert load.result.failures == {}
    assert "version 1.0 -> 1.1" in done.stdout
    balancer.signal(signal.SIGUSR2)  # the same once more: the link leads to 1.1
    until(lambda: len(receipts(balancer)) == 2, "the second receipt", 30.0)
    assert receipts(balancer)[-1]["to"]["version"] == "1.1"


def test_files_are_replaced_in_place(begin: Callable[..., Balancer], tmp_path: Path, port: int) -> None:
    """As `pip install --upgrade` does; started by `python -m bascule` at that."""
    site = tmp_path / "site"
    shutil.copytree(SOURCE, site / "bascule", ignore=shutil.ignore_patterns("*.so"), symlinks=True)
    for library in SOURCE.rglob("*.so"):
        (site / "bascule" / library.relative_to(SOURCE)).symlink_to(library)
    balancer = begin(program=[sys.executable, "-m", "bascule"], environment={"PYTHONPATH": str(site)})
    version = upgrade_state(balancer)["version"]
    package = site / "bascule" / "__init__.py"
    package.unlink()
    package.write_text('__version__ = "9.9"\n')
    with Load(("127.0.0.1", port), clients=2, pause_s=0.01) as load:
        balancer.signal(signal.SIGUSR2)
        until(lambda: receipts(balancer), "the receipt", 30.0)
    assert load.result.failures == {}
    receipt = receipts(balancer)[-1]
    assert (receipt["from"]["version"], receipt["to"]["version"], receipt["reason"]) == (version, "9.9", "USR2")


def live_tree(live: LiveBalancer, port: int, origin: ScriptedOrigin) -> None:
    live.apply(tree({"web": f"127.0.0.1:{port}"}, origin.address))
    until(lambda: serves(port), "the configuration in force")


@pytest.mark.parametrize("layout", ["known", "unknown"])
def test_a_live_store(
    begin: Callable[..., Balancer], new: Version, port: int, origin: ScriptedOrigin, layout: str
) -> None:
    """Changes go on in all phases; a server that is removed in the probation is unknown to those that come back."""
    live = begin(LiveBalancer, workers=2)
    assert isinstance(live, LiveBalancer)
    live_tree(live, port, origin)
    with contextlib.ExitStack() as stack:
        leaving = stack.enter_context(ScriptedOrigin())
        live.put("backends/app/servers/b1", {"url": f"http://{leaving.address}"})
        load = stack.enter_context(Load(("127.0.0.1", port), clients=3, pause_s=0.01))
        if layout == "unknown":
            new.set(snapshot="unknown")
        new.set(rehearsing="hold")
        upgrade = Ordered(live, program=new)
        upgrade.reached("testing")
        live.put("backends/app", {"connect_timeout": "3s"})
        live.remove("backends/app/servers/b1")
        leaving.stop()
        new.clear("rehearsing")
        receipt = upgrade.answer()["receipt"]
        assert receipt["ok"], receipt["failed"]
        assert receipt["regions_restarted"] == (["snapshot"] if layout == "unknown" else [])
        until(live.ready, "the new master", 20.0)
        with ScriptedOrigin() as second:
            live.put("backends/app/servers/b2", {"url": f"http://{second.address}"})
            until(lambda: second.requests, "a request to the new server", 20.0)
            live.remove("backends/app/servers/b2")
        assert order(live, "back")["receipt"]["ok"]
        until(live.ready, "the old master", 20.0)
        live.put("backends/app", {"connect_timeout": "4s"})
    assert load.result.failures == {}
    assert load.result.statuses.total() > 50
    assert set(load.result.statuses) == {200}


def test_a_switch_back_that_failed_leaves_a_way_back_that_is_watched(
    begin: Callable[..., Balancer], old: Version, new: Version, port: int
) -> None:
    """The generation that rests again loses its master: there is no way back to it, as after any other loss."""
    balancer = begin()
    assert order(balancer, program=new)["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    left_s = upgrade_state(balancer)["probation_left_s"]
    resting = {pid for pid, name in children(balancer.process.pid).items() if name == "bascule-master"}
    resting -= {balancer.status()["master"]["pid"]}
    old.set(lending="hold", patience_lending="0.5")
    receipt = order(balancer, "back")["receipt"]
    assert "took longer than 0.5 s" in receipt["failed"]
    old.clear("lending")
    state = upgrade_state(balancer)
    assert state["resting"]["version"] == "1.0"
    assert state["probation_left_s"] <= left_s
    os.kill(resting.pop(), signal.SIGKILL)
    until(lambda: upgrade_state(balancer)["resting"] is None, "no way back", 20.0)
    assert "its master died" in upgrade_state(balancer)["lost_because"]
    assert order(balancer, "back")["type"] == "failed"
    assert serves(port)


def test_a_switch_back_does_not_wait_long_for_a_master_that_hangs(
    begin: Callable[..., Balancer], new: Version, port: int
) -> None:
    balancer = begin()
    assert order(balancer, program=new)["receipt"]["ok"]
    until(balancer.ready, "the new master", 20.0)
    os.kill(balancer.status()["master"]["pid"], signal.SIGSTOP)
    receipt = order(balancer, "back")["receipt"]
    assert receipt["ok"]
    assert receipt["phases_s"]["holding"] < 30
    assert serves(port)


def test_the_receipt_says_what_the_old_workers_did_and_not_what_they_were_given_before(
    begin: Callable[..., Balancer], new: Version, port: int
) -> None:
    with Load(("127.0.0.1", port), clients=4, pause_s=0.05) as load:
        balancer = begin()
        until(lambda: load.result.statuses.total() > 8, "requests", 20.0)
        given = order(balancer, program=new)["receipt"]["connections"]
        back = order(balancer, "back")["receipt"]["connections"]
        assert given["handed_over_idle"] >= 4
        assert back["handed_over_idle"] >= 4
        assert "inherited" not in given.keys() | back.keys()
        assert order(balancer, program=new)["receipt"]["master_in_charge"] is True


def test_usr2_that_is_not_obeyed_is_in_the_log(begin: Callable[..., Balancer], new: Version) -> None:
    balancer = begin()
    new.set(starting="hold")
    upgrade = Ordered(balancer, program=new)
    upgrade.reached("starting")
    balancer.signal(signal.SIGUSR2)
    balancer.logged('msg="USR2 is not obeyed" reason="an upgrade is under way')
    new.set(starting="exit")
    assert not upgrade.answer()["receipt"]["ok"]


def test_a_damaged_history_is_shown_as_far_as_it_can_be_read(begin: Callable[..., Balancer]) -> None:
    balancer = begin()
    assert order(balancer, program="/no/such")["receipt"]["failed"]
    path = balancer.state / "upgrades.jsonl"
    path.write_bytes(b"\xff\xfe\n{}\n" + path.read_bytes())
    done = command(balancer, "--history")
    assert done.returncode == 0
    assert "upgrade failed" in done.stdout
    assert done.stderr.count("a damaged receipt is left out") == 2


def test_a_program_of_another_kind_after_one_that_was_python_m(begin: Callable[..., Balancer], tmp_path: Path) -> None:
    """The keeper became that one by execve; where it finds its modules is not where the next program finds its own."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "bascule").symlink_to(SOURCE)
    balancer = begin(program=[sys.executable, "-m", "bascule"], environment={"PYTHONPATH": str(site)})
    assert order(balancer, probation_ms=0)["receipt"]["ok"]
    balancer.logged("the keeper is another version now")
    probe = tmp_path / "probe"
    seen = tmp_path / "seen"
    probe.write_text(f"#!/bin/sh\nprintenv PYTHONPATH > {seen}\nexit 3\n")
    probe.chmod(0o755)
    assert not order(balancer, program=str(probe))["receipt"]["ok"]
    assert seen.read_text().strip() == str(site)
