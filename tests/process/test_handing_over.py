"""Connections that outlive the worker that accepted them: it is retired, or its whole generation is replaced."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kit.client import RawClient
from kit.http1 import Message
from kit.origin import OriginConnection, ScriptedOrigin
from kit.waiting import until
from process.balancer import Balancer

REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: kit.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLIENTS = 40
Start = Callable[..., Balancer]


def shouting(connection: OriginConnection, head: Message) -> bool:
    """Answer; an upgrade by sending everything back in capitals."""
    if head.target != b"/ws":
        connection.send(OK)
        return True
    connection.send(SWITCH)
    while connection.reader.fill():
        connection.send(connection.reader.take(len(connection.reader.buffer)).upper())
    return False


class Held:
    """Clients that keep their connections: idle ones that have had an answer, and tunnels."""

    def __init__(self, port: int, origin: ScriptedOrigin) -> None:
        """Connect them all."""
        origin.forget(reply=shouting)
        self.idle = [RawClient(("127.0.0.1", port), 15) for _ in range(CLIENTS)]
        self.tunnels = [RawClient(("127.0.0.1", port), 15) for _ in range(CLIENTS // 4)]
        for client in self.idle:
            assert client.ask(REQUEST).status == 200
        for client in self.tunnels:
            assert client.ask(UPGRADE).status == 101
        self.use()

    def use(self) -> None:
        """Use every connection once."""
        for number, client in enumerate(self.tunnels):
            text = b"text %d" % number
            client.send(text)
            assert client.reader.exactly(len(text)) == text.upper()
        for client in self.idle:
            answer = client.ask(REQUEST)
            assert answer.status == 200
            assert answer.get(b"connection") is None

    def close(self) -> None:
        """Close them all."""
        for client in (*self.idle, *self.tunnels):
            client.close()


@pytest.fixture
def held(origin: ScriptedOrigin, port: int) -> Any:
    """Return what makes the clients once a balancer runs; they are closed after the test."""
    made: list[Held] = []

    def make() -> Held:
        made.append(Held(port, origin))
        return made[-1]

    yield make
    for clients in made:
        clients.close()
    origin.forget()


def upgrade(balancer: Balancer, *arguments: str) -> dict[str, Any]:
    """Run `bascule upgrade` to its end and return the receipt."""
    command = [sys.executable, "-m", "bascule", "upgrade", "--json", "--state", str(balancer.state), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    receipt: dict[str, Any] = json.loads(done.stdout)
    return receipt


def test_a_retired_workers_clients_go_to_the_others(start: Start, held: Callable[[], Held]) -> None:
    balancer = start(workers=3)
    balancer.until_workers(3)
    clients = held()
    for workers in (2, 1):
        balancer.signal(signal.SIGTTOU)
        balancer.until_workers(workers)
        clients.use()


def test_clients_and_tunnels_outlive_an_upgrade_and_the_switch_back(start: Start, held: Callable[[], Held]) -> None:
    balancer = start(workers=2)
    clients = held()
    for arguments in ((), ("--back",)):
        receipt = upgrade(balancer, *arguments)
        clients.use()
        assert receipt["ok"]
        moved = receipt["connections"]
        assert moved["handed_over_tunnels"] == len(clients.tunnels)
        assert moved["handed_over_idle"] >= len(clients.idle)
        assert (moved["refused"], moved["taken_back"], moved["cut_at_deadline"], moved["in_flight"]) == (0, 0, 0, 0)
    until(lambda: len(balancer.recorded()) <= 4, "the generation that was switched back from has gone", 20)
    clients.use()
