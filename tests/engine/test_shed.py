"""What a worker gives up when its memory budget is used up, in which order, and what it never gives up."""

import contextlib
import os
import resource
import select
import socket
import time
from collections.abc import Iterator

import pytest

from bascule.shared.statistics import Reader
from engine.harness import OK, Harness

MIB = 1 << 20
GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
CONNECTION = 4096


@pytest.fixture
def harness() -> Harness:
    return Harness(listener='keepalive_timeout = "60s"', backend='keepalive_timeout = "60s"')


def shed(h: Harness) -> dict[str, int]:
    (segment,) = Reader(h.statistics).segments()
    return {name: count for name, count in segment.events.items() if count}


def used(h: Harness) -> int:
    return int(h.engine.state()["memory_bytes"] or 0)


def ask(h: Harness, client: object, server: object | None = None) -> object:
    """One exchange on a client's connection; returns the server's, which is then pooled."""
    client.sendall(GET)  # type: ignore[attr-defined]
    server = server or h.accept()
    h.head(server)
    server.sendall(OK)  # type: ignore[attr-defined]
    assert h.head(client).endswith(b"ok")
    return server


def test_idle_clients_go_first_and_the_longest_idle_of_them(harness: Harness) -> None:
    with harness as h:
        clients = [h.connect() for _ in range(12)]
        server = ask(h, clients[0])
        for client in clients[1:]:
            ask(h, client, server)
        time.sleep(0.1)  # more than a tick of the timers, which is how exactly "longest" is known
        ask(h, clients[0], server)  # no longer the one that is idle longest
        assert h.engine.state()["clients"] == 12
        h.engine.limit_memory(10 * CONNECTION * 4 // 3)  # room for ten connections before anything is given up
        probe = h.connect()
        h.until(lambda: used(h) < 10 * CONNECTION, "room")
        assert shed(h) == {"shed_client": 5}
        assert h.engine.state()["servers"] == 1, (
            "the pooled connection of the server stays while there are idle clients"
        )
        open_ = [not _ended(h, client) for client in clients]
        assert open_[0], "the client that was served last"
        assert probe is not None


def _ended(h: Harness, client: object) -> bool:
    try:
        return client.recv(1) == b""  # type: ignore[attr-defined]
    except BlockingIOError:
        return False


def test_idle_server_connections_are_next(harness: Harness) -> None:
    with harness as h:
        busy = [h.connect() for _ in range(4)]
        for client in busy:
            client.sendall(GET)
        servers = [h.accept() for _ in busy]
        for server in servers:
            h.head(server)
        for server, client in zip(servers[:2], busy[:2], strict=True):
            server.sendall(OK)
            assert h.head(client).endswith(b"ok")
            client.close()
        h.until(lambda: h.engine.state()["clients"] == 2, "two clients gone")
        in_flight = used(h) - 4 * CONNECTION - 2 * CONNECTION
        assert in_flight >= 0
        h.engine.limit_memory((used(h) - CONNECTION) * 4 // 3)
        h.connect()
        h.until(lambda: h.engine.state()["servers"] == 2, "both idle server connections closed")
        assert shed(h)["shed_server"] == 2
        for server, client in zip(servers[2:], busy[2:], strict=True):
            server.sendall(OK)
            assert h.head(client).endswith(b"ok"), "what was in flight"


def test_requests_are_refused_last_and_what_is_in_flight_never(harness: Harness) -> None:
    with harness as h:
        under_way = []
        for _ in range(30):
            client = h.connect()
            client.sendall(GET)
            server = h.accept()
            h.head(server)
            under_way.append((client, server))
        h.engine.limit_memory(used(h) * 8 // 7)
        late = h.connect()
        late.sendall(GET)
        answer = h.head(late)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert b"\r\nRetry-After: 1\r\n" in answer
        h.until(lambda: _ended(h, late), "the refused connection closed")
        assert shed(h) == {"shed_request": 1}
        (web,) = (row for row in Reader(h.statistics).totals() if row.kind == "listener")
        assert web.errors == {"overload": 1}
        for client, server in under_way:
            server.sendall(OK)
            assert h.head(client).endswith(b"ok")
        h.engine.limit_memory(64 * MIB)
        assert ask(h, h.connect(), server) is server
        assert shed(h)["shed_request"] == 1


def test_a_budget_that_is_not_used_up_costs_nobody_anything(harness: Harness) -> None:
    with harness as h:
        h.engine.limit_memory(4 * MIB)
        clients = [h.connect() for _ in range(20)]
        server = ask(h, clients[0])
        for client in clients[1:]:
            ask(h, client, server)
        assert h.engine.state()["clients"] == 20
        assert shed(h) == {}


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Nothing more can be opened in this process, but in the place of what is closed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(name) for name in os.listdir("/proc/self/fd")) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def test_without_descriptors_an_idle_client_makes_room_for_a_server(harness: Harness) -> None:
    with harness as h:
        idle, active = h.connect(), h.connect()
        server = ask(h, idle)
        ask(h, active, server)
        server.close()  # type: ignore[attr-defined]
        h.until(lambda: h.engine.state()["servers"] == 0, "no pooled connection")
        with no_descriptors_left():
            active.sendall(GET)
            h.turn(3)
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        assert h.head(active).endswith(b"ok")
        assert _ended(h, idle)
        assert shed(h) == {"shed_client": 1}


def test_without_descriptors_an_idle_client_makes_room_for_a_new_one(harness: Harness) -> None:
    with harness as h:
        idle = h.connect()
        ask(h, idle)
        late = h.connect()
        with no_descriptors_left():
            h.turn(3)
        h.until(lambda: _ended(h, idle), "the idle client's end")
        assert h.engine.state()["clients"] == 1
        assert (shed(h), h.engine.state()["accept_failures"]) == ({"shed_client": 1}, 0)
        ask(h, late, None if h.engine.state()["servers"] == 0 else h.sockets[1])


def test_without_descriptors_or_idle_connections_it_is_not_the_server_that_is_blamed(harness: Harness) -> None:
    with harness as h:
        client = h.connect()
        h.until(lambda: h.engine.state()["clients"] == 1, "accepted")
        with no_descriptors_left():
            client.sendall(GET)
            h.turn(3)
        assert h.head(client).startswith(b"HTTP/1.1 503")
        assert h.totals("server", "app/a1").errors == h.totals("listener", "web").errors == {"overload": 1}


def test_heads_that_do_not_come_whole_leave_room_for_those_that_do(harness: Harness) -> None:
    """Slowloris: a buffer for as little as a byte."""
    with harness as h:
        dripping = [h.connect() for _ in range(12)]
        for client in dripping:
            client.sendall(b"G")
        h.until(lambda: h.engine.state()["exchanges"] == 12, "twelve begun")
        h.engine.limit_memory(used(h))
        h.turn()
        client = h.connect()
        h.until(lambda: used(h) < h.engine.state()["clients"] * CONNECTION + 9 * 40_000, "room")
        ask(h, client)
        gone = shed(h)["shed_request"]
        assert 2 <= gone <= 6
        assert h.totals("listener", "web").errors == {"overload": gone}
        answered = [client for client in dripping if _readable(client)]
        assert len(answered) == gone
        assert h.head(answered[0]).startswith(b"HTTP/1.1 503")


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])
