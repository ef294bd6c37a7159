"""Upgrades: a tunnel only after the origin's 101, and ordinary requests otherwise (RFC 9110 section 7.8)."""

import pytest

from kit.client import RawClient
from kit.http1 import Cut, Ended, Message
from kit.origin import OriginConnection, reply_with
from tests.wire.conftest import Wire

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLBMiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def shouting(connection: OriginConnection, head: Message) -> bool:
    """Switch, and send everything back in capitals until the tunnel ends."""
    connection.send(SWITCH + b"welcome")
    while connection.reader.fill():
        connection.send(connection.reader.take(len(connection.reader.buffer)).upper())
    return False


def test_tunnel_both_ways(wire: Wire) -> None:
    wire.origin.forget(reply=shouting)
    with RawClient(wire.address) as client:
        answer = client.ask(UPGRADE)
        assert answer.status == 101
        assert answer.get(b"upgrade") == b"websocket"
        assert client.reader.exactly(7) == b"welcome"
        for text in (b"a", b"\0\r\n\r\n\xff", b"x" * 100_000):
            client.send(text)
            assert client.reader.exactly(len(text)) == text.upper()
    seen = wire.origin.requests[0]
    assert seen.get(b"upgrade") == b"websocket"
    assert seen.get(b"sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    assert b"upgrade" in (seen.get(b"connection") or b"").lower()


def test_bytes_sent_with_the_request_reach_the_tunnel(wire: Wire) -> None:
    wire.origin.forget(reply=shouting)
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE + b"early").status == 101
        assert client.reader.exactly(12) == b"welcomeEARLY"


def test_no_tunnel_before_the_101(wire: Wire) -> None:
    """CVE-2026-2833: what follows an upgrade that was not granted is the next request, parsed and judged as one."""
    wire.origin.forget(reply=reply_with(OK))
    with RawClient(wire.address) as client:
        client.send(UPGRADE + b"GET /next HTTP/1.1\r\nHost: a.test\r\nX : bad\r\n\r\n" + SMUGGLED)
        assert client.response().status == 200
        assert client.response().status == 400
        assert client.closed()
    assert [request.target for request in wire.origin.requests] == [b"/ws"]


def test_a_refused_upgrade_leaves_the_connection_usable(wire: Wire) -> None:
    wire.origin.forget(reply=reply_with(OK))
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE).status == 200
        assert client.ask(b"GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").status == 200


def test_the_end_of_either_side_ends_the_other(wire: Wire) -> None:
    wire.origin.forget(reply=shouting)
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE).status == 101
        connection = wire.origin.connection_of[-1]
        client.reader.exactly(7)
    assert connection.finished.wait(5), "the origin's side stays open after the client has gone"

    def brief(connection: OriginConnection, head: Message) -> bool:
        connection.send(SWITCH + b"bye")
        return False

    wire.origin.forget(reply=brief)
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE).status == 101
        assert client.reader.exactly(3) == b"bye"
        assert client.closed()


def test_half_close_passes_through_a_tunnel(wire: Wire) -> None:
    """The origin answers after it has read to the end of the client's stream."""

    def at_end(connection: OriginConnection, head: Message) -> bool:
        connection.send(SWITCH)
        connection.send(connection.reader.rest()[::-1])
        return False

    wire.origin.forget(reply=at_end)
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE).status == 101
        client.send(b"abc")
        client.half_close()
        assert client.reader.rest() == b"cba"


@pytest.mark.parametrize("start", [b"GET /ws HTTP/1.0"])
def test_no_upgrade_on_http10(wire: Wire, start: bytes) -> None:
    wire.origin.forget(reply=reply_with(OK))
    with RawClient(wire.address) as client:
        assert client.ask(UPGRADE.replace(b"GET /ws HTTP/1.1", start)).status == 200
    assert wire.origin.requests[0].all(b"upgrade") == []


def test_h2c_is_not_passed_on(wire: Wire) -> None:
    """An h2c upgrade would open a tunnel past every rule of the proxy (h2c smuggling)."""
    wire.origin.forget(reply=reply_with(OK))
    lines = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    with RawClient(wire.address) as client:
        assert client.ask(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + lines + b"\r\n").status in (200, 400)
    assert [value for request in wire.origin.requests for value in request.all(b"upgrade")] == []


def test_a_cut_handshake_is_no_tunnel(wire: Wire) -> None:
    def half(connection: OriginConnection, head: Message) -> bool:
        connection.send(SWITCH[:40])
        return False

    wire.origin.forget(reply=half)
    with RawClient(wire.address) as client:
        try:
            assert client.ask(UPGRADE).status == 502
        except (Cut, Ended):
            pytest.fail("the connection was cut instead of answered with 502")
