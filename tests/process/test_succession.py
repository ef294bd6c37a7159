"""The keeper becomes another version of itself, and a killed keeper's sockets come back from its workers."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load, gone, serves, tree
from process.live import LiveBalancer
from process.upgrading import command, order, upgrade_state
from process.versions import Version

Start = Callable[..., Balancer]
BECAME = "the keeper is another version now"


def listening_inodes(port: int) -> set[str]:
    """Return the inodes of all sockets that listen on a port: each names one accept queue of the kernel."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(fields[9])
    return found


def mapped(pid: int, path: Path) -> bool:
    """Tell whether a process has loaded modules from below a directory."""
    return str(path) in Path(f"/proc/{pid}/environ").read_text() + Path(f"/proc/{pid}/cmdline").read_text()


def test_the_keeper_becomes_the_version_that_serves_and_stays_the_same_process(
    start: Start, port: int, tmp_path: Path
) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=2)
    keeper = balancer.process.pid
    queues = listening_inodes(port)
    assert len(queues) == 24
    with Load(port, clients=2, keep_alive=True) as kept, Load(port, clients=2) as fresh:
        kept.more(20)
        answer = order(balancer, program=newer, probation_ms=0)
        assert answer["type"] == "receipt", answer
        assert answer["receipt"]["ok"], answer["receipt"].get("failed")
        balancer.logged(BECAME)
        kept.more(50)
        fresh.more(50)
        # They got ready at a low priority, and have the usual one since.
        for pid in balancer.until_workers(2).values():
            threads = os.listdir(f"/proc/{pid}/task")
            assert {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads} == {os.getpriority(0, 0)}
        assert mapped(keeper, newer.directory)
        assert int((balancer.state / "keeper.pid").read_text()) == keeper
        assert upgrade_state(balancer)["version"] == "2.0.0"
        assert listening_inodes(port) == queues
        # It is a keeper like any other: it replaces, resizes, upgrades again, and stops.
        victim = min(balancer.until_workers(2).values())
        os.kill(victim, signal.SIGTERM)
        until(lambda: victim not in balancer.worker_pids().values(), "another worker", 20)
        balancer.signal(signal.SIGTTIN)
        balancer.until_workers(3)
        assert command(balancer, "--probation", "0s").returncode == 0
        balancer.logged(BECAME, times=2)
        fresh.more(50)
    assert kept.failures == fresh.failures == []
    balancer.signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert not balancer.recorded()


def test_a_finished_probation_renews_the_keeper(start: Start, port: int, tmp_path: Path) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=1)
    with Load(port, clients=2, keep_alive=True) as load:
        assert order(balancer, program=newer)["receipt"]["ok"]
        assert not mapped(balancer.process.pid, newer.directory)
        assert command(balancer, "--finish").returncode == 0
        balancer.logged(BECAME)
        load.more(20)
    assert load.failures == []
    assert mapped(balancer.process.pid, newer.directory)
    assert command(balancer, "--back").returncode == 1


@pytest.mark.parametrize(
    "patch",
    [
        "LAYOUT = 99\n",
        "def main(words):\n    import os\n    os.kill(os.getpid(), 9)\n",
    ],
    ids=["another layout", "is killed"],
)
def test_a_keeper_that_could_not_go_on_stays_what_it_is(start: Start, port: int, tmp_path: Path, patch: str) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0", {"process/succession.py": patch})
    balancer = start(workers=1)
    with Load(port, clients=2, keep_alive=True) as load:
        assert order(balancer, program=newer, probation_ms=0)["receipt"]["ok"]
        balancer.logged("the keeper stays the version it is")
        load.more(20)
        balancer.signal(signal.SIGTTIN)
        balancer.until_workers(2)
    assert load.failures == []
    assert not mapped(balancer.process.pid, newer.directory)


def test_who_asks_the_admin_api_meanwhile_waits_and_is_answered(start: Start, port: int, tmp_path: Path) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=1)
    refused: list[str] = []
    asked = 0
    done = threading.Event()

    def ask() -> None:
        nonlocal asked
        while not done.is_set():
            try:
                assert balancer.request("GET", "/v1/status")[0] == 200
                asked += 1
            except Exception as error:
                refused.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert order(balancer, program=newer)["receipt"]["ok"]
        assert order(balancer, "back")["receipt"]["ok"]
        assert order(balancer, program=newer, probation_ms=0)["receipt"]["ok"]
        balancer.logged(BECAME)
        os.kill(balancer.status()["master"]["pid"], signal.SIGTERM)
        before = asked
        until(lambda: asked > before + 3, "answers of the next master", 30)
    finally:
        done.set()
        thread.join(30)
    assert refused == []
    assert balancer.log().count("the keeper is another version now") == 1


