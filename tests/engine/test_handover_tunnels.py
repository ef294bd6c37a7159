"""Tunnels that move from one engine to another with their unsent bytes, half-closes, counters and holdings."""

import socket
from pathlib import Path

import pytest

from engine.handing import GET, LIMITED, SWITCH, UPGRADE, Family


@pytest.fixture
def family() -> Family:
    return Family()


def test_a_tunnel_moves_and_goes_on(family: Family) -> None:
    with family as f:
        client, server = f.tunnel()
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.counts() == {"handed_over_tunnels": 1}
        assert f.count("servers") == 0
        for number in range(5):
            client.sendall(b"up%d" % number)
            assert f.receive(server, 3) == b"up%d" % number
            server.sendall(b"down%d" % number)
            assert f.receive(client, 5) == b"down%d" % number
        assert f.totals("listener", "web").requests == 0
        assert f.totals("listener", "web").in_flight == 1
        client.close()
        assert f.ended(server)
        server.close()
        f.until(lambda: f.count("clients", heir) == 0, "the tunnel ends")
        assert {
            f.totals(kind, name).requests
            for kind, name in (("listener", "web"), ("frontend", "app"), ("backend", "app"), ("server", "app/a1"))
        } == {1}
        f.assert_gauges_zero()


def test_a_tunnel_that_begins_while_its_worker_rests_moves_too(family: Family) -> None:
    with family as f:
        client = f.connect()
        client.sendall(UPGRADE)
        server = f.accept()
        f.head(server)
        heir = f.heir()
        f.rest()
        f.turn(5)
        server.sendall(SWITCH)
        f.moved(heir)
        assert f.head(client).startswith(b"HTTP/1.1 101 ")
        client.sendall(b"up")
        assert f.receive(server, 2) == b"up"


def stuff(f: Family, sock: socket.socket, pattern: bytes) -> bytes:
    """Send until the engine takes no more; return what was sent."""
    sent = bytearray()
    quiet = 0
    while quiet < 20:
        data = pattern * (65536 // len(pattern))
        try:
            sent += data[: sock.send(data)]
            quiet = 0
        except BlockingIOError:
            quiet += 1
        f.turn()
    return bytes(sent)


def test_unsent_bytes_of_both_directions_move() -> None:
    with Family(buffer_bytes=65536) as f:
        client, server = f.tunnel(receive_bytes=65536)
        up = stuff(f, client, b"0123456789abcdef")
        down = stuff(f, server, b"ZYXWVUTSRQPONMLK")
        before = f.engine.live_objects()["buffers"]
        assert before >= 2, "nothing waits in the engine"
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.engine.live_objects()["buffers"] == 0
        assert heir.live_objects()["buffers"] >= before
        assert f.receive(server, len(up), 20) == up
        assert f.receive(client, len(down), 20) == down
        client.sendall(b"end")
        assert f.receive(server, 3) == b"end"


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_half_closed_tunnel_stays_half_open(side: str, pending: bool) -> None:
    with Family(buffer_bytes=65536) as f:
        ends = dict(zip(("client", "server"), f.tunnel(receive_bytes=65536), strict=True))
        closing = ends.pop(side)
        (open_,) = ends.values()
        sent = stuff(f, closing, b"0123456789abcdef") if pending else b""
        closing.shutdown(socket.SHUT_WR)
        f.turn(5)
        if not pending:
            assert f.ended(open_)
        heir = f.heir()
        f.rest()
        f.moved(heir)
        if pending:
            assert f.receive(open_, len(sent), 20) == sent
            # The kernel repeats an end that found no room in the window ever more slowly, so it may come seconds later.
            assert f.receive(open_, 1, 30) == b""
        open_.sendall(b"still")
        assert f.receive(closing, 5) == b"still"
        open_.shutdown(socket.SHUT_WR)
        assert f.ended(closing)
        f.until(lambda: f.count("clients", heir) == 0, "the tunnel ends")


def test_a_tunnel_is_logged_by_its_heir_as_if_it_had_not_moved(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Family(log=log) as f:
        client, server = f.tunnel()
        first = f.heir()
        f.rest()
        f.moved(first)
        second = f.heir(first)
        f.rest(first)
        f.moved(second, giver=first)
        client.sendall(b"12345")
        assert f.receive(server, 5) == b"12345"
        client.close()
        assert f.ended(server)
        server.close()
        f.until(lambda: f.count("clients", second) == 0, "the tunnel ends")
        f.until(log.read_text, "a line")
        (line,) = log.read_text().splitlines()
        assert 'request="GET /app/ws" status=101' in line
        assert " listener=web frontend=app backend=app server=a1 error=- revision=1" in line
        assert " client=127.0.0.1 " in line


def test_a_silent_tunnel_ends_in_its_time_after_moving() -> None:
    with Family(backend='tunnel_timeout = "1s"') as f:
        client, _ = f.tunnel()
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.ended(client)


def test_a_concurrency_holding_moves_with_its_tunnel() -> None:
    with Family(config=LIMITED) as f:
        probe = f.connect()
        client, server = f.tunnel()
        heir = f.heir()
        f.rest()
        f.moved(heir, 2)
        probe.sendall(GET)
        assert f.head(probe).startswith(b"HTTP/1.1 429 "), "the tunnel still counts"
        client.close()
        assert f.ended(server)
        server.close()
        f.until(lambda: f.count("clients", heir) == 1, "the tunnel ends")
        assert f.ask(probe).endswith(b"ok"), "given back"
