"""Exchanges turned by hand: what hostile or unlucky peers do between two steps of the engine."""

import os
import resource
import select
import socket
import time
from pathlib import Path

import pytest

from engine.harness import OK, Harness

GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED = b"GET /app/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
TWO_SERVERS = """
[listeners.web]
address = "127.0.0.1:1"
[backends.app]
connect_timeout = "100ms"
[backends.app.servers.a1]
url = "http://127.0.0.1:SILENT"
weight = 2
[backends.app.servers.a2]
url = "{origin}"
[frontends.app]
route = "PathPrefix(`/app`)"
backend = "app"
"""


def post(path: bytes, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path, len(body), body)


def exchange(h: Harness, client: socket.socket, server: socket.socket, answer: bytes = OK) -> bytes:
    """Carry one request and its answer; return what the client received."""
    client.sendall(GET)
    h.head(server)
    server.sendall(answer)
    return h.head(client)


def test_the_body_of_an_unroutable_request_is_no_request() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(post(b"/nowhere", SMUGGLED))
        assert h.head(client).startswith(b"HTTP/1.1 404 ")
        client.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        assert h.head(client).count(b"HTTP/1.1 404 ") == 1
        assert h.engine.state()["servers"] == 0


def test_the_body_of_a_request_without_server_is_no_request() -> None:
    with Harness() as h:
        h.origin.close()
        client = h.connect()
        client.sendall(post(b"/app", SMUGGLED))
        assert h.head(client).startswith(b"HTTP/1.1 502 ")
        h.until(lambda: h.engine.state()["exchanges"] == 0, "rest")
        assert h.totals("listener", "web").requests == 1


def test_a_whole_response_that_the_client_does_not_take_at_once() -> None:
    body = b"x" * 200_000
    with Harness(send_bytes=4608) as h:
        client = h.connect(receive_bytes=2048)
        server = None
        for _ in range(3):
            client.sendall(GET)
            server = server or h.accept()
            h.head(server)
            server.setblocking(True)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            server.setblocking(False)
            h.turn(3)
            received = h.head(client)
            while len(received) < len(body):
                received += h.receive(client)
            assert received.endswith(body)
        h.until(lambda: h.engine.state()["exchanges"] == 0, "rest")


def test_a_busy_connection_to_an_address_that_changed_is_not_pooled() -> None:
    with Harness() as h:
        old, new = h.connect(), h.connect()
        old.sendall(GET)
        old_server = h.accept()
        h.head(old_server)
        port = h.origin.getsockname()[1]
        moved = socket.socket()
        moved.bind(("127.0.0.1", 0))
        moved.listen()
        h.sockets.append(moved)
        h.adopt(h.template.replace("{origin}", f"http://127.0.0.1:{moved.getsockname()[1]}"))
        assert h.engine.state()["snapshots"] == 2
        new.sendall(GET)
        new_server = h.accept(moved)
        h.head(new_server)
        old_server.sendall(OK)
        assert h.head(old).endswith(b"ok")
        assert h.engine.state()["snapshots"] == 1
        old.sendall(GET)
        second = h.accept(moved)
        assert b"GET /app" in h.head(second), f"not sent to port {port} again"
        assert h.ended(old_server)


def test_a_unix_origin_that_stops_reading_does_not_hold_the_worker(tmp_path: Path) -> None:
    with Harness('response_timeout = "200ms"', unix=tmp_path / "origin") as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        server = h.accept()
        h.head(server)
        server.shutdown(socket.SHUT_RD)
        client.sendall(b"x" * 1000)
        # Before its repair the turn never returned.
        assert h.head(client).startswith(b"HTTP/1.1 504 ")


