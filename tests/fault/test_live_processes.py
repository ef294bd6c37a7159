"""Processes that die in the middle of a change: no request fails, and the change comes into force all the same."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fault.live import Site
from kit.etcd import Etcd
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until

HOOKS = Path(__file__).parent / "hooks"
STEPS = [
    ["before batch", "before gates", "after objects", "before compile"],
    ["after compile", "before publish", "after workers", "after publish"],
    ["before note", "after note", "after gates", "before objects"],
]
LISTENER_STEPS = ["before bind", "after bind", "before lend", "after lend", "before unbind", "after unbind"]


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd() as running:
        yield running


class Faulty:
    """A site whose processes die, once, at the step that is written into a file."""

    def __init__(self, site: Site, step: Path) -> None:
        self.site = site
        self._step = step

    def arm(self, step: str) -> None:
        """Have the next process that comes to this step die there."""
        new = self._step.with_suffix(".new")
        new.write_text(step)
        new.rename(self._step)

    def until_struck(self) -> None:
        """Wait until it has."""
        until(lambda: not self._step.exists(), f"{self._step}: log:\n{self.site.balancer.log()[-2000:]}", 30, 0.01)


@contextmanager
def faulty(etcd: Etcd, origin: ScriptedOrigin, directory: Path) -> Iterator[Faulty]:
    etcd.delete("--prefix", "/bascule")
    step = directory / "step"
    path = os.pathsep.join([str(HOOKS), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path.rstrip(os.pathsep), "FAULT_STEP": str(step)}
    with Site(etcd, directory / "node", origin, environment=environment) as site:
        yield Faulty(site, step)


@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: steps[0])
def test_the_master_killed_in_each_step(etcd: Etcd, origin: ScriptedOrigin, tmp_path: Path, steps: list[str]) -> None:
    with faulty(etcd, origin, tmp_path) as running:
        site = running.site
        for number, step in enumerate(steps):
            before = site.master_pid()
            running.arm(step)
            site.put(f"frontends/first-{number}", {"route": f"Path(`/first-{number}`)", "backend": "app"})
            running.until_struck()
            # What its successor finds is not what it died of.
            site.put(f"frontends/second-{number}", {"route": f"Path(`/second-{number}`)", "backend": "app"})
            site.until_code(f"/first-{number}", 200)
            site.until_code(f"/second-{number}", 200)
            site.more()
            until(lambda before=before: _master(site) not in (0, before), "another master", 30, 0.05)  # type: ignore[misc]
            _all_at_one_revision(site)
        assert [worker["state"] for worker in site.status()["workers"]] == ["serving"] * 2


def test_the_master_killed_in_each_step_of_a_listener(etcd: Etcd, origin: ScriptedOrigin, tmp_path: Path) -> None:
    with faulty(etcd, origin, tmp_path) as running:
        site = running.site
        for step in LISTENER_STEPS:
            port = free_port()
            if "unbind" not in step:
                running.arm(step)
            site.put("listeners/more", {"address": f"127.0.0.1:{port}"})
            if "unbind" not in step:
                running.until_struck()
            until(lambda port=port: site.code("/", port) == 200, f"{step}: the new listener", 40, 0.05)  # type: ignore[misc]
            if "unbind" in step:
                running.arm(step)
            site.etcd.delete("/bascule/listeners/more")
            if "unbind" in step:
                running.until_struck()
            until(lambda port=port: site.code("/", port) == 0, f"{step}: its end", 40, 0.05)  # type: ignore[misc]
            site.more()


def test_the_master_killed_while_it_writes_the_last_good(etcd: Etcd, origin: ScriptedOrigin, tmp_path: Path) -> None:
    with faulty(etcd, origin, tmp_path) as running:
        site = running.site
        site.probe()
        directory = site.balancer.state / "last-good"
        until(lambda: list(directory.glob("last-good.*")), "a last good configuration", 30, 0.05)
        for number, step in enumerate(("before base", "before journal", "after journal")):
            before = site.master_pid()
            if "journal" in step:  # the first thing a master writes is a base
                site.probe()
                until(lambda: site.status()["last_good"]["pending"] == 0, "it is written", 30, 0.05)
            else:
                os.kill(before, 9)
                until(lambda before=before: _master(site) not in (0, before), "another master", 30, 0.05)  # type: ignore[misc]
            running.arm(step)
            site.put(f"frontends/first-{number}", {"route": f"Path(`/first-{number}`)", "backend": "app"})
            running.until_struck()
            site.until_code(f"/first-{number}", 200)
            site.probe()
            site.more()


@pytest.mark.parametrize("step", ["before adopt", "after adopt"])
def test_a_worker_killed_while_it_adopts(etcd: Etcd, origin: ScriptedOrigin, tmp_path: Path, step: str) -> None:
    with faulty(etcd, origin, tmp_path) as running:
        site = running.site
        time.sleep(1)  # workers import uvloop, and with it the hooks, a moment after they serve
        workers = site.balancer.worker_pids()
        running.arm(step)
        site.put("frontends/late", {"route": "Path(`/late`)", "backend": "app"})
        running.until_struck()
        site.until_code("/late", 200)
        after = site.balancer.until_workers(2)
        assert len(set(workers.values()) & set(after.values())) == 1, "one was replaced"
        _all_at_one_revision(site)
        # Its own exchanges and connections are lost with it; nobody else's, and nothing after it.
        assert sum(len(load.failures) for load in site.loads) <= 8
        for load in site.loads:
            load.failures.clear()
        site.probe()
        site.more(50)


def test_a_spoilt_image_is_refused_and_the_next_one_taken(etcd: Etcd, origin: ScriptedOrigin, tmp_path: Path) -> None:
    with faulty(etcd, origin, tmp_path) as running:
        site = running.site
        site.probe()
        workers = site.balancer.worker_pids()
        running.arm("corrupt")
        site.put("frontends/spoilt", {"route": "Path(`/spoilt`)", "backend": "app"})
        running.until_struck()
        site.balancer.logged("a worker refuses the snapshot", 2)
        assert [bool(worker["refused"]) for worker in site.status()["workers"]] == [True, True]
        site.more()
        assert site.code("/probe-1") == 200, "the one before serves on"
        site.probe()
        site.until_code("/spoilt", 200)
        assert [worker["refused"] for worker in site.status()["workers"]] == ["", ""]
        assert site.balancer.worker_pids() == workers


def _master(site: Site) -> int:
    try:
        return site.master_pid()
    except (OSError, AssertionError):
        return 0


def _all_at_one_revision(site: Site) -> None:
    def same() -> bool:
        status = site.status()
        return not status["lagging"] and len({worker["revision"] for worker in status["workers"]}) == 1

    until(same, "all workers at one revision", 30, 0.05)
