"""The keeper as the first process of a container: signals without a default action, and other people's zombies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.origin import ScriptedOrigin
from kit.waiting import until
from process.balancer import Load, serves, tree

ROOT = ["unshare", "-pf", "--mount-proc", "--kill-child"]
OTHERS = ["unshare", "-rpf", "--mount-proc", "--kill-child"]


class Container:
    """A balancer that is process 1 of a pid namespace. What it calls its pids are none outside."""

    def __init__(self, directory: Path, port: int, origin: ScriptedOrigin) -> None:
        config = directory / "bascule.json"
        config.write_text(json.dumps(tree({"web": f"127.0.0.1:{port}"}, origin.address)))
        command = [sys.executable, "-m", "bascule", "run", "-c", str(config), "--state", str(directory / "state")]
        unshare = ROOT if os.geteuid() == 0 else OTHERS
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.outside = subprocess.Popen([*unshare, *command, "--workers", "2"], stderr=log)
        until(lambda: serves(port), "the container to serve", 30, 0.05)
        self.keeper = self.children(self.outside.pid)[0]

    def children(self, pid: int) -> list[int]:
        """Return the pids, outside, of a process's children."""
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def zombies(self) -> list[int]:
        """Return the keeper's children that have ended and not been waited for."""
        found = []
        for pid in self.children(self.keeper):
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                continue
            found += [pid] if state == "Z" else []
        return found


@pytest.fixture
def container(tmp_path: Path, port: int, origin: ScriptedOrigin) -> Iterator[Container]:
    made = Container(tmp_path, port, origin)
    yield made
    made.outside.kill()  # and with it, by --kill-child, everything inside
    made.outside.wait()


def test_process_1_serves_reloads_and_ends_when_it_is_told(container: Container, port: int) -> None:
    assert os.readlink(f"/proc/{container.keeper}/ns/pid") != os.readlink("/proc/self/ns/pid")
    with Load(port, clients=2) as load:
        load.more(20)
        os.kill(container.keeper, signal.SIGHUP)
        until(lambda: "reload: nothing has changed" in container.log.read_text(), "the reload", 20)
        load.more(20)
    assert load.failures == []
    os.kill(container.keeper, signal.SIGTERM)
    assert container.outside.wait(20) == 0
    assert not serves(port)


def test_process_1_waits_for_the_children_of_others(container: Container, port: int) -> None:
    enter = ["nsenter", "-t", str(container.keeper), "-p", "-m"]
    enter += [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    before = set(container.children(container.keeper))
    # The shell ends before the sleeper, which becomes a child of process 1.
    subprocess.run([*enter, "sh", "-c", "sleep 0.5 >/dev/null 2>&1 &"], check=True)
    until(lambda: set(container.children(container.keeper)) - before, "another one's child")
    until(lambda: set(container.children(container.keeper)) == before, "its end")
    assert container.zombies() == []
    assert serves(port)
