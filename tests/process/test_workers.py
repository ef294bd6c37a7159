"""Workers that die, come and go: nobody who waits in a queue notices."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.client import RawClient
from kit.waiting import until
from process.balancer import Balancer, Load, gone, serves
from process.upgrading import order
from process.versions import Version

REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
Start = Callable[..., Balancer]


def queue(port: int, count: int) -> list[RawClient]:
    """Open connections and send a request on each, without waiting for the answer."""
    return [RawClient(("127.0.0.1", port), 15).send(REQUEST) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_queued_at_a_killed_worker_are_all_served(start: Start, port: int, workers: int) -> None:
    balancer = start(workers=workers)
    pid = balancer.until_workers(workers)[0]
    os.kill(pid, signal.SIGSTOP)
    clients = queue(port, 60)
    os.kill(pid, signal.SIGKILL)
    assert [client.response().status for client in clients] == [200] * 60
    assert balancer.until_workers(workers)[0] != pid
    for client in clients:
        client.close()


def test_a_replacement_gets_its_share_of_the_slots_back(start: Start) -> None:
    balancer = start(workers=2)
    balancer.until_slots([12, 12])
    os.kill(balancer.until_workers(2)[1], signal.SIGKILL)
    balancer.logged("worker died")
    balancer.until_workers(2)
    balancer.until_slots([12, 12])


def test_killing_one_worker_of_two_cuts_only_its_own_connections(start: Start, port: int) -> None:
    balancer = start(workers=2)
    pids = balancer.until_workers(2)
    with Load(port, clients=3) as load:
        load.more(100)
        os.kill(pids[0], signal.SIGKILL)
        load.more(300)
    # An exchange that the dead worker had accepted is lost, at most one for each client; the rest never notice.
    assert len(load.failures) <= 3, load.failures
    assert balancer.until_workers(2)[1] == pids[1]


def test_workers_come_and_go_under_load_without_a_failed_request(start: Start, port: int) -> None:
    balancer = start(workers=1)
    with Load(port, clients=3) as load:
        for count, number in ((2, signal.SIGTTIN), (3, signal.SIGTTIN), (2, signal.SIGTTOU), (1, signal.SIGTTOU)):
            load.more(50)
            balancer.signal(number)
            balancer.until_workers(count)
        load.more(50)
    assert load.failures == []


def test_the_last_worker_stays(start: Start, port: int) -> None:
    balancer = start(workers=1)
    balancer.signal(signal.SIGTTOU)
    balancer.logged("stays as it is")
    assert serves(port)


def test_a_worker_sent_term_is_replaced_without_a_failed_request(start: Start, port: int) -> None:
    balancer = start(workers=1)
    pid = balancer.until_workers(1)[0]
    with Load(port, clients=2) as load:
        load.more(30)
        os.kill(pid, signal.SIGTERM)
        until(lambda: gone(pid), "the old worker's end", 20)
        load.more(30)
    assert load.failures == []
    assert pid not in balancer.until_workers(1).values()


def test_term_is_heard_while_a_young_worker_changes_loops(start: Start) -> None:
    balancer = start(workers=1)
    for age_ms in range(240, 480, 20):
        pid = balancer.until_workers(1)[min(balancer.until_workers(1))]
        time.sleep(age_ms / 1000)
        os.kill(pid, signal.SIGTERM)
        until(lambda pid=pid: gone(pid), f"the end of a worker sent TERM {age_ms} ms after it served", 10)  # type: ignore[misc]


def test_a_crash_loop_backs_off_and_says_why(start: Start, port: int) -> None:
    balancer = start(workers=2)
    for deaths in range(1, 4):
        os.kill(balancer.until_workers(2)[1], signal.SIGKILL)
        balancer.logged(f"deaths={deaths}")
    log = balancer.log()
    assert 'reason="killed by SIGKILL"' in log
    assert "restart_in_s=0.1" in log
    assert "restart_in_s=0.2" in log
    death = next(entry for entry in balancer.status()["deaths"] if entry["worker"] == 1)
    assert death["reason"] == "killed by SIGKILL"
    assert death["deaths"] == 3
    assert serves(port)


def test_more_descriptors_than_one_message_carries_reach_a_worker(start: Start, port: int) -> None:
    balancer = start(workers=1, arguments=["--slots", "600"])
    balancer.until_slots([600])
    clients = queue(port, 100)
    assert [client.response().status for client in clients] == [200] * 100
    for client in clients:
        client.close()
    balancer.signal(signal.SIGTTIN)
    balancer.until_slots([300, 300])


def test_keep_alive_connections_of_the_other_workers_survive(start: Start, port: int) -> None:
    balancer = start(workers=2)
    pids = balancer.until_workers(2)
    clients = queue(port, 40)
    for client in clients:
        assert client.response().status == 200
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: gone(pids[0]), "the worker's end")
    survivors = 0
    for client in clients:
        try:
            survivors += client.ask(REQUEST).status == 200
        except (OSError, EOFError, Exception) as error:
            assert not isinstance(error, AssertionError | socket.timeout), error
    # 40 connections over 24 slots, 12 of them the survivor's: far from 0 and 40, whatever the hash does.
    assert 5 <= survivors <= 35
    for client in clients:
        client.close()


def test_a_worker_that_fails_ends_only_when_that_costs_no_client(start: Start, port: int, tmp_path: Path) -> None:
    fault = '\ndef fail(*arguments):\n    raise RuntimeError("a fault")\nWorker._reopen_logs = fail\n'
    balancer = start(workers=1)
    faulty = Version(tmp_path / "faulty", "2.0.0", {"process/worker.py": fault})
    assert order(balancer, program=faulty, probation_ms=0)["receipt"]["ok"]
    before = balancer.until_workers(1)
    client = RawClient(("127.0.0.1", port), 15)
    for _ in range(2):
        assert client.send(REQUEST).response().status == 200
        balancer.signal(signal.SIGUSR1)
        balancer.logged("worker failed, and serves on")
    assert client.send(REQUEST).response().status == 200
    assert balancer.until_workers(1) == before
    client.close()

    def replaced() -> bool:
        balancer.signal(signal.SIGUSR1)
        return balancer.worker_pids() != before

    until(replaced, "a worker without clients ends, and is replaced", 20.0)
    balancer.logged("RuntimeError: a fault")
