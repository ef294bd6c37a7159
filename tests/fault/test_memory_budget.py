"""More connections than the memory budget has room for: idle ones give way, work goes on, all of it is counted."""

import re
from collections.abc import Iterator

import pytest

from kit.client import RawClient
from kit.faults import fault_config
from kit.origin import OriginConnection, ScriptedOrigin, reply_with
from kit.proxies import BasculeProcess
from kit.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
ROOM = 192
"""Connections of 4 KiB in three quarters of 1 MiB."""


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as origin:
        yield origin


def shed(proxy: BasculeProcess, what: str) -> int:
    found = re.search(
        rf'^bascule_worker_shed_total\{{worker="0",what="{what}"\}} (\d+)$', proxy.metrics(), re.MULTILINE
    )
    assert found is not None
    return int(found[1])


def test_idle_clients_give_way_to_working_ones(origin: ScriptedOrigin) -> None:
    config = fault_config(origin, None, "10s") + '[settings]\nworker_memory = "1MiB"\n'
    with BasculeProcess(config=config) as proxy:
        address = ("127.0.0.1", proxy.port)
        held: list[OriginConnection] = []

        def hold(connection: OriginConnection, head: object) -> bool:
            held.append(connection)
            connection.wait(30.0)
            return False

        origin.forget(reply=hold)
        slow = RawClient(address, 30.0).send(GET)
        until(lambda: held, "a request under way")
        origin.reply = reply_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        clients = []
        for _ in range(ROOM + 60):
            client = RawClient(address)
            assert client.ask(GET).status == 200
            clients.append(client)
        until(lambda: shed(proxy, "client") >= 50, "idle clients closed")
        assert proxy.status()["workers"][0]["engine"]["clients"] <= ROOM
        assert "idle client connections" in proxy.run("status").stdout
        assert shed(proxy, "request") == 0
        held[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
        assert slow.response().body == b"slow"
        for client in [*clients, slow]:
            client.close()
