"""What a client can make the admin API hold is bounded, and a bad client hurts nobody else."""

import contextlib
import socket

import pytest

from admin.local import LocalAdmin
from bascule.admin import api as api_module
from bascule.admin import connection as connection_module
from bascule.admin.endpoint import BODY_BYTES_MAX
from kit.waiting import until


@contextlib.contextmanager
def raw(api: LocalAdmin):  # type: ignore[no-untyped-def]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(api.path)
        yield client


def answer(client: socket.socket) -> bytes:
    """Return everything until the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            data += chunk
    return data


def send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_long_bodies(api: LocalAdmin) -> None:
    assert api.ask("PUT", "/v1/backends/a", b"{" + b" " * (2 << 20) + b"}").status == 200
    with raw(api) as client:
        send(client, b"PUT /v1/backends/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1))
        assert b" 413 " in client.recv(65536)
    with raw(api) as client:
        send(client, b"PUT /v1/backends/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(9):
            send(client, chunk)
        assert b" 413 " in answer(client)[:100]


@pytest.mark.parametrize("piece", [b"X-A: %s\r\n" % (b"a" * 1000), b"a" * 5000])
def test_long_heads(api: LocalAdmin, piece: bytes) -> None:
    with raw(api) as client:
        send(client, b"GET /v1/status HTTP/1.1\r\nX-First: ")
        for _ in range(60):
            send(client, piece)
        assert b" 431 " in answer(client)
    with raw(api) as client:
        send(client, b"GET /v1/status HTTP/1.1\r\n" + b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1500 + b"\r\n")
        assert b" 431 " in answer(client)
    assert api.ask("GET", "/v1/status").status == 200


@pytest.mark.parametrize("piece", [b"X-A: %s\r\n" % (b"a" * 1000), b"a" * 5000])
def test_long_trailers(api: LocalAdmin, piece: bytes) -> None:
    body = b"PUT /v1/backends/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    with raw(api) as client:
        send(client, body + b"X-First: ")
        for _ in range(200):
            send(client, piece)
        assert b" 431 " in answer(client)
    with raw(api) as client:
        send(client, body + b"X-A: b\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer(client).count(b"HTTP/1.1 200 ") == 2


def test_slow_heads_and_silence(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT_S", 0.2)
    for begin in (b"", b"GET /v1/status HTTP/1.1\r\nHost:", b"\r\n"):
        with raw(api) as client:
            send(client, begin)
            assert b" 408 " in answer(client)


def test_slow_bodies(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BODY_TIMEOUT_S", 0.2)
    for begin in (b"", b"{"):
        with raw(api) as client:
            send(client, b"PUT /v1/backends/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + begin)
            assert b" 408 " in answer(client)
    assert api.ask("GET", "/v1/backends/a").status == 404


def test_slow_readers(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WRITE_TIMEOUT_S", 0.2)
    tree = {"backends": {f"b{number}": {"servers": {"s": {"url": f"http://h{number}:1", "version": "v" * 100}}}
                         for number in range(3_000)}}  # fmt: skip
    assert api.ask("POST", "/v1/apply", {"tree": tree}).status == 200
    connections = api.server._server.server_state.connections
    with raw(api) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send(client, b"GET /v1/tree HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200"), "the answer has begun"
        until(lambda: not api.run(lambda: len(connections)), "the connection is cut off", 60)


def test_connections_are_bounded(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CONNECTIONS_MAX", 5)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw(api)) for _ in range(5)]
        send(clients[0], b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in clients[0].recv(65536)
        with raw(api) as extra:
            assert answer(extra) == b""


def test_waiters_are_bounded_before_anything_is_written(app: LocalAdmin) -> None:
    waiters = app.server.api.waiters
    waiters.taken = api_module.WAITERS_MAX
    before = app.ask("GET", "/v1/tree").json
    reply = app.ask("PATCH", "/v1/backends/app/servers/a1?wait=applied", {"weight": 2})
    assert reply.status == 503
    assert app.ask("GET", "/v1/tree").json == before
    assert app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": 2}).status == 200
    waiters.taken = 0


def test_requests_one_behind_the_other_on_one_connection(api: LocalAdmin) -> None:
    with raw(api) as client:
        body = b"{}"
        put = b"PUT /v1/backends/a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        get = b"GET /v1/backends/a HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        send(client, put + get + put + last)
        assert answer(client).count(b"HTTP/1.1 200") == 4


def test_an_error_of_ours_is_a_problem_document_and_in_the_log(
    app: LocalAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(app.live, "status", fail)
    reply = app.ask("GET", "/v1/status")
    assert reply.status == 500
    assert b"secret detail" not in reply.data
    assert "ZeroDivisionError" in str(app.live.logged[-1])
