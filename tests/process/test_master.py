"""A master that dies: workers serve, its successor finds everything as it was."""

import os
import signal
from collections.abc import Callable

import pytest

from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load, serves, tree

Start = Callable[..., Balancer]


def kill_master(balancer: Balancer) -> int:
    old = balancer.status()["master"]["pid"]
    os.kill(old, signal.SIGKILL)

    def successor() -> int:
        try:
            document = balancer.status()
        except OSError:
            return 0
        return int(document["master"]["pid"]) if document["master"]["pid"] != old else 0

    return until(successor, "a new master", 20, 0.05)


def test_workers_serve_while_the_master_is_replaced(start: Start, port: int) -> None:
    balancer = start(workers=2)
    before = balancer.until_workers(2)
    with Load(port, clients=2, keep_alive=True) as load:
        load.more(50)
        kill_master(balancer)
        load.more(50)
    assert load.failures == []
    document = balancer.status()
    assert document["ready"]
    assert document["revision"] == 1
    assert [worker["revision"] for worker in document["workers"]] == [1, 1]
    assert balancer.until_workers(2) == before


def test_a_new_master_reloads_as_the_old_one_did(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=2)
    kill_master(balancer)
    other = free_port()
    balancer.write(tree({"web": f"127.0.0.1:{port}", "more": f"127.0.0.1:{other}"}, origin.address))
    code, outcome = balancer.reload()
    assert (code, outcome["changed"], outcome["revision"]) == (200, True, 2)
    assert serves(port)
    assert serves(other)


def test_a_change_made_while_there_was_no_master_comes_into_force(
    start: Start, port: int, origin: ScriptedOrigin
) -> None:
    balancer = start(workers=1)
    other = free_port()
    balancer.write(tree({"web": f"127.0.0.1:{port}", "more": f"127.0.0.1:{other}"}, origin.address))
    kill_master(balancer)
    until(lambda: serves(other), "the new listener", 15)
    assert balancer.status()["revision"] == 2


def test_a_listener_that_moved_while_there_was_no_master_listens_there(
    start: Start, port: int, origin: ScriptedOrigin
) -> None:
    """The snapshot is the same to the byte: where a listener listens is not in it."""
    balancer = start(workers=1)
    other = free_port()
    balancer.write(tree({"web": f"127.0.0.1:{other}"}, origin.address))
    kill_master(balancer)
    until(lambda: serves(other), "the listener at its new address", 15)


def test_a_new_master_with_a_broken_file_keeps_what_is_in_force(start: Start, port: int) -> None:
    balancer = start(workers=1)
    balancer.config.write_text("{broken")
    kill_master(balancer)
    balancer.logged("reload failed")
    assert serves(port)
    outcome = balancer.status()["reload"]["outcome"]
    assert not outcome["ok"]
    assert outcome["problems"][0]["line"] == 1


def test_a_worker_started_without_a_master_serves(start: Start, port: int) -> None:
    balancer = start(workers=1)
    document = balancer.status()
    os.kill(document["master"]["pid"], signal.SIGSTOP)
    os.kill(document["workers"][0]["pid"], signal.SIGKILL)
    try:
        until(lambda: serves(port), "the replacement", 15)
    finally:
        os.kill(document["master"]["pid"], signal.SIGCONT)
    until(lambda: balancer.status()["workers"][0]["revision"] == 1, "the master knows of it")


@pytest.mark.parametrize("text", ['{"listeners": {"web": {"address": "127.0.0.1:1"}}, "wrong": 1}', "{"])
def test_a_broken_file_at_the_first_start_ends_it_and_says_why(start: Start, text: str) -> None:
    balancer = start(workers=1, start=False)
    balancer.config.write_text(text)
    balancer.spawn()
    assert balancer.wait() == 1
    assert str(balancer.config) in balancer.log()
