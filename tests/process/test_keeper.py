"""The keeper: how it starts, stops, is killed, and is followed by another."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.client import RawClient, get
from kit.http1 import Message
from kit.origin import OriginConnection, ScriptedOrigin
from kit.waiting import until
from process.balancer import Balancer, Load, gone, serves, tree

REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
Start = Callable[..., Balancer]


class Gate:
    """An origin whose answers wait for a word from the test."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()

    def script(self, connection: OriginConnection) -> None:
        connection.request()
        self.asked.set()
        self.open.wait(30)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")


def ask_in_thread(port: int) -> tuple[threading.Thread, list[Message | BaseException]]:
    answers: list[Message | BaseException] = []

    def ask() -> None:
        try:
            answers.append(get(("127.0.0.1", port)))
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, answers


def test_term_answers_what_is_in_flight_and_then_ends(start: Start, port: int) -> None:
    gate = Gate()
    with ScriptedOrigin(gate.script) as slow:
        balancer = start(tree({"web": f"127.0.0.1:{port}"}, slow.address), workers=2)
        pids = balancer.until_workers(2)
        thread, answers = ask_in_thread(port)
        assert gate.asked.wait(10)
        balancer.signal(signal.SIGTERM)
        balancer.logged("listener closed")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert balancer.process.poll() is None
        gate.open.set()
        thread.join(15)
        assert isinstance(answers[0], Message), answers
        assert answers[0].body == b"slow"
        assert balancer.wait() == 0
    assert all(gone(pid) for pid in pids.values())
    assert not (balancer.state / "admin.sock").exists()
    assert not (balancer.state / "keeper.pid").exists()


def test_term_serves_who_waits_in_the_queue(start: Start, port: int) -> None:
    balancer = start(workers=1)
    pid = balancer.until_workers(1)[0]
    os.kill(pid, signal.SIGSTOP)
    clients = [RawClient(("127.0.0.1", port), 15).send(REQUEST) for _ in range(30)]
    balancer.signal(signal.SIGTERM)
    balancer.logged("msg=stopping")
    os.kill(pid, signal.SIGCONT)
    assert [client.response().status for client in clients] == [200] * 30
    assert balancer.wait() == 0
    for client in clients:
        client.close()


def test_the_drain_has_a_deadline(start: Start, port: int) -> None:
    gate = Gate()
    with ScriptedOrigin(gate.script) as slow:
        configuration = tree({"web": f"127.0.0.1:{port}"}, slow.address)
        balancer = start(configuration, workers=1, arguments=["--drain-timeout", "300ms"])
        _, answers = ask_in_thread(port)
        assert gate.asked.wait(10)
        balancer.signal(signal.SIGTERM)
        assert balancer.wait() == 0
        until(lambda: answers, "the cut connection")
        gate.open.set()


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM)])
def test_stopping_at_once_waits_for_nobody(start: Start, port: int, numbers: tuple[signal.Signals, ...]) -> None:
    gate = Gate()
    with ScriptedOrigin(gate.script) as slow:
        balancer = start(tree({"web": f"127.0.0.1:{port}"}, slow.address), workers=1)
        pid = balancer.until_workers(1)[0]
        ask_in_thread(port)
        assert gate.asked.wait(10)
        for number in numbers:
            balancer.signal(number)
            balancer.logged("msg=stopping") if number == signal.SIGTERM else None
        assert balancer.wait() == 0
        assert gone(pid)
        gate.open.set()


def test_a_killed_keeper_leaves_workers_that_serve_and_a_master_that_reloads(
    start: Start, port: int, origin: ScriptedOrigin
) -> None:
    balancer = start(workers=2)
    pids = balancer.until_workers(2)
    with RawClient(("127.0.0.1", port)) as client:
        assert client.ask(REQUEST).status == 200
        balancer.process.kill()
        balancer.process.wait()
        until(lambda: balancer.log().count("the keeper is gone") >= 3, "everybody noticed")
        assert client.ask(REQUEST).status == 200
    for _ in range(20):
        assert serves(port)
    assert not any(gone(pid) for pid in pids.values())
    changed = tree({"web": f"127.0.0.1:{port}"}, origin.address)
    changed["backends"]["app"]["servers"]["a1"]["weight"] = 2
    balancer.write(changed)
    code, outcome = balancer.reload()
    assert (code, outcome["changed"], outcome["lagging"]) == (200, True, [])
    assert not balancer.status()["keeper"]["alive"]


def test_a_keeper_that_follows_a_killed_one_takes_over_without_a_failed_request(start: Start, port: int) -> None:
    balancer = start(workers=2)
    orphans = balancer.recorded()
    assert len(orphans) == 3
    with Load(port, clients=2) as load:
        load.more(20)
        balancer.process.kill()
        balancer.process.wait()
        load.more(20)
        balancer.spawn()
        until(lambda: all(gone(pid) for pid in orphans), "the end of the orphans", 30, 0.05)
        load.more(50)
    assert load.failures == []
    until(balancer.ready, "the admin socket, which opens a little after the first request is served", 30, 0.05)
    assert not set(balancer.until_workers(2).values()) & orphans


def test_two_keepers_on_one_state_directory_are_refused(start: Start, port: int) -> None:
    balancer = start(workers=1)
    second = start(name="two", workers=1, start=False)
    second.state = balancer.state
    second.spawn()
    assert second.wait() == 1
    assert f"pid {balancer.process.pid}" in second.log()
    assert "--state" in second.log()
    assert serves(port)


def test_a_pid_file_says_who_runs_and_a_stale_one_hinders_nobody(start: Start, tmp_path: Path) -> None:
    pid_file = tmp_path / "bascule.pid"
    balancer = start(workers=1, start=False, arguments=["--pid-file", str(pid_file)])
    balancer.state.mkdir(mode=0o700)
    (balancer.state / "keeper.pid").write_text("1\n")
    balancer.start()
    assert int(pid_file.read_text()) == int((balancer.state / "keeper.pid").read_text()) == balancer.process.pid
    assert balancer.state.stat().st_mode & 0o777 == 0o700
    balancer.signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert not pid_file.exists()


def test_the_log_file_is_reopened_by_every_process(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "bascule.log"
    balancer = start(workers=1, arguments=["--log-file", str(log), "--log-format", "json"])
    log.rename(tmp_path / "bascule.log.1")
    balancer.signal(signal.SIGUSR1)
    until(log.exists, "the new log file")
    targets = {pid: os.readlink(f"/proc/{pid}/fd/2") for pid in balancer.recorded()}
    until(
        lambda: {os.readlink(f"/proc/{pid}/fd/2") for pid in balancer.recorded()} == {str(log)},
        f"all processes write to the new file, they had {targets}",
    )
    balancer.signal(signal.SIGTTOU)
    until(lambda: '"level":"warning"' in log.read_text(), "a JSON line in the new file")
    assert "stays as it is" in log.read_text()


def test_misuse_ends_with_2(start: Start) -> None:
    balancer = start(workers=1, start=False, arguments=["--no-such-option"])
    balancer.spawn()
    assert balancer.wait() == 2


def test_no_process_keeps_what_it_was_not_given(start: Start) -> None:
    """A descriptor that leaks into a worker would keep a closed listener's port, or a dead peer's link, alive."""
    balancer = start(workers=2)
    balancer.until_slots([12, 12])

    def sockets() -> set[int]:
        return {
            sum("socket:" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2)
            for pid in balancer.until_workers(2).values()
        }

    # 12 slots, each once here and once in the engine; two links; the pair that uvloop wakes itself with.
    until(lambda: sockets() == {28}, "no socket too many")