def test_an_early_answer_of_a_unix_origin_that_stops_reading(tmp_path: Path) -> None:
    with Harness(unix=tmp_path / "origin") as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        server = h.accept()
        h.head(server)
        server.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        server.close()
        client.sendall(b"x" * 1000)
        assert h.head(client).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"\r\n" * 20 + b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 O\0K\r\n",
        b"HTTP/1.1 200 O\x07K\r\n",
    ],
)
def test_a_status_line_that_is_none(head: bytes) -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(head + b"Content-Length: 2\r\n\r\nok")
        assert h.head(client).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_a_status_line_without_reason_gets_its_space() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        assert h.head(server)
        server.sendall(b"HTTP/1.0 200\r\nContent-Length: 2\r\n\r\nok")
        assert h.head(client).startswith(b"HTTP/1.1 200 \r\nContent-Length")


@pytest.mark.parametrize("piece", [b"0" * 16000, b"5" + b";" * 8000 + b"\r\nhello\r\n" + b"0" * 8000])
def test_chunk_framing_in_no_proportion_to_the_body(piece: bytes) -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        server = h.accept()
        h.head(server)
        answer = b""
        for _ in range(20):
            client.sendall(piece)
            h.turn(2)
            if select.select([client], [], [], 0)[0]:
                answer = h.head(client)
                break
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_one_byte_chunks_are_in_order() -> None:
    body = b"1\r\nx\r\n" * 50_000
    with Harness() as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        server = h.accept()
        h.head(server)
        received = 0
        for at in range(0, len(body), 30_000):
            client.sendall(body[at : at + 30_000])
            received += h.receive(server).count(b"x")
        client.sendall(b"0\r\n\r\n")
        while received < 50_000:
            received += h.receive(server).count(b"x")
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")


def test_a_connection_header_that_names_thousands_is_refused() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: " + b"a," * 5000 + b"\r\n\r\n")
        assert h.head(client).startswith(b"HTTP/1.1 400 ")


def test_an_ipv6_client_cannot_be_logged_as_an_ipv4_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Harness(listener='trusted_proxies = ["127.0.0.0/8"]', log=log) as h:
        client = h.connect()
        client.sendall(GET[:-2] + b"X-Forwarded-For: 2001:db8::ffff:a00:1\r\n\r\n")
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        h.head(client)
        h.turn()
        assert "client=2001:db8::ffff:a00:1 " in log.read_text()


