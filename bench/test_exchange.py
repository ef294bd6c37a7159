"""The whole way of a request through one engine, over loopback sockets that the benchmark holds.

Counted is the CPU time inside Engine.turn alone, system calls included: the benchmark's own sends and receives are not in it. One
round is one request on each of 64 keep-alive connections; the figure to read is time / calls. Unlike the runs beside peers
(bench/load) the caches are warm with Python in between, so this compares revisions of Bascule, not proxies.
"""

import select
import socket
import time
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.requests import ANSWER, REQUEST
from tests.engine.harness import Harness

CONNECTIONS = 64
CONFIG = """
[listeners.web]
address = "127.0.0.1:1"
[backends.app.servers.a1]
url = "{origin}"
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""
SMALL = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"
SMALL_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nhello, world\n"


class Meter:
    """An engine between 64 clients and an origin; `spent_s` is the CPU time of its turns."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.spent_s = 0.0
        self.clients = [harness.connect() for _ in range(CONNECTIONS)]
        self.servers: list[socket.socket] = []
        self.poller = select.epoll()
        harness.origin.setblocking(False)

    def turn(self) -> None:
        before = time.thread_time()
        self.harness.engine.turn()
        self.spent_s += time.thread_time() - before

    def take(self) -> None:
        """Accepts what the engine dialled."""
        while select.select([self.harness.origin], [], [], 0)[0]:
            server, _ = self.harness.origin.accept()
            self.harness.sockets.append(server)
            self.servers.append(server)
            self.poller.register(server, select.EPOLLIN)

    def round(self, request: bytes, answer: bytes) -> None:
        """One request on every connection, answered."""
        for client in self.clients:
            client.send(request)
        answered = 0
        deadline = time.monotonic() + 10
        while answered < CONNECTIONS:
            assert time.monotonic() < deadline, f"{answered} of {CONNECTIONS} requests reached the origin"
            self.turn()
            self.take()
            ready = {descriptor for descriptor, _ in self.poller.poll(0)}
            for server in self.servers:
                if server.fileno() in ready and server.recv(1 << 16):
                    server.send(answer)
                    answered += 1
        self.turn()
        for client in self.clients:
            client.setblocking(True)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
            client.setblocking(False)


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Harness(config=CONFIG) as harness:
        meter = Meter(harness)
        yield meter
        meter.poller.close()


@pytest.mark.parametrize(("request_", "answer"), [(SMALL, SMALL_ANSWER), (REQUEST, ANSWER)], ids=["small", "real"])
def test_exchange(benchmark: BenchmarkFixture, meter: Meter, request_: bytes, answer: bytes) -> None:
    benchmark.extra_info["calls"] = CONNECTIONS
    benchmark._timer = lambda: meter.spent_s
    meter.round(request_, answer)
    chunks = meter.harness.engine.live_objects()["chunks"]
    benchmark.pedantic(meter.round, args=(request_, answer), rounds=100, warmup_rounds=5)
    assert meter.harness.engine.live_objects()["chunks"] == chunks, "steady state allocates nothing"
