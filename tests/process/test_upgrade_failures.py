"""Upgrades that fail before the commit: whatever fails, the command says it, and what serves is untouched.

One balancer serves all of these tests, under load: a request that one of them lost fails it, and so does a process or a
descriptor that one left behind.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, serves, tree
from process.upgrading import Ordered, Untouched, children, command, order, possessions, receipts, upgrade_state
from process.versions import Version


class Running:
    """The balancer of this module, the version that it runs, and one to upgrade to."""

    def __init__(self, directory: Path, origin: ScriptedOrigin) -> None:
        self.untouched: Untouched
        self.port = free_port()
        self.origin = origin
        self.old = Version(directory / "1.0", "1.0")
        self.new = Version(directory / "1.1", "1.1")
        self.balancer = Balancer(
            directory,
            self.tree(),
            workers=2,
            program=[str(self.old.launcher)],
            arguments=["--drain-timeout", "1s"],
            environment={"PYTHONPATH": ""},
        )
        self.balancer.until_workers(2)

    def tree(self, **more: str) -> dict[str, object]:
        return tree({"web": f"127.0.0.1:{self.port}", **more}, self.origin.address)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, origin: ScriptedOrigin) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("upgrades"), origin)
    with found.balancer:
        yield found


@pytest.fixture
def served(running: Running) -> Iterator[Running]:
    """The same under load, in which no request may fail; with all gates open before and after."""
    running.old.clear()
    running.new.clear()
    address = ("127.0.0.1", running.port)
    churn = Load(address, clients=2, per_connection=1, pause_s=0.01)
    kept = Load(address, clients=2, pause_s=0.01)
    running.untouched = Untouched(running.balancer)
    with running.untouched, churn, kept:
        yield running
        until(lambda: churn.result.requests > 5 and kept.result.requests > 5, "requests")
    assert (churn.result.failures, kept.result.failures) == ({}, {})
    assert upgrade_state(running.balancer)["phase"] == ""


FAULTS = {
    "does not import": ({"importing": "raise"}, "cannot be used: RuntimeError: a fault at importing"),
    "dies when it is asked": ({"asking": "exit"}, "does not start: exit status 7"),
    "is killed when it is asked": ({"asking": "kill"}, "does not start: killed by SIGKILL"),
    "says what is no message": ({"probe": "garbage"}, "the program on disk"),
    "speaks another protocol": ({"probe": "foreign"}, "the program on disk"),
    "refuses the configuration": ({"configuration": "refuse"}, "slots is no setting of this version"),
    "has a master that fails": ({"starting": "raise"}, "the new master cannot take over: a fault at starting"),
    "has a master that dies": ({"starting": "kill"}, "the new master died: killed by SIGKILL"),
    "has workers that die at the start": ({"filling": "exit"}, "died: exit status 7"),
    "has workers that die in the self-test": ({"testing": "kill"}, "died: killed by SIGKILL"),
    "has a master that dies in the self-test": ({"rehearsing": "kill"}, "the new master died: killed by SIGKILL"),
    "has a master that fails in the self-test": ({"rehearsing": "raise"}, "the new master"),
    "routes otherwise": ({"matcher": "otherwise"}, "the self-test failed: worker"),
    "has workers that fail when they are lent": ({"lending": "raise"}, "RuntimeError: a fault at lending"),
    "has workers that die when they are lent": ({"lending": "kill"}, "died: killed by SIGKILL"),
    "has workers that say nonsense": ({"accepting": "malformed"}, "worker"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_version_that(served: Running, fault: str) -> None:
    gates, said = FAULTS[fault]
    served.new.set(**gates)
    receipt = order(served.balancer, program=served.new)["receipt"]
    assert said in receipt["failed"]
    assert receipt["remedy"]
    assert not receipt["ok"]
    assert receipts(served.balancer)[-1]["failed"] == receipt["failed"]


def test_the_command_says_what_failed_and_exits_with_1(served: Running) -> None:
    served.new.set(starting="raise")
    done = command(served.balancer, program=served.new)
    assert done.returncode == 1
    assert "the new master cannot take over: a fault at starting" in done.stderr
    assert "version 1.0, serves on; nothing has changed" in done.stderr


HANGS = ["asking", "starting", "filling", "testing", "rehearsing", "adopting", "lending", "accepting"]
PHASES = {"rehearsing": "testing", "accepting": "lending"}


@pytest.mark.parametrize("place", HANGS)
def test_a_version_that_hangs_at(served: Running, place: str) -> None:
    phase = PHASES.get(place, place)
    served.new.set(**{place: "silent" if place == "accepting" else "hold"})
    served.old.set(**{f"patience_{phase}": "0.6"})
    with_change = {"testing": lambda: served.balancer.reload()} if place == "adopting" else {}
    if place == "adopting":
        served.balancer.write({**served.tree(), "settings": {"upgrade_probation": "99s"}})
    answer = order(served.balancer, program=served.new, at=with_change)
    assert "took longer than 0.6 s" in answer["receipt"]["failed"]


WORKER, MASTER = "worker", "bascule-master"


def killed(served: Running, phase: str, gate: str, kind: str) -> str:
    """Hold an upgrade in a phase, kill one of the candidate's processes, and return what is said of it."""
    before = children(served.balancer.process.pid)
    served.new.set(**{gate: "hold"})
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached(phase)

    def candidate() -> list[int]:
        running = children(served.balancer.process.pid)
        # A worker that waits at its first gate has no name yet.
        return [pid for pid, name in running.items() if pid not in before and (name == MASTER) == (kind == MASTER)]

    os.kill(until(candidate, f"a new {kind}")[0], signal.SIGKILL)
    return str(upgrade.answer()["receipt"]["failed"])


