"""The course of an exchange: order, streaming both ways, Expect, early answers, half-close, reuse."""

import contextlib
import hashlib
import threading

import pytest

from kit.client import RawClient, ask
from kit.http1 import Cut, Ended, Malformed, Message, read_body
from kit.origin import OriginConnection, echo, reply_with
from tests.wire.conftest import Wire

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BIG = bytes(range(256)) * 4096 * 8


def post(length: int, extra: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n%s\r\n" % (length, extra)


def test_pipelined_responses_keep_their_order(wire: Wire) -> None:
    release = threading.Event()

    def reply(connection: OriginConnection, head: Message) -> bool:
        if head.target == b"/0":
            release.wait(5)
        body = head.target
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return True

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(b"".join(GET.replace(b" / ", b" /%d " % i) for i in range(20)))
        wire.origin.wait_requests(1)
        release.set()
        assert [client.response().body for _ in range(20)] == [b"/%d" % i for i in range(20)]


def test_connections_are_kept_alive_on_both_sides(wire: Wire) -> None:
    with RawClient(wire.address) as client:
        for _ in range(20):
            assert client.ask(GET).body == b"ok"
    assert len(set(wire.origin.connection_of)) == 1


def test_an_upstream_connection_serves_other_clients_after(wire: Wire) -> None:
    for _ in range(10):
        assert ask(wire.address, GET).body == b"ok"
    assert len(set(wire.origin.connection_of)) == 1


def test_expect_continue(wire: Wire) -> None:
    """RFC 9110 10.1.1: the client sends its body only after the 100."""

    def reply(connection: OriginConnection, head: Message) -> bool:
        if head.all(b"expect"):
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        read_body(connection.reader, head, response=False)
        connection.send(echo(head))
        return True

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(post(5, b"Expect: 100-continue\r\n"))
        assert client.reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        assert client.ask(b"hello", b"POST").body == b"hello"
        assert client.ask(GET).status == 200


def test_expect_continue_refused_does_not_desynchronise(wire: Wire) -> None:
    """CVE-2025-4366: bytes after a final answer to Expect are the body still, or the connection ends: never a request."""

    def reply(connection: OriginConnection, head: Message) -> bool:
        if head.method == b"POST":
            connection.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
            return False
        return reply_with(OK)(connection, head)

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(post(len(SMUGGLED), b"Expect: 100-continue\r\n"))
        assert client.response().status == 417
        client.send(SMUGGLED)
        client.send(GET)
        with contextlib.suppress(Cut, Ended, Malformed):
            while True:
                client.response()
    assert b"/smuggled" not in {request.target for request in wire.origin.requests}


def test_early_response_with_the_body_unread(wire: Wire) -> None:
    """The answer comes while the body is arriving; what arrives later is still that body."""

    def reply(connection: OriginConnection, head: Message) -> bool:
        if head.method != b"POST":
            return reply_with(OK)(connection, head)
        connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        connection.hang_until_closed()
        return False

    wire.origin.forget(reply=reply)
    body = b"x" * 100 + SMUGGLED
    with RawClient(wire.address) as client:
        client.send(post(len(body)) + body[:50])
        answer = client.response()
        assert (answer.status, answer.body) == (401, b"no")
        client.send(body[50:])
        client.send(GET)
        with contextlib.suppress(Cut, Ended):
            assert client.response().status == 200
    assert b"/smuggled" not in {request.target for request in wire.origin.requests}


def test_early_response_and_close_during_a_large_upload(wire: Wire) -> None:
    """An origin that refuses an upload and closes is heard, although writing to it fails."""

    def reply(connection: OriginConnection, head: Message) -> bool:
        connection.reader.exactly(1000)
        connection.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        return False

    wire.origin.forget(reply=reply)
    with RawClient(wire.trusted) as client:
        answer = client.send_meanwhile(post(len(BIG)) + BIG).response()
        assert (answer.status, answer.body) == (403, b"no")


def test_responses_are_streamed(wire: Wire) -> None:
    """The client has the first part before the origin has sent the second."""
    arrived = threading.Event()

    def reply(connection: OriginConnection, head: Message) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert arrived.wait(5), "the client never saw the first chunk"
        connection.send(b"6\r\nsecond\r\n0\r\n\r\n")
        return True

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(GET)
        client.reader.until(b"first")
        arrived.set()
        assert b"second" in client.reader.until(b"0\r\n\r\n")


def test_requests_are_streamed(wire: Wire) -> None:
    """The origin has the first part of a body before the client has sent the second."""
    arrived = threading.Event()

    def reply(connection: OriginConnection, head: Message) -> bool:
        assert connection.reader.exactly(5) == b"first"
        arrived.set()
        assert connection.reader.exactly(6) == b"second"
        connection.send(OK)
        return True

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(post(11) + b"first")
        assert arrived.wait(5), "the origin never saw the first part"
        assert client.ask(b"second", b"POST").status == 200


def test_half_closed_client_gets_its_answer(wire: Wire) -> None:
    release = threading.Event()

    def reply(connection: OriginConnection, head: Message) -> bool:
        release.wait(5)
        connection.send(OK)
        return True

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        client.send(GET)
        client.half_close()
        wire.origin.wait_requests(1)
        release.set()
        assert client.response().body == b"ok"
        assert client.closed()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_large_response(wire: Wire, framing: str) -> None:
    heads = {
        "length": b"Content-Length: %d\r\n\r\n" % len(BIG),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n",
        "close": b"Connection: close\r\n\r\n",
    }
    sizes = [1, 17, 4096, 65536, 1 << 20]
    body, at = bytearray(), 0
    while framing == "chunked" and at < len(BIG):
        part = BIG[at : at + sizes[at % len(sizes)]]
        body += b"%x\r\n%s\r\n" % (len(part), part)
        at += len(part)
    wire_body = bytes(body) + b"0\r\n\r\n" if framing == "chunked" else BIG
    wire.origin.forget(reply=reply_with(b"HTTP/1.1 200 OK\r\n" + heads[framing] + wire_body, close=framing == "close"))
    answer = ask(wire.address, GET)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(BIG).digest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_request(wire: Wire, framing: str) -> None:
    wire.origin.forget(reply=reply_with(OK))
    if framing == "length":
        request = post(len(BIG)) + BIG
    else:
        parts = [BIG[at : at + 70001] for at in range(0, len(BIG), 70001)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        request = b"POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    with RawClient(wire.trusted) as client:
        assert client.ask(request).status == 200
        assert client.ask(GET).status == 200
    assert hashlib.sha256(wire.origin.requests[0].body).digest() == hashlib.sha256(BIG).digest()
