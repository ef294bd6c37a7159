"""Upgrades that fail before the commit: whatever fails, the command says it, and what serves is untouched.

One balancer serves all of these tests, under load: a request that one of them lost fails it, and so does a process or a
descriptor that one left behind.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, tree
from process.upgrading import Ordered, Untouched, children, command, order, receipts, upgrade_state
from process.versions import Version


class Running:
    """The balancer of this module, the version that it runs, and one to upgrade to."""

    def __init__(self, directory: Path, origin: ScriptedOrigin) -> None:
        self.port = free_port()
        self.origin = origin
        self.old = Version(directory / "1.0", "1.0")
        self.new = Version(directory / "1.1", "1.1")
        self.balancer = Balancer(
            directory, self.tree(), workers=2, program=[str(self.old.launcher)], environment={"PYTHONPATH": ""}
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
    with Untouched(running.balancer), churn, kept:
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
    done = command(served.balancer, program=served.new)
    assert done.returncode == 1
    assert said in done.stderr
    assert "version 1.0, serves on; nothing has changed" in done.stderr
    assert receipts(served.balancer)[-1]["ok"] is False
    assert served.balancer.process.poll() is None


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