@pytest.mark.parametrize(
    ("entry", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:5000", "192.0.2.7"),
        ("\t[2001:db8::7]:5000 ", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("192.0.2.7:50000, 127.0.0.2:6000", "192.0.2.7"),
        # not addresses: who sent the request is the last that is known
        ("192.0.2.7:", "127.0.0.1"),
        ("192.0.2.7:500000", "127.0.0.1"),
        ("192.0.2.7:5a", "127.0.0.1"),
        ("[192.0.2.7]:5000", "127.0.0.1"),
        ("[2001:db8::7", "127.0.0.1"),
        ("[2001:db8::7]5000", "127.0.0.1"),
        ("[]:5000", "127.0.0.1"),
        (":5000", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("192.0.2.7:50000, nobody, 127.0.0.2:6000", "127.0.0.2"),
    ],
)
def test_a_forwarded_client_may_be_written_with_its_port(tmp_path: Path, entry: str, client: str) -> None:
    log = tmp_path / "log"
    with Harness(listener='trusted_proxies = ["127.0.0.0/8"]', log=log) as h:
        sock = h.connect()
        sock.sendall(GET[:-2] + b"X-Forwarded-For: " + entry.encode() + b"\r\n\r\n")
        server = h.accept()
        h.head(server)
        server.sendall(OK)
        h.head(sock)
        h.turn()
        assert f"client={client} " in log.read_text()


def test_no_descriptors_left_on_a_unix_listener(tmp_path: Path) -> None:
    path = tmp_path / "web"
    with Harness(listen_unix=path) as h:
        clients = []
        for _ in range(3):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            clients.append(sock)
        h.sockets += clients
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            h.turn(5)
            ready = [
                bool(select.select([h.engine.fileno()], [], [], 0)[0]) for _ in range(3) if h.engine.turn() is None
            ]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert h.engine.state()["accept_failures"] == 1
        assert ready == [False] * 3, "polled again and again in vain"
        h.until(lambda: h.engine.state()["clients"] == 3, "accepted once there are descriptors")


def test_a_chunked_request_goes_to_another_server_when_the_first_does_not_connect() -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    filling = [socket.socket() for _ in range(4)]
    for sock in filling:
        sock.setblocking(False)
        sock.connect_ex(silent.getsockname())
    with Harness(config=TWO_SERVERS.replace("SILENT", str(silent.getsockname()[1]))) as h:
        h.sockets += [silent, *filling]
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        server = h.accept()
        assert b"5\r\nhello\r\n0\r\n\r\n" in h.head(server)
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")
        assert h.totals("backend", "app").errors == {"retried": 1}


def test_a_client_that_drips_does_not_keep_a_stuck_server_alive() -> None:
    with Harness('idle_timeout = "300ms"', listener='body_timeout = "20s"', origin_receive_bytes=2048) as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n")
        server = h.accept()
        h.head(server)
        client.send(b"x")
        h.receive(server)
        quiet = time.monotonic()
        while time.monotonic() < quiet + 0.1:  # until the server's side is full
            h.turn()
            if h.engine.live_objects()["buffers"] == 0:
                quiet = time.monotonic()
                select.select([], [client], [], 1)
                client.send(b"x" * 60_000)
        end = time.monotonic() + 3
        while not select.select([client], [], [], 0.03)[0]:
            assert time.monotonic() < end, "each byte of the client gave the server more time"
            client.send(b"x")
            h.turn()


def test_a_tunnel_outlives_the_limit_of_an_exchange() -> None:
    with Harness('exchange_timeout = "100ms"') as h:
        client = h.connect()
        client.sendall(GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        server = h.accept()
        h.head(server)
        server.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert h.head(client).startswith(b"HTTP/1.1 101 ")
        end = time.monotonic() + 0.4
        h.until(lambda: time.monotonic() > end, "four times the limit")
        client.sendall(b"ping")
        assert h.receive(server, 4) == b"ping"
        server.sendall(b"pong")
        assert h.receive(client, 4) == b"pong"


def test_an_interim_response_does_not_end_the_request() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n01234")
        server = h.accept()
        assert h.head(server).endswith(b"01234")
        server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert h.head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"56789")
        assert h.receive(server, 5) == b"56789"
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")
        assert exchange(h, client, server).endswith(b"ok")


def test_a_listener_that_was_removed_closes_after_the_answer() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        h.adopt(h.template.replace("[listeners.web]", "[listeners.other]").replace("{origin}", h.address))
        server.sendall(OK)
        assert b"\r\nConnection: close\r\n" in h.head(client)
        assert h.ended(client)


def test_a_listener_named_after_its_slot_was_lent_keeps_its_gauges() -> None:
    with Harness() as h:
        late = socket.socket()
        late.bind(("127.0.0.1", 0))
        late.listen()
        h.engine.lend("late", 0, os.dup(late.fileno()))
        client = socket.create_connection(late.getsockname())
        client.setblocking(False)
        h.sockets += [late, client]
        h.until(lambda: h.engine.state()["clients"] == 1, "accepted")
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        h.adopt(h.template.replace("{origin}", h.address) + '\n[listeners.late]\naddress = "127.0.0.1:2"\n')
        assert h.totals("listener", "late").connections_open == 1
        server.sendall(OK)
        assert h.receive(client).startswith(b"HTTP/1.1 200 ")
        client.close()
        h.until(lambda: h.engine.state()["clients"] == 0, "closed")
        late_totals = h.totals("listener", "late")
        assert (late_totals.connections_open, late_totals.in_flight) == (0, 0)
