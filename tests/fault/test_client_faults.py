"""Slow, silent, vanishing and greedy clients: each is bounded in time and memory, and none harms another."""

import contextlib
import threading
import time

import pytest

from kit.client import RawClient, get
from kit.http1 import Cut, Ended, Message, read_body
from kit.origin import OriginConnection
from kit.waiting import until
from tests.fault.conftest import Fault

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
BIG = 64 << 20
MEMORY_GROWTH_KIB = 16 * 1024
"""What a score of stuck connections may cost a worker: well above their buffers, far below one stored body."""


def head(length: int, target: bytes = b"/") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % (target, length)


def test_unfinished_head_is_408(fault: Fault) -> None:
    with RawClient(fault.address) as client:
        client.send(GET[:-2])
        assert client.response().status == 408
        assert client.closed()
    assert fault.origin.requests == []


def test_dripping_a_head_does_not_extend_its_deadline(fault: Fault) -> None:
    """Slowloris: the deadline is of the whole head, from its first byte."""
    with RawClient(fault.address) as client:
        started = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\n")
        while not _answered(client, 0.1) and time.monotonic() - started < 10:
            client.send(b"X: y\r\n")
        assert client.response().status == 408


def _answered(client: RawClient, within_s: float) -> bool:
    client.reader.deadline_s = within_s
    try:
        return bool(client.reader.buffer) or client.reader.fill()
    except (TimeoutError, Cut):
        return False
    finally:
        client.reader.deadline_s = 10.0


def test_second_head_on_a_connection_has_the_same_deadline(fault: Fault) -> None:
    with RawClient(fault.address) as client:
        assert client.ask(GET).status == 200
        client.send(GET[:10])
        assert client.response().status == 408


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_idle_connection_is_closed_without_an_answer(fault: Fault, used: bool) -> None:
    with RawClient(fault.address) as client:
        if used:
            assert client.ask(GET).status == 200
        assert client.closed(5.0)


def test_silence_in_a_body_is_408(fault: Fault) -> None:
    with RawClient(fault.address) as client:
        client.send(head(10) + b"hello")
        assert client.response().status == 408
        assert client.closed()


def test_slow_but_steady_body_is_served(fault: Fault) -> None:
    """Bytes that keep coming reset the silence, however long the whole takes."""
    with RawClient(fault.address) as client:
        client.send(head(10))
        client.send_apart([b"x"] * 10, pause_s=0.12)
        assert client.response(b"POST").status == 200


def test_body_below_the_minimum_rate_is_408(fault: Fault) -> None:
    """A body that drips just fast enough never to be silent is still refused."""
    with RawClient(fault.paced) as client:
        client.send(head(1000))
        end = time.monotonic() + 20
        while not _answered(client, 0.1) and time.monotonic() < end:
            client.send(b"x")
        assert client.response().status == 408


def test_client_gone_before_the_response(fault: Fault) -> None:
    """The origin's exchange is ended too: nobody waits for its answer."""

    def waiting(connection: OriginConnection, head_: Message) -> bool:
        connection.hang_until_closed()
        return False

    fault.origin.forget(reply=waiting)
    client = RawClient(fault.patient)
    client.send(GET.replace(b" / ", b" /patient "))
    fault.origin.wait_requests(1)
    connection = fault.origin.connection_of[-1]
    client.reset()
    assert connection.finished.wait(5), "the origin is still waited for"


def test_client_gone_inside_the_response(fault: Fault) -> None:
    def endless(connection: OriginConnection, head_: Message) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    fault.origin.forget(reply=endless)
    client = RawClient(fault.address)
    client.send(GET)
    client.reader.exactly(100_000)
    connection = fault.origin.connection_of[-1]
    client.reset()
    assert connection.finished.wait(5), "the origin still sends to nobody"


def test_client_gone_inside_its_request_body(fault: Fault) -> None:
    """The origin must see a cut, not a complete request."""
    whole: list[bool] = []

    def reading(connection: OriginConnection, head_: Message) -> bool:
        read_body(connection.reader, head_, response=False)
        whole.append(True)
        return False

    fault.origin.forget(reply=reading)
    client = RawClient(fault.address)
    client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    fault.origin.wait_requests(1)
    connection = fault.origin.connection_of[-1]
    client.close()
    assert connection.finished.wait(5)
    assert whole == []


