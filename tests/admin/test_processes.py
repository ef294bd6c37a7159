"""The admin API of a real load balancer: workers that lag, masters that are replaced, configurations that are files."""

import asyncio
import http.client
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Put, Remove, Transaction
from cli.conftest import LiveBalancer
from kit.waiting import free_port, until
from process.balancer import Balancer, UnixConnection, gone, tree


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBalancer]:
    with LiveBalancer(tmp_path_factory.mktemp("live")) as balancer:
        yield balancer


def ask(balancer: Balancer, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = UnixConnection(str(balancer.state / "admin.sock"))
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data else None
    finally:
        connection.close()


def answers(balancer: Balancer) -> bool:
    try:
        return ask(balancer, "GET", "/v1/status")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_worker_that_does_not_take_a_change_is_named(live: LiveBalancer) -> None:
    (worker,) = live.worker_pids().values()
    os.kill(worker, signal.SIGSTOP)
    try:
        status, written = ask(live, "PUT", "/v1/backends/late?wait=applied&timeout=300ms", {})
        assert status == 200
        assert (written["applied"], written["lagging"]) == (False, [0])
    finally:
        os.kill(worker, signal.SIGCONT)
    path = "/v1/backends/later?wait=applied&timeout=30s"
    until(lambda: ask(live, "PUT", path, {})[1]["applied"], "the worker has caught up", 30)


def test_events_tell_what_is_in_force(live: LiveBalancer) -> None:
    connection = UnixConnection(str(live.state / "admin.sock"))
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.readline().startswith(b"retry")
    _, written = ask(live, "PUT", "/v1/backends/seen?wait=applied", {"connect_timeout": "3s"})
    assert written["applied"]
    found = []
    while not found or found[-1]["type"] != "applied":
        line = response.readline()
        assert line
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:]))
    assert found[-1]["revision"] >= written["revision"]
    connection.close()


def test_the_next_master_has_the_tokens_and_the_history(live: LiveBalancer) -> None:
    assert ask(live, "POST", "/v1/tokens", {"name": "kept", "role": "viewer"})[0] == 201
    _, before = ask(live, "GET", "/v1/history?limit=1")
    master = live.status()["master"]["pid"]
    os.kill(master, signal.SIGKILL)
    until(lambda: gone(master) and answers(live), "another master answers", 30)
    assert [token["name"] for token in ask(live, "GET", "/v1/tokens")[1]["items"]] == ["kept"]
    assert ask(live, "GET", "/v1/history?limit=1")[1] == before

    def remote() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", live.admin_port, timeout=5)
        try:
            connection.request("GET", "/v1/status")
            return connection.getresponse().status == 401
        except OSError:
            return False
        finally:
            connection.close()

    until(remote, "it answers on TCP too", 30)
    assert ask(live, "PUT", "/v1/backends/after?wait=applied&timeout=30s", {})[1]["applied"]


def test_a_store_that_holds_garbage_is_shown_object_by_object(live: LiveBalancer) -> None:
    body = {"operations": [{"op": "put", "key": "frontends/odd", "value": {"route": "Path(`/`)", "backend": "none"}}]}
    status, written = ask(live, "POST", "/v1/apply?wait=applied&timeout=30s", body)
    assert status == 200
    assert written["warnings"][0]["path"][:2] == ["frontends", "odd"]
    found = ask(live, "GET", "/v1/objects?state=waiting")[1]["items"]
    assert [item["key"] for item in found] == ["frontends/odd"]
    assert ask(live, "GET", "/v1/frontends/odd")[1]["state"] == "waiting"


def test_of_a_file_objects_can_be_read_and_not_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("file")
    with Balancer(directory, tree({"web": f"127.0.0.1:{free_port()}"}, "127.0.0.1:9"), workers=1) as balancer:
        assert ask(balancer, "GET", "/v1/backends/app/servers/a1")[1]["value"] == {"url": "http://127.0.0.1:9"}
        status, problem = ask(balancer, "PUT", "/v1/backends/app", {})
        assert status == 409
        assert str(balancer.config) in problem["detail"]
        assert problem["remedy"]
        assert ask(balancer, "GET", "/v1/objects")[0] == 200


def test_what_the_store_was_told_meanwhile_is_in_force_after_a_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    with LiveBalancer(tmp_path_factory.mktemp("again")) as balancer:
        assert ask(balancer, "PUT", "/v1/backends/before?wait=applied&timeout=30s", {})[1]["applied"]
        balancer.signal(signal.SIGTERM)
        assert balancer.wait() == 0

        async def change() -> None:
            store = EmbeddedStore(str(balancer.state / "store.sqlite"))
            await store.commit(Transaction((Remove("backends/before"), Put("backends/meanwhile", b"{}"))))
            await store.close()

        asyncio.run(change())
        balancer.start()
        keys = [item["key"] for item in ask(balancer, "GET", "/v1/backends")[1]["items"]]
        assert keys == ["backends/meanwhile"]
        assert ask(balancer, "PUT", "/v1/backends/after?wait=applied&timeout=30s", {})[1]["applied"]
