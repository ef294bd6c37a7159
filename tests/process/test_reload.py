"""Reloads: what changed is changed, what did not is untouched, what is wrong changes nothing."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.client import RawClient, get
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load, serves, tree

REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
Start = Callable[..., Balancer]


def test_hup_brings_a_good_file_into_force_in_every_worker(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=2)
    other = free_port()
    balancer.write(tree({"web": f"127.0.0.1:{port}", "more": f"127.0.0.1:{other}"}, origin.address))
    balancer.signal(signal.SIGHUP)
    balancer.logged("msg=reloaded")
    document = balancer.status()
    assert document["revision"] == 2
    assert [worker["revision"] for worker in document["workers"]] == [2, 2]
    assert serves(other)


def test_a_bad_file_changes_nothing_and_is_visible(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=1)
    with RawClient(("127.0.0.1", port)) as client:
        assert client.ask(REQUEST).status == 200
        wrong = tree({"web": f"127.0.0.1:{port}"}, origin.address)
        wrong["frontends"]["app"]["route"] = "Path("
        wrong["frontends"]["app"]["backend"] = "app"
        balancer.write(wrong)
        code, outcome = balancer.reload()
        assert code == 422
        assert outcome["problems"][0]["file"] == str(balancer.config)
        assert client.ask(REQUEST).status == 200
    assert balancer.status()["revision"] == 1
    assert not balancer.status()["reload"]["outcome"]["ok"]
    balancer.signal(signal.SIGHUP)
    balancer.logged("because=SIGHUP")


def test_no_difference_no_work(start: Start, port: int) -> None:
    balancer = start(workers=1)
    balancer.config.write_text(balancer.config.read_text().replace(",", " ,\n"))
    code, outcome = balancer.reload()
    assert (code, outcome["changed"], outcome["revision"]) == (200, False, 1)


def test_a_listener_is_removed_without_losing_who_waits_in_its_queue(
    start: Start, port: int, origin: ScriptedOrigin
) -> None:
    other = free_port()
    both = tree({"web": f"127.0.0.1:{port}", "more": f"127.0.0.1:{other}"}, origin.address)
    balancer = start(both, workers=1)
    pid = balancer.until_workers(1)[0]
    with RawClient(("127.0.0.1", port)) as kept:
        assert kept.ask(REQUEST).status == 200
        os.kill(pid, signal.SIGSTOP)
        clients = [RawClient(("127.0.0.1", other), 15).send(REQUEST) for _ in range(30)]
        balancer.write(tree({"web": f"127.0.0.1:{port}"}, origin.address))
        balancer.signal(signal.SIGHUP)
        os.kill(pid, signal.SIGCONT)
        assert [client.response().status for client in clients] == [200] * 30
        balancer.logged("connections_lost=0")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other), timeout=5)
        assert kept.ask(REQUEST).status == 200
    for client in clients:
        client.close()


def test_a_listener_moves_to_another_address(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=2)
    other = free_port()
    balancer.write(tree({"web": f"127.0.0.1:{other}"}, origin.address))
    assert balancer.reload()[0] == 200
    assert serves(other)
    until(lambda: not serves(port), "the end of the old address")
    balancer.until_slots([12, 12])


def test_a_renamed_listener_loses_nobody(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=2)
    with Load(port, clients=3) as load:
        load.more(30)
        balancer.write(tree({"www": f"127.0.0.1:{port}"}, origin.address))
        assert balancer.reload()[0] == 200
        load.more(60)
    assert load.failures == []
    assert balancer.status()["listeners"] == [{"id": "www", "address": f"127.0.0.1:{port}"}]


def test_an_address_in_use_keeps_the_old_configuration(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        balancer.write(tree({"web": f"127.0.0.1:{port}", "more": address}, origin.address))
        code, outcome = balancer.reload()
    assert code == 422
    problem = outcome["problems"][0]
    assert "in use" in problem["message"]
    assert "ss -ltnp" in problem["remedy"]
    assert problem["path"] == ["listeners", "more", "address"]
    assert serves(port)
    assert balancer.status()["revision"] == 1


def test_a_unix_listener_serves_and_leaves_no_file(start: Start, tmp_path: Path, origin: ScriptedOrigin) -> None:
    path = tmp_path / "front.sock"
    balancer = start(tree({"local": f"unix://{path}"}, origin.address), workers=2)
    assert get(str(path)).status == 200
    os.kill(balancer.until_workers(2)[0], signal.SIGKILL)
    assert get(str(path)).status == 200
    balancer.signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert not path.exists()


def test_a_changed_file_is_noticed(start: Start, port: int, origin: ScriptedOrigin) -> None:
    watched = {**tree({"web": f"127.0.0.1:{port}"}, origin.address), "store": {"poll_interval": "50ms"}}
    balancer = start(watched, workers=1)
    other = free_port()
    listeners = {"web": f"127.0.0.1:{port}", "more": f"127.0.0.1:{other}"}
    balancer.write({**tree(listeners, origin.address), "store": {"poll_interval": "50ms"}})
    until(lambda: serves(other), "the new listener", 15)


def test_the_configuration_says_how_many_workers(start: Start, port: int, origin: ScriptedOrigin) -> None:
    balancer = start(workers=0)
    balancer.write({**tree({"web": f"127.0.0.1:{port}"}, origin.address), "settings": {"workers": 3}})
    assert balancer.reload()[0] == 200
    balancer.until_workers(3)


def test_the_admin_api_answers_what_is_in_force(start: Start, port: int) -> None:
    balancer = start(workers=1)
    assert (balancer.state / "admin.sock").stat().st_mode & 0o777 == 0o600
    code, body = balancer.request("GET", "/v1/config")
    assert code == 200
    assert f"127.0.0.1:{port}".encode() in body
    assert serves(port)
    code, body = balancer.request("GET", "/metrics")
    assert code == 200
    assert b"bascule_config_revision 1" in body
    assert balancer.request("GET", "/nothing")[0] == 404
    assert balancer.request("GET", "/v1/reload")[0] == 405