@pytest.mark.parametrize(
    ("phase", "gate"),
    [("starting", "starting"), ("filling", "filling"), ("testing", "testing"), ("lending", "lending")],
)
def test_a_new_master_killed(served: Running, phase: str, gate: str) -> None:
    assert killed(served, phase, gate, MASTER) == "the new master died: killed by SIGKILL"


@pytest.mark.parametrize(
    ("phase", "gate"),
    [("filling", "filling"), ("testing", "testing"), ("testing", "rehearsing"), ("lending", "lending")],
)
def test_a_new_worker_killed(served: Running, phase: str, gate: str) -> None:
    said = killed(served, phase, gate, WORKER)
    assert said.startswith("new worker")
    assert said.endswith("died: killed by SIGKILL")


def test_a_worker_that_stops_in_the_self_test_is_named(served: Running) -> None:
    served.old.set(patience_testing="30")
    before = children(served.balancer.process.pid)
    served.new.set(rehearsing="hold")
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached("testing")
    served.new.until_held("rehearsing")  # so the test has begun: every worker listens
    running = children(served.balancer.process.pid)
    new = [pid for pid, name in running.items() if pid not in before and name != MASTER]
    os.kill(new[0], signal.SIGSTOP)
    served.new.clear("rehearsing")
    assert "no answer: timed out" in upgrade.answer()["receipt"]["failed"]


def test_only_one_upgrade_at_a_time(served: Running) -> None:
    served.new.set(starting="hold")
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached("starting")
    second = command(served.balancer, program=served.new)
    assert second.returncode == 1
    assert "an upgrade is under way: starting the new master" in second.stderr
    served.balancer.signal(signal.SIGUSR2)
    assert order(served.balancer, "back")["reason"].startswith("an upgrade is under way")
    assert order(served.balancer, "finish")["reason"].startswith("an upgrade is under way")
    assert upgrade_state(served.balancer)["phase"] == "starting"
    served.new.set(starting="exit")
    assert "exit status 7" in upgrade.answer()["receipt"]["failed"]


LAUNCHERS = {
    "missing": (None, 0o755, "No such file"),
    "not executable": ("#!/bin/sh\n", 0o644, "Permission denied"),
    "no program": ("\0\0\0\0", 0o755, "cannot be started"),
    "of a missing interpreter": ("#!/no/such/python\n", 0o755, "No such file"),
    "failing": ("#!/bin/sh\nexit 1\n", 0o755, "does not start: exit status 1"),
    "another program": ("#!/bin/sh\necho garbage\n", 0o755, "does not start: exit status 0"),
}


