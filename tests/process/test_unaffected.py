"""What a reload must not touch: whoever is connected, whatever is under way, and the state of everything that stayed."""

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kit.client import RawClient
from kit.http1 import Message
from kit.origin import OriginConnection, ScriptedOrigin, read_body
from kit.waiting import until
from process.balancer import Balancer, tree

Start = Callable[..., Balancer]
GET = b"GET %s HTTP/1.1\r\nHost: kit.test\r\n\r\n"
UPGRADE = b"GET /tunnel HTTP/1.1\r\nHost: kit.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
HALF = 300_000


class SlowOrigin:
    """Sends the second half of a download when told to; echoes uploads; switches to a tunnel that echoes."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def reply(self, connection: OriginConnection, head: Message) -> bool:
        if head.target == b"/download":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * HALF) + b"a" * HALF)
            self.go_on.wait(30)
            connection.send(b"b" * HALF)
        elif head.target == b"/tunnel":
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while connection.reader.fill():
                connection.send(connection.reader.take(len(connection.reader.buffer)))
            return False
        else:
            read_body(connection.reader, head, response=False)
            body = head.body or b"ok"
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True


@pytest.fixture
def slow() -> Iterator[SlowOrigin]:
    origin = SlowOrigin()
    yield origin
    origin.go_on.set()


def by_signal(balancer: Balancer) -> None:
    balancer.signal(signal.SIGHUP)


def by_file_change(balancer: Balancer) -> None:
    """The watcher notices."""


def by_admin_api(balancer: Balancer) -> None:
    assert balancer.reload()[0] == 200


def watched(configuration: dict[str, Any]) -> dict[str, Any]:
    return {**configuration, "store": {"watch": True, "poll_interval": "50ms"}}


@pytest.mark.parametrize("trigger", [by_signal, by_file_change, by_admin_api])
@pytest.mark.parametrize("gone", [False, True], ids=["beside", "under"])
def test_exchanges_connections_and_counters_go_on(
    start: Start, port: int, slow: SlowOrigin, trigger: Callable[[Balancer], None], gone: bool
) -> None:
    """A change beside what is under way, and one that takes away the very frontend and server it goes through."""
    watch = watched if trigger is by_file_change else dict
    with ScriptedOrigin() as origin:
        origin.reply = slow.reply
        before = tree({"web": f"127.0.0.1:{port}"}, origin.address)
        balancer = start(watch(before), workers=1)
        address = ("127.0.0.1", port)
        with RawClient(address) as idle, RawClient(address) as down, RawClient(address) as up, RawClient(address) as ws:
            assert idle.ask(GET % b"/").status == 200
            down.send(GET % b"/download")
            assert down.reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            assert down.reader.exactly(HALF) == b"a" * HALF
            up.send(b"POST /upload HTTP/1.1\r\nHost: kit.test\r\nContent-Length: 10\r\n\r\nhello")
            assert ws.ask(UPGRADE).status == 101
            origin.wait_requests(4)
            connections = len(origin.connections)

            after = tree({"web": f"127.0.0.1:{port}"}, origin.address)
            after["frontends"]["new"] = {"route": "Path(`/new`)", "backend": "app"}
            if gone:
                after["frontends"] = {"new": {"route": "PathPrefix(`/`)", "backend": "other"}}
                after["backends"] = {"other": {"servers": {"b1": {"url": f"http://{origin.address}"}}}}
            balancer.write(watch(after))
            trigger(balancer)
            until(lambda: balancer.status()["workers"][0]["revision"] == 2, "revision 2 in force", 15, 0.05)

            slow.go_on.set()
            assert down.reader.exactly(HALF) == b"b" * HALF
            up.send(b"world")
            assert up.response().body == b"helloworld"
            ws.send(b"still here")
            assert ws.reader.exactly(10) == b"still here"
            for client in (idle, down, up):
                assert client.ask(GET % b"/new").status == 200
            if not gone:
                assert len(origin.connections) == connections, "the pool of a server that stayed is kept"
                frontend = next(row for row in balancer.status()["traffic"]["frontends"] if row["id"] == "app")
                assert frontend["requests"] == 3, "counted on: the tunnel is still in flight"
                assert frontend["in_flight"] == 1
        assert origin.violations == []