def test_client_that_does_not_read_holds_no_memory(fault: Fault) -> None:
    """Backpressure reaches the origin: it is slowed down instead of its answer being stored."""
    sent: list[int] = []
    lock = threading.Lock()

    def flooding(connection: OriginConnection, head_: Message) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(BIG >> 16):
            connection.send(b"x" * 65536)
            with lock:
                sent.append(65536)
        return True

    fault.origin.forget(reply=flooding)
    before = fault.proxy.memory_kib()
    clients = [RawClient(fault.patient, receive_buffer_bytes=8192) for _ in range(20)]
    try:
        for client in clients:
            client.send(GET.replace(b" / ", b" /patient "))
        fault.origin.wait_requests(20)
        settled(sent)
        assert fault.proxy.memory_kib() - before < MEMORY_GROWTH_KIB
        assert sum(sent) < 20 * BIG // 4
        assert get(fault.address, "/none").status == 503, "other clients are no longer served"
        assert len(clients[0].response().body) == BIG
    finally:
        for client in clients:
            client.close()


def settled(sent: list[int]) -> None:
    """Wait until nothing more has been sent for a while."""
    last = [-1]

    def same() -> bool:
        now = len(sent)
        same_, last[0] = now == last[0], now
        return same_

    until(same, "the flow stops", 20.0, 0.3)


def test_origin_that_does_not_read_holds_no_memory(fault: Fault) -> None:
    """Backpressure reaches the client: its upload is slowed down instead of stored."""

    def deaf(connection: OriginConnection, head_: Message) -> bool:
        connection.hang()
        return False

    fault.origin.forget(reply=deaf)
    before = fault.proxy.memory_kib()
    clients = [RawClient(fault.patient) for _ in range(20)]
    sent: list[int] = []

    def upload(client: RawClient) -> None:
        client.sock.settimeout(3)
        try:
            client.sock.sendall(head(BIG, b"/patient"))
            for _ in range(BIG >> 16):
                client.sock.sendall(b"x" * 65536)
                sent.append(65536)
        except OSError:
            pass

    threads = [threading.Thread(target=upload, args=(client,)) for client in clients]
    try:
        for thread in threads:
            thread.start()
        fault.origin.wait_requests(20)
        settled(sent)
        assert fault.proxy.memory_kib() - before < MEMORY_GROWTH_KIB
        assert sum(sent) < 20 * BIG // 2
    finally:
        for client in clients:
            client.close()
        for thread in threads:
            thread.join()


def test_client_that_stops_reading_is_cut_at_the_deadline(fault: Fault) -> None:
    finished: list[OriginConnection] = []

    def flooding(connection: OriginConnection, head_: Message) -> bool:
        finished.append(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(BIG >> 16):
            connection.send(b"x" * 65536)
        return True

    fault.origin.forget(reply=flooding)
    with RawClient(fault.address, receive_buffer_bytes=8192) as client:
        client.send(GET)
        fault.origin.wait_requests(1)
        assert finished[0].finished.wait(10), "the exchange of a client that never reads goes on for ever"


def test_connection_cap_per_address(fault: Fault) -> None:
    """The fifth connection of one address is refused, and admitted again when another has gone."""
    clients = [RawClient(fault.capped) for _ in range(4)]
    try:
        for client in clients:
            assert client.ask(GET).status == 200
        with RawClient(fault.capped) as fifth:
            fifth.send(GET)
            with contextlib.suppress(Cut, Ended):
                assert fifth.response().status in (429, 503)
        assert clients[0].ask(GET).status == 200
    finally:
        for client in clients:
            client.close()

    def admitted() -> bool:
        try:
            with RawClient(fault.capped) as client:
                return client.ask(GET).status == 200
        except (Cut, Ended):
            return False

    until(admitted, "a connection is admitted after others have gone")


def test_many_half_open_clients_do_not_stop_others(fault: Fault) -> None:
    idle = [RawClient(fault.address) for _ in range(200)]
    try:
        for client in idle:
            client.send(GET[:20])
        assert get(fault.address).status == 200
    finally:
        for client in idle:
            client.close()