@pytest.mark.parametrize("kind", LAUNCHERS)
def test_a_launcher_that_is(served: Running, tmp_path: Path, kind: str) -> None:
    text, mode, said = LAUNCHERS[kind]
    launcher = tmp_path / "bascule"
    if text is not None:
        launcher.write_text(text)
        launcher.chmod(mode)
    assert said in order(served.balancer, program=str(launcher))["receipt"]["failed"]


def test_the_command_refuses_what_is_no_program(served: Running, tmp_path: Path) -> None:
    done = command(served.balancer, "--program", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "is no program that can be started" in done.stderr


def test_usr2_fails_as_the_command_does(served: Running) -> None:
    served.old.set(importing="raise")  # in place: what USR2 starts is what the balancer was started by
    count = len(receipts(served.balancer))
    served.balancer.signal(signal.SIGUSR2)
    until(lambda: len(receipts(served.balancer)) > count, "the receipt", 20.0)
    assert receipts(served.balancer)[-1]["reason"] == "USR2"
    assert "a fault at importing" in receipts(served.balancer)[-1]["failed"]
    assert 'msg="the upgrade failed; nothing has changed"' in served.balancer.log()


def test_nothing_rests_after_a_failure(served: Running) -> None:
    done = command(served.balancer, "--back")
    assert done.returncode == 1
    assert "no generation rests" in done.stderr
    assert command(served.balancer, "--finish").returncode == 1


def test_a_failure_as_json(served: Running) -> None:
    served.new.set(importing="raise")
    done = command(served.balancer, "--json", program=served.new)
    receipt = json.loads(done.stdout)
    assert (done.returncode, receipt["ok"], receipt["from"]["version"]) == (1, False, "1.0")
    history = json.loads(command(served.balancer, "--history", "--json").stdout)
    assert history[-1] == receipts(served.balancer)[-1]
    assert history[-1]["failed"] == receipt["failed"]


def test_a_change_during_the_phases_is_in_force(served: Running) -> None:
    """HUP and the admin API bring changes into force while a candidate starts, and when it has failed."""
    added = free_port()
    served.new.set(rehearsing="hold")
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached("testing")
    served.balancer.write(served.tree(more=f"127.0.0.1:{added}"))
    count = served.balancer.log().count("msg=reloaded")
    served.balancer.signal(signal.SIGHUP)
    served.balancer.logged("msg=reloaded", count + 1)
    assert serves(added)
    served.new.set(rehearsing="exit")
    assert "exit status 7" in upgrade.answer()["receipt"]["failed"]
    assert serves(added)
    served.balancer.write(served.tree())
    assert served.balancer.reload()[0] == 200
    assert not serves(added)


def test_a_change_waits_while_slots_are_lent_twice(served: Running) -> None:
    added = free_port()
    served.new.set(lending="hold")
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached("lending")
    served.balancer.write(served.tree(more=f"127.0.0.1:{added}"))
    served.balancer.signal(signal.SIGHUP)
    time.sleep(0.3)
    assert not serves(added)
    served.new.set(lending="exit")
    assert "exit status 7" in upgrade.answer()["receipt"]["failed"]
    until(lambda: serves(added), "the change that waited", 15.0)
    served.balancer.write(served.tree())
    assert served.balancer.reload()[0] == 200


def test_a_refused_snapshot(served: Running) -> None:
    served.new.set(snapshots="refuse")
    served.balancer.write({**served.tree(), "settings": {"upgrade_probation": "88s"}})
    answer = order(served.balancer, program=served.new, at={"testing": served.balancer.reload})
    assert "refuses the snapshot in force: it is not to be had" in answer["receipt"]["failed"]


def test_the_active_master_dies_while_it_holds(served: Running) -> None:
    """Its death is as good as its word; and as the upgrade fails, it is replaced."""
    served.new.set(lending="hold")
    upgrade = Ordered(served.balancer, program=served.new)
    upgrade.reached("lending")
    os.kill(served.balancer.status()["master"]["pid"], signal.SIGKILL)
    time.sleep(0.2)
    served.new.set(lending="exit")
    assert "exit status 7" in upgrade.answer()["receipt"]["failed"]
    until(served.balancer.ready, "the next master", 20.0)
    until(lambda: MASTER in children(served.balancer.process.pid).values(), "its name")
    served.untouched.before = possessions(served.balancer.process.pid)
    assert len(served.untouched.before.children) == 3