def test_signals_that_come_while_the_keeper_changes_are_not_lost(start: Start, port: int, tmp_path: Path) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=1)
    with Load(port, clients=1) as load:
        load.more(5)
        assert order(balancer, program=newer, probation_ms=0)["receipt"]["ok"]
        balancer.logged("the keeper becomes the version that serves")
        balancer.signal(signal.SIGTERM)  # between the two programs, or just after them
        assert balancer.wait() == 0
    assert "Traceback" not in balancer.log()


def test_a_killed_keepers_sockets_come_back_from_its_workers(start: Start, port: int) -> None:
    """The same queues, not new ones beside them; and every connection outlives the old workers."""
    balancer = start(workers=2)
    queues = listening_inodes(port)
    with Load(port, clients=3, keep_alive=True) as kept, Load(port, clients=2) as fresh:
        kept.more(20)
        orphans = balancer.recorded()
        balancer.process.kill()
        balancer.process.wait()
        fresh.more(20)
        balancer.spawn()
        balancer.logged("workers of the killed keeper give back its sockets")
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in orphans), "the end of the orphans", 30)
        fresh.more(50)
        kept.more(50)
        assert listening_inodes(port) == queues
    assert kept.failures == fresh.failures == []
    until(balancer.ready, "a ready balancer", 30)
    # The statistics went on: what was counted before the kill is still there.
    listener = balancer.status()["traffic"]["listeners"][0]
    assert listener["requests"] >= kept.served + fresh.served
    assert not list(balancer.state.glob("orphan-*"))


def test_a_killed_keepers_master_ends_before_the_next_begins(start: Start, port: int) -> None:
    """Two masters would both write to the statistics' directory, which then is of no use to anybody."""
    balancer = start(workers=1)
    until(balancer.ready, "a ready balancer", 30)
    master = balancer.status()["master"]["pid"]
    os.kill(master, signal.SIGSTOP)  # nor can one that hangs go on later
    balancer.process.kill()
    balancer.process.wait()
    balancer.spawn()
    balancer.logged("workers of the killed keeper give back its sockets")
    assert gone(master)
    until(balancer.ready, "a ready balancer", 30)
    assert balancer.reload()[0] == 200


def test_a_keeper_takes_over_what_one_worker_still_holds(start: Start, port: int) -> None:
    balancer = start(workers=2)
    balancer.until_slots([12, 12])
    pids = balancer.until_workers(2)
    balancer.process.kill()
    balancer.process.wait()
    os.kill(pids[0], signal.SIGKILL)
    balancer.spawn()
    balancer.logged("workers of the killed keeper give back its sockets")
    until(balancer.ready, "a ready balancer", 30)
    with Load(port, clients=4) as load:
        load.more(100)
    assert load.failures == []


def test_a_configuration_that_changed_meanwhile_is_in_force_afterwards(
    start: Start, port: int, origin: ScriptedOrigin
) -> None:
    other = free_port()
    balancer = start(workers=1)
    balancer.process.kill()
    balancer.process.wait()
    balancer.write(tree({"web": f"127.0.0.1:{port}", "new": f"127.0.0.1:{other}"}, origin.address))
    balancer.spawn()
    until(balancer.ready, "a ready balancer", 30)
    until(lambda: len(listening_inodes(other)) == 24, "the new listener", 20)
    with Load(other, clients=1) as new, Load(port, clients=1) as old:
        new.more(10)
        old.more(10)
    assert new.failures == old.failures == []


def test_the_settings_of_a_live_store_reach_the_next_keeper(tmp_path: Path, port: int, origin: ScriptedOrigin) -> None:
    """It begins with those of the command line, and nothing in the store changes."""
    lines = tmp_path / "access.log"
    with LiveBalancer(tmp_path / "live", workers=1) as live:
        live.apply(tree({"web": f"127.0.0.1:{port}"}, origin.address))
        live.put("settings", {"access_log": str(lines), "upgrade_probation": "77s"})
        until(lambda: serves(port) and lines.exists() and lines.read_text(), "a line of the access log", 20.0)
        orphans = live.recorded()
        live.process.kill()
        live.process.wait()
        live.spawn()
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in orphans), "the end of the orphans", 30)
        until(live.ready, "a ready balancer", 30)
        before = lines.read_text()
        until(lambda: serves(port) and lines.read_text() != before, "one more, of the next keeper's worker", 20.0)
        assert order(live)["receipt"]["ok"]
        until(lambda: upgrade_state(live)["probation_left_s"] > 0, "the probation")
        assert upgrade_state(live)["probation_left_s"] <= 77


def test_what_is_no_document_is_refused(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "document"
    balancer = start(workers=1)
    for text in (b"", b"{", b"[]", b'{"layout": 1}', json.dumps({"layout": 1, "words": ["run", "--no-such"]}).encode()):
        path.write_bytes(text)
        with open(path, "rb") as file:
            done = subprocess.run(
                [*balancer.program, "_succession", str(file.fileno())],
                pass_fds=[file.fileno()],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        assert done.returncode == 1
        assert "cannot go on" in done.stderr
