"""Who is to blame when a request body does not come: the client that is silent, or the server that it has to wait for."""

import time

from engine.harness import OK, Harness

EXPECTING = b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODY = b"x" * 2000


def test_a_server_that_never_says_continue_is_a_504() -> None:
    with Harness(backend='response_timeout = "400ms"', listener='body_timeout = "100ms"') as h:
        client = h.connect()
        client.sendall(EXPECTING)
        server = h.accept()
        h.head(server)
        assert h.head(client).startswith(b"HTTP/1.1 504")
        assert h.totals("listener", "web").errors == {"response_timeout": 1}


def test_a_client_that_is_silent_after_continue_is_a_408() -> None:
    with Harness(backend='response_timeout = "60s"', listener='body_timeout = "100ms"') as h:
        client = h.connect()
        client.sendall(EXPECTING)
        server = h.accept()
        h.head(server)
        server.sendall(CONTINUE)
        assert h.head(client) == CONTINUE
        assert h.head(client).startswith(b"HTTP/1.1 408")
        assert h.totals("listener", "web").errors == {"client_slow": 1}


def test_waiting_for_continue_is_not_a_slow_body() -> None:
    with Harness(listener='body_timeout = "500ms"\nbody_rate_min = 1000000') as h:
        client = h.connect()
        client.sendall(EXPECTING)
        server = h.accept()
        h.head(server)
        time.sleep(0.7)  # longer than the grace
        h.turn()
        server.sendall(CONTINUE)
        assert h.head(client) == CONTINUE
        client.sendall(BODY)
        assert h.receive(server, len(BODY)) == BODY
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")


def test_waiting_for_a_server_that_does_not_read_is_not_a_slow_body() -> None:
    with Harness(listener='body_timeout = "3s"\nbody_rate_min = 10000000', origin_receive_bytes=1 << 20) as h:
        client = h.connect()
        total = 64 << 20
        client.sendall(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        server = h.accept()
        h.head(server)
        sent = _push(h, client)
        time.sleep(3.2)
        h.receive(server, sent // 2, 20.0)
        more = _push(h, client)
        assert more > 0
        h.turn()
        assert h.totals("listener", "web").errors == {}
        assert h.engine.state()["exchanges"] == 1


def _push(h: Harness, client: object) -> int:
    """Send until nothing moves any more; returns how much."""
    sent = 0
    still = 0
    while still < 20:
        try:
            sent += client.send(b"x" * 65536)  # type: ignore[attr-defined]
            still = 0
        except BlockingIOError:
            still += 1
            h.turn()
    return sent


def test_http10_knows_no_expectations() -> None:
    with Harness() as h:
        client = h.connect()
        client.sendall(b"POST /app HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\nExpect: nonsense\r\n\r\nhi")
        server = h.accept()
        assert b"Expect" not in h.head(server)
        server.sendall(OK)
        assert h.head(client).endswith(b"ok")
