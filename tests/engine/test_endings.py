"""Deadlines, draining and new snapshots, by hand; the harness checks after each that no object is left."""

import socket
import time

import pytest

from engine.harness import OK, Harness

GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
SHORT = 'header_timeout = "150ms"\nkeepalive_timeout = "150ms"\nbody_timeout = "150ms"'


@pytest.mark.parametrize("sent", [b"", b"GET /app HTTP/1.1\r\nHost", GET[:-2] + b"Content-Length: 5\r\n\r\n12"])
def test_a_silent_client_has_a_deadline_in_every_state(sent: bytes) -> None:
    with Harness(listener=SHORT) as h:
        client = h.connect()
        client.sendall(sent)
        answer = h.receive(client)
        assert answer.startswith(b"HTTP/1.1 408 ") if sent else answer == b""
        client.close()
        h.until(lambda: h.engine.state()["clients"] == 0, "closed")


def test_an_idle_client_has_a_deadline() -> None:
    with Harness(listener=SHORT) as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        h.head(client)
        assert h.ended(client)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 504), (b"HTTP/1.1 20", 504), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12", 200)],
)
def test_a_silent_server_has_a_deadline_in_every_state(sent: bytes, status: int) -> None:
    with Harness('response_timeout = "150ms"\nidle_timeout = "150ms"') as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(sent)
        assert h.head(client).startswith(b"HTTP/1.1 %d " % status)
        h.until(lambda: h.engine.state()["exchanges"] == 0, "over")


def test_a_pooled_server_has_a_deadline() -> None:
    with Harness('keepalive_timeout = "150ms"') as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        h.head(client)
        assert h.engine.state()["servers"] == 1
        assert h.ended(server)


def test_a_pooled_server_has_a_deadline_although_its_last_client_was_slow() -> None:
    with Harness('keepalive_timeout = "150ms"', send_bytes=4608) as h:
        client = h.connect(receive_bytes=2048)
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.setblocking(True)
        server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
        server.setblocking(False)
        h.until(lambda: h.engine.state()["servers"] == 1 and h.engine.live_objects()["buffers"] > 1, "given back early")
        assert h.engine.state()["exchanges"] == 1
        assert h.ended(server)


def test_draining_answers_what_is_under_way_and_closes_the_rest() -> None:
    with Harness() as h:
        idle, busy = h.connect(), h.connect()
        idle.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        h.head(idle)
        busy.sendall(GET)
        h.head(server)
        h.engine.drain(400)
        assert h.engine.state()["slots"] == 0
        server.sendall(OK)
        assert b"\r\nConnection: close\r\n" in h.head(busy)
        assert h.ended(busy)
        assert h.ended(idle)
        h.until(lambda: h.engine.drained, "drained")
        late = socket.socket()
        late.connect(h.front.getsockname())  # waits in the queue for the next worker
        h.sockets.append(late)
        h.turn(3)
        assert h.engine.state()["clients"] == 0


def test_draining_answers_requests_that_were_pipelined() -> None:
    """Whoever sent three requests at once gets three answers: only the last says close."""
    with Harness() as h:
        client = h.connect()
        client.sendall(GET * 3)
        server = h.accept()
        h.head(server)
        h.engine.drain(5000)
        for last in (False, False, True):
            server.sendall(OK)
            assert (b"\r\nConnection: close\r\n" in h.head(client)) == last
            if not last:
                # A draining engine keeps no server connection: each request has one of its own.
                server = h.accept()
                h.head(server)
        assert h.ended(client)
        h.until(lambda: h.engine.drained, "drained")


def test_a_snapshot_lives_until_its_last_exchange() -> None:
    with Harness() as h:
        clients, servers = [], []
        for number in range(3):
            client = h.connect()
            client.sendall(GET)
            server = h.accept()
            h.head(server)
            clients.append(client)
            servers.append(server)
            assert h.engine.state()["snapshots"] == number + 1
            h.adopt(h.template.replace("{origin}", h.address) + f"# {number}\n")
        for number in (1, 0, 2):
            servers[number].sendall(OK)
            assert h.head(clients[number]).endswith(b"ok")
        assert h.engine.state()["snapshots"] == 1


def test_closing_in_the_middle_of_everything() -> None:
    with Harness() as h:
        for sent in (b"", b"GET", GET, GET[:-2] + b"Content-Length: 9\r\n\r\n12", b"POST /nowhere HTTP/1.1\r\n"):
            h.connect().sendall(sent)
        h.turn(3)
        end = time.monotonic() + 0.05
        h.until(lambda: time.monotonic() > end, "a while")
