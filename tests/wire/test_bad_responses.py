"""What a broken or hostile origin sends is answered with 502 or visibly cut, and never reaches another exchange."""

import threading

import pytest

from kit.client import RawClient, get
from kit.http1 import Cut, Malformed, Message
from kit.origin import OriginConnection, reply_with
from tests.wire.bad import RESPONSES, BadResponse
from tests.wire.conftest import Wire

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_refused(wire: Wire, case: BadResponse) -> None:
    wire.origin.forget(reply=reply_with(case.reply))
    with RawClient(wire.address) as client:
        client.send(GET)
        try:
            status = client.response().status
        except Cut:
            assert case.cut, "the client's connection was cut instead of answered with 502"
        else:
            assert status == 502
    wire.origin.forget(reply=reply_with(OK))
    assert get(wire.address).body == b"ok"
    assert b"poison" not in b"".join(request.raw_head for request in wire.origin.requests)


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_refused_byte_by_byte(wire: Wire, case: BadResponse) -> None:
    if len(case.reply) > 2000:
        wire.origin.forget(reply=reply_with(case.reply, pieces=997))
    else:
        wire.origin.forget(reply=reply_with(case.reply, pieces=1))
    with RawClient(wire.address) as client:
        try:
            assert client.ask(GET).status == 502
        except Cut:
            assert case.cut


def test_longer_than_its_length(wire: Wire) -> None:
    """What follows a complete response on the origin's connection belongs to no exchange."""
    wire.origin.forget(reply=reply_with(OK + POISON))
    with RawClient(wire.address) as client:
        for _ in range(5):
            assert client.ask(GET).body == b"ok"


def test_unsolicited_response_on_an_idle_connection(wire: Wire) -> None:
    """A response that nobody asked for, sent while the connection is pooled, answers no later request."""
    poisoned: list[OriginConnection] = []
    closed = threading.Event()

    def reply(connection: OriginConnection, head: Message) -> bool:
        connection.send(OK)
        if poisoned:
            return True
        poisoned.append(connection)
        connection.wait(0.05)
        connection.send(POISON)
        connection.hang_until_closed()
        closed.set()
        return False

    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        assert client.ask(GET).body == b"ok"
        assert closed.wait(10.0)
        for _ in range(3):
            assert client.ask(GET).body == b"ok"


def test_body_where_none_is_allowed(wire: Wire) -> None:
    """Bytes after a 304, a 204 or the answer to HEAD are no response to the next request."""
    for response in (b"HTTP/1.1 304 Not Modified\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"):
        wire.origin.forget(reply=reply_with(response + POISON))
        with RawClient(wire.address) as client:
            assert client.ask(GET).status in (204, 304)
            wire.origin.forget(reply=reply_with(OK))
            assert client.ask(GET).body == b"ok"
    wire.origin.forget(reply=reply_with(OK + POISON))
    with RawClient(wire.address) as client:
        assert client.ask(GET.replace(b"GET", b"HEAD", 1)).status == 200
        wire.origin.forget(reply=reply_with(OK))
        assert client.ask(GET).body == b"ok"


def test_shorter_than_its_length(wire: Wire) -> None:
    """A body that ends before its length must not look complete."""
    wire.origin.forget(reply=reply_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", close=True))
    with RawClient(wire.address) as client, pytest.raises((Cut, Malformed)):
        client.ask(GET)
