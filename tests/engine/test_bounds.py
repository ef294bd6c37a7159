"""What the configuration promises is what the engine enforces: bounds, protocol headers, trailers, removed listeners."""

import os
import socket

import pytest

from bascule.change.compile import compile_snapshot
from bascule.engine.engine import EngineError
from bascule.model import limits
from bascule.shared.snapshot import make_memfd
from bascule.store.file import Unloadable
from engine.harness import OK, Harness, tree_of

GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
SERVED = '[backends.app.servers.a1]\nurl = "{origin}"\n'


def head_of(size: int) -> bytes:
    """Return a request head of exactly `size` bytes, most of them a header."""
    frame = b"GET /app HTTP/1.1\r\nHost: a\r\nX-Pad: \r\n\r\n"
    return frame.replace(b"X-Pad: ", b"X-Pad: " + b"p" * (size - len(frame)))


def test_the_longest_head_that_can_be_configured_is_served_and_no_longer_one() -> None:
    with Harness(listener=f"max_header_bytes = {limits.HEADER_BYTES_MAX}") as h:
        client, other = h.connect(), h.connect()
        client.setblocking(True)
        client.sendall(head_of(limits.HEADER_BYTES_MAX))
        client.setblocking(False)
        server = h.accept()
        received = h.head(server)
        assert received.count(b"p") > limits.HEADER_BYTES_MAX - 100
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")
        other.setblocking(True)
        other.sendall(head_of(limits.HEADER_BYTES_MAX + 1))
        other.setblocking(False)
        assert h.head(other).startswith(b"HTTP/1.1 431 ")


def test_an_image_beyond_the_bounds_is_refused() -> None:
    with Harness() as h:
        tree = tree_of(h.template.replace("{origin}", h.address).replace("127.0.0.1:1", "127.0.0.1:2"))
        tree.listeners["web"] = type(tree.listeners["web"])(
            address="127.0.0.1:2", max_header_bytes=limits.HEADER_BYTES_MAX + 1
        )
        image = compile_snapshot(tree, revision=9, slot=h.directory.slot, addresses={})
        descriptor = make_memfd(image.image)
        with pytest.raises(EngineError, match="refused"):
            h.engine.adopt(descriptor)
        os.close(descriptor)


def more(h: Harness, sock: socket.socket) -> bytes:
    """Return what comes next; it must not be the end."""
    data = h.receive(sock)
    assert data, "ended too early"
    return data


def concurrency(count: int) -> str:
    return "".join(
        f'[frontends.app.middlewares.c{number}]\ntype = "concurrency_limit"\nmax = 1\n' for number in range(count)
    )


def test_as_many_concurrency_limits_as_an_exchange_can_hold() -> None:
    base = (
        '[listeners.web]\naddress = "127.0.0.1:1"\n[backends.app]\n'
        '[frontends.app]\nroute = "PathPrefix(`/`)"\nbackend = "app"\n'
    )
    most = limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX
    tree_of(base + concurrency(most))
    with pytest.raises(Unloadable) as refused:
        tree_of(base + concurrency(most + 1))
    (problem,) = refused.value.problems
    assert f"at most {most}" in problem.message
    assert "remove" in problem.remedy


def test_a_refused_method_says_what_is_allowed() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        answer = h.head(client)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: \r\n" in answer


@pytest.mark.parametrize(("status", "kept"), [(b"426 Upgrade Required", True), (b"200 OK", False)])
def test_upgrade_required_says_to_what(status: bytes, kept: bool) -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(
            b"HTTP/1.1 %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n" % status
        )
        answer = h.head(client)
        assert (b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in answer) == kept
        assert answer.lower().count(b"upgrade: websocket") == kept


PASSED = [b"X-Checksum: 1", b"grpc-status: 0", b"Server-Timing: a", b"Content-Digest: x", b"ETag: e", b"Acceptance: 1"]
STRUCK = [
    b"content_length: 5", b"transfer_encoding: chunked", b"Host: b", b"Connection: close", b"TE: trailers",
    b"Trailer: a", b"Authorization: b", b"Proxy-Authorization: b", b"WWW-Authenticate: b", b"Set-Cookie: a=b", b"If-Match: *",
    b"Range: bytes=0-1", b"Expect: 100-continue", b"Cache-Control: no-store", b"Content-Type: text/html", b"Location: /",
    b"Vary: *", b"Forwarded: for=x", b"X-Forwarded-For: 1.2.3.4", b"X_Forwarded_For: 1.2.3.4", b"X-Request-Id: 1", b"Via: 1.1 x",
    b"Keep-Alive: 1", b"Upgrade: h2c", b"Accept-Encoding: br", b"Max-Forwards: 1",
]  # fmt: skip


@pytest.mark.parametrize("of_request", [True, False])
def test_trailers_that_only_a_head_may_say_are_struck(of_request: bool) -> None:
    lines = [line for pair in zip(STRUCK, PASSED * 5, strict=False) for line in pair]
    body = b"3\r\nabc\r\n0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    with Harness() as h:
        client = h.connect()
        client.sendall(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + body if of_request else GET)
        server = h.accept()
        received = h.head(server)
        while of_request and not received.endswith(b"\r\n\r\n"):
            received += more(h, server)
        server.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"0\r\n\r\n" if of_request else body)
        )
        answer = h.head(client)
        while not answer.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in answer:
            answer += more(h, client)
        trailers = (received if of_request else answer).partition(b"\r\n0\r\n")[2].split(b"\r\n")
        assert [line for line in trailers if line] == [line for line in lines if line in PASSED]


@pytest.mark.parametrize("line", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_framing_behind_the_chunks_of_a_request_is_malformed(line: bytes) -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + line + b"\r\n\r\n")
        assert h.head(client).startswith(b"HTTP/1.1 400 ")


def test_a_length_behind_the_chunks_of_a_response_cuts_it() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(GET)
        server = h.accept()
        h.head(server)
        server.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"
        )
        answer = h.head(client)
        while received := h.receive(client):
            answer += received
        assert not answer.endswith(b"\r\n0\r\n\r\n"), "it must not look complete"


def test_idle_clients_of_a_removed_listener_are_closed_spread_over_seconds() -> None:
    with Harness(listener='keepalive_timeout = "1h"') as h:
        clients: list[socket.socket] = []
        for _ in range(8):
            client = h.connect()
            client.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
            assert h.head(client).startswith(b"HTTP/1.1 404 ")
            clients.append(client)
        h.engine.take_back("web", 0)
        removed = h.template.replace("{origin}", h.address).replace("[listeners.web]", "[listeners.other]")
        h.adopt(removed.replace('keepalive_timeout = "1h"', ""))
        h.turn()
        assert h.engine.state()["clients"] == 8, "none at once"
        for client in clients:
            assert h.ended(client)
