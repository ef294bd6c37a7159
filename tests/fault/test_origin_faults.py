"""What the client is told when the origin fails, at every stage of an exchange."""

import threading
import time

import pytest

from kit.client import RawClient, ask, get
from kit.http1 import Cut, Ended, Message
from kit.origin import OriginConnection, ScriptedOrigin, reply_with
from tests.fault.conftest import Fault

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_refused_is_502(fault: Fault) -> None:
    fault.origin.refuse()
    fault.origin.drop_connections()
    assert get(fault.address).status == 502
    fault.origin.start()
    assert get(fault.address).status == 200


def test_no_server_is_503(fault: Fault) -> None:
    assert get(fault.address, "/none").status == 503


def test_connect_timeout_is_504(fault: Fault) -> None:
    started = time.monotonic()
    assert get(fault.address, "/silent").status == 504
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize("request_bytes", [GET, POST], ids=["get", "post"])
def test_silence_before_the_response_is_504(fault: Fault, request_bytes: bytes) -> None:
    def silent(connection: OriginConnection, head: Message) -> bool:
        connection.hang()
        return False

    fault.origin.forget(reply=silent)
    started = time.monotonic()
    assert ask(fault.address, request_bytes).status == 504
    assert time.monotonic() - started >= 0.4


def test_silence_after_an_interim_response_is_504(fault: Fault) -> None:
    def silent(connection: OriginConnection, head: Message) -> bool:
        connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        connection.hang()
        return False

    fault.origin.forget(reply=silent)
    assert get(fault.address).status == 504


def test_whole_exchange_timeout(fault: Fault) -> None:
    """A response that trickles for ever, never silent for long, ends at exchange_timeout."""

    def trickle(connection: OriginConnection, head: Message) -> bool:
        connection.send(CHUNKED)
        while True:
            connection.send(b"1\r\nx\r\n")
            connection.wait(0.05)

    fault.origin.forget(reply=trickle)
    with pytest.raises(Cut):
        get(fault.address, "/whole")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_end_before_the_response_is_502(fault: Fault, end: str) -> None:
    def ending(connection: OriginConnection) -> None:
        connection.request()
        if end == "reset":
            connection.reset()

    fault.origin.forget(script=ending)
    assert ask(fault.address, POST).status == 502
    assert len(fault.origin.requests) == 1


@pytest.mark.parametrize(
    "sent", [b"H", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"]
)
def test_end_inside_the_response_head_is_502(fault: Fault, sent: bytes) -> None:
    fault.origin.forget(reply=reply_with(sent, close=True))
    assert ask(fault.address, POST).status == 502


@pytest.mark.parametrize("end", ["close", "reset", "silence"])
@pytest.mark.parametrize(
    "sent",
    [
        LENGTH,
        LENGTH + b"x",
        LENGTH + b"x" * 99,
        CHUNKED,
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"5\r\nok",
        CHUNKED + b"0\r\n",
    ],
)
def test_end_inside_the_body_is_a_visible_cut(fault: Fault, end: str, sent: bytes) -> None:
    """A client must never take a part for the whole."""

    def dying(connection: OriginConnection, head: Message) -> bool:
        connection.send(sent)
        if end == "reset":
            connection.wait(0.02)
            connection.reset()
        elif end == "silence":
            connection.hang()
        return False

    fault.origin.forget(reply=dying)
    with RawClient(fault.address) as client:
        client.send(GET)
        try:
            status = client.response().status
        except Cut:
            return
        assert status == 502, "a cut response looked complete"


@pytest.mark.parametrize("sent", [CHUNKED + b"2\r\nok\r\n", LENGTH + b"x"])
def test_end_inside_the_body_for_an_http10_client(fault: Fault, sent: bytes) -> None:
    """To an HTTP/1.0 client a chunked body ends with the connection: only a reset tells it from a whole one."""
    fault.origin.forget(reply=reply_with(sent, close=True))
    with RawClient(fault.address) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(Cut):
            client.response()


def test_reset_inside_a_close_delimited_body_is_a_cut(fault: Fault) -> None:
    def dying(connection: OriginConnection, head: Message) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        connection.wait(0.05)
        connection.reset()
        return False

    fault.origin.forget(reply=dying)
    with RawClient(fault.address) as client:
        client.send(GET)
        with pytest.raises(Cut):
            client.response()


def stale_origin(origin: ScriptedOrigin, *, after_reading: bool) -> None:
    """Answer one request per connection with keep-alive, then close instead of answering the second."""

    def script(connection: OriginConnection) -> None:
        connection.request()
        connection.send(OK)
        if after_reading:
            connection.head()
        elif connection.reader.fill():
            connection.reset()

    origin.forget(script=script)


@pytest.mark.parametrize("after_reading", [True, False], ids=["closed", "reset"])
def test_stale_connection_is_retried_once_for_get(fault: Fault, after_reading: bool) -> None:
    """RFC 9112 9.3.1: the pooled connection died between two requests; a GET goes out again on a new one."""
    stale_origin(fault.origin, after_reading=after_reading)
    for _ in range(6):
        answer = get(fault.address)
        assert (answer.status, answer.body) == (200, b"ok")


def test_stale_connection_is_not_retried_for_post(fault: Fault) -> None:
    """A POST whose bytes may have been processed goes out once."""
    stale_origin(fault.origin, after_reading=True)
    assert get(fault.address).status == 200
    before = len(fault.origin.requests)
    status = ask(fault.address, POST).status
    posts = [request for request in fault.origin.requests[before:] if request.method == b"POST"]
    assert len(posts) == 1
    assert status == 502


def test_retry_is_not_endless(fault: Fault) -> None:
    """Connections that all die on the request are tried a bounded number of times."""

    def script(connection: OriginConnection) -> None:
        connection.request()

    fault.origin.forget(script=script)
    assert get(fault.address).status == 502
    assert len(fault.origin.requests) <= 3


def test_origin_that_closed_its_idle_connections(fault: Fault) -> None:
    """A restart of the origin between two requests is not seen by any client."""
    for _ in range(5):
        assert ask(fault.address, POST).status == 200
        fault.origin.drop_connections()


def test_one_failing_exchange_touches_no_other(fault: Fault) -> None:
    """While responses are cut, reset and delayed, another client's exchanges all succeed."""

    def mixed(connection: OriginConnection, head: Message) -> bool:
        if head.target == b"/good":
            connection.send(OK)
            return True
        connection.send(LENGTH + b"part")
        if head.target == b"/reset":
            connection.reset()
        return False

    fault.origin.forget(reply=mixed)
    stop = threading.Event()

    def troubled(target: bytes) -> None:
        while not stop.is_set():
            try:
                ask(fault.address, GET.replace(b" / ", b" " + target + b" "))
            except (Cut, Ended):
                continue

    threads = [threading.Thread(target=troubled, args=(target,)) for target in (b"/reset", b"/close")]
    for thread in threads:
        thread.start()
    try:
        with RawClient(fault.address) as client:
            for _ in range(300):
                assert client.ask(GET.replace(b" / ", b" /good ")).body == b"ok"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
