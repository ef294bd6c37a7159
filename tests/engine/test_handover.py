"""Connections that move from one engine to another while their peers notice nothing (docs/upgrade.md)."""

import os
import socket
import threading

import pytest

from engine.handing import DEADLINE_MS, GET, OK, Crowd, Family, HeirProcess, gone

PARTIAL = b"GET /app HTTP/1.1\r\nHo"
REST = b"st: a\r\n\r\n"


@pytest.fixture
def family() -> Family:
    return Family()


def test_an_idle_connection_is_served_by_the_heir(family: Family) -> None:
    with family as f:
        client = f.served(1)[0]
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.counts() == {"handed_over_idle": 1}
        assert f.counts(heir) == {"inherited": 1}
        assert f.gauges()["listener/web"] == (0, 1)
        answer = f.ask(client)
        assert answer.endswith(b"ok")
        assert b"Connection: close" not in answer
        assert f.totals("listener", "web").requests == 2
        assert f.totals("listener", "web").connections == 1, "it was accepted once"


def test_a_connection_that_never_sent_anything_moves_with_its_deadline() -> None:
    with Family(listener='header_timeout = "1s"') as f:
        client = f.connect()
        f.until(lambda: f.count("clients") == 1, "accepted")
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.ended(client), "the heir closes it when its time is over"


def test_a_request_in_flight_is_answered_first(family: Family) -> None:
    with family as f:
        client = f.connect()
        client.sendall(GET)
        server = f.accept()
        f.head(server)
        heir = f.heir()
        f.rest()
        f.turn(5)
        assert f.count("in_flight") == 1
        assert f.count("clients", heir) == 0
        server.sendall(OK)
        answer = f.head(client)
        assert answer.endswith(b"ok")
        assert b"Connection: close" not in answer
        f.moved(heir)
        assert f.ask(client).endswith(b"ok")


def test_more_exchanges_than_a_parcel_holds_end_in_one_turn(family: Family) -> None:
    with family as f:
        clients = f.crowd(130)
        for client in clients:
            client.sendall(GET)
        servers = [f.accept() for _ in clients]
        heir = f.heir()
        f.rest()
        f.turn(5)
        for server in servers:
            server.sendall(OK)
        f.moved(heir, 130)
        assert f.counts() == {"handed_over_idle": 130}
        for client in clients:
            assert f.head(client).endswith(b"ok")


def test_pipelined_requests_move_unparsed(family: Family) -> None:
    with family as f:
        client = f.connect()
        client.sendall(GET + GET.replace(b"/app", b"/app/2") + GET.replace(b"/app", b"/app/3"))
        server = f.accept()
        assert f.head(server).startswith(b"GET /app ")
        heir = f.heir()
        f.rest()
        f.turn(5)
        server.sendall(OK)
        second = f.accept()
        assert f.head(second).startswith(b"GET /app/2 ")
        f.moved(heir)
        second.sendall(OK)
        assert f.head(second).startswith(b"GET /app/3 ")
        second.sendall(OK)
        assert f.receive(client, 3 * len(OK)).count(b"ok") == 3
        assert f.totals("listener", "web").requests == 3


def test_a_partial_head_goes_on_in_the_heir(family: Family) -> None:
    with family as f:
        client = f.connect()
        client.sendall(PARTIAL)
        f.until(lambda: f.count("in_flight") == 1, "a head begins")
        heir = f.heir()
        f.rest()
        f.until(lambda: f.count("in_flight", heir) == 1, "the head goes on")
        f.moved(heir)
        assert f.ask(client, REST).endswith(b"ok")
        assert f.totals("listener", "web").requests == 1


def test_several_heirs_get_their_share(family: Family) -> None:
    with family as f:
        clients = f.served(1) + f.crowd(349)
        heirs = [f.heir(), f.heir()]
        f.rest()
        f.until(lambda: f.count("clients") == 0, "all move")
        assert {f.count("clients", heir) for heir in heirs} == {150, 200}
        assert f.gauges()["listener/web"] == (0, 350)
        assert f.ask(clients[-1]).endswith(b"ok")


def test_back_and_forth(family: Family) -> None:
    """As an upgrade and a switch back do, with a request each time."""
    with family as f:
        client = f.served(1)[0]
        heir = f.heir()
        f.rest()
        f.moved(heir)
        assert f.ask(client).endswith(b"ok")
        f.engine.resume()
        assert not f.engine.resting
        f.join(heir, f.engine)
        f.rest(heir)
        f.moved(f.engine, giver=heir)
        assert f.ask(client).endswith(b"ok")
        assert f.engine.state()["handed_over_idle"] == heir.state()["handed_over_idle"] == 1
        f.turn(3)
        assert f.count("clients") == 1, "who serves again gives nothing"


def test_per_address_limits_count_what_moved() -> None:
    with Family(listener="max_connections_per_address = 3") as f:
        f.crowd(2)
        heir = f.heir()
        f.rest()
        f.moved(heir, 2)
        heir.lend("web", 0, os.dup(f.front.fileno()))
        third, fourth = f.connect(), f.connect()
        f.until(lambda: f.count("clients", heir) == 3, "a third")
        f.until(lambda: gone(third) or gone(fourth), "the fourth is refused")


def test_a_parcel_larger_than_a_packet_goes_by_way_of_a_file(family: Family) -> None:
    with family as f:
        clients = [f.connect() for _ in range(90)]
        for client in clients:
            client.sendall(PARTIAL + b"st: a\r\nX-Long: " + b"x" * 2000)
        f.until(lambda: f.count("in_flight") == 90, "all heads begin")
        heir = f.heir()
        f.rest()
        f.moved(heir, 90)
        for client in clients:
            client.sendall(b"\r\n\r\n")
        server = f.accept()
        assert b"x" * 2000 in f.head(server)
        f.until(lambda: f.count("servers", heir) == 90, "every request is forwarded")


def test_ten_thousand_idle_connections_move() -> None:
    with Family(listener='keepalive_timeout = "10m"\nheader_timeout = "10m"') as f, Crowd(f, 10_000) as crowd:
        f.until(lambda: f.count("clients") == crowd.count, "all are accepted", 60)
        with HeirProcess(f) as heir:
            heir.say("run")
            f.rest()
            f.until(lambda: f.count("clients") == 0, "all move", 60)
            assert f.count("handed_over_idle") == crowd.count
            assert heir.say("run")["clients"] == crowd.count
            assert crowd.alive() == crowd.count
            assert f.gauges()["listener/web"] == (0, crowd.count)


def test_the_deadline_cuts_what_is_left(family: Family) -> None:
    with family as f:
        waiting, half = f.connect(), f.connect()
        for client in (waiting, half):
            client.sendall(GET)
        servers = [f.accept(), f.accept()]
        for server in servers:
            f.head(server)
        servers[1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        f.head(half)
        heir = f.heir()
        f.engine.rest(100)
        assert f.head(waiting).startswith(b"HTTP/1.1 504 ")
        with pytest.raises(ConnectionResetError):
            f.until(lambda: half.recv(1) if f.count("clients") == 0 else None, "a reset")
        assert f.count("cut_at_deadline") == 2
        assert f.count("drained_closed") == 0
        assert f.count("clients", heir) == 0


def test_without_heirs_resting_is_draining_and_resume_ends_it(family: Family) -> None:
    with family as f:
        client, other = f.served(2)
        f.rest()
        assert f.engine.resting
        assert not f.engine.drained
        assert f.count("servers") == 0, "pooled connections are closed"
        assert b"Connection: close" in f.ask(client)
        f.engine.resume()
        assert not f.engine.state()["draining"]
        assert b"Connection: close" not in f.ask(other)
        f.engine.lend("web", 0, os.dup(f.front.fileno()))
        newcomer = f.connect()
        newcomer.sendall(GET)
        f.until(lambda: f.count("in_flight") == 1, "served again")


def test_draining_gives_to_heirs_too(family: Family) -> None:
    with family as f:
        client = f.served(1)[0]
        heir = f.heir()
        f.engine.drain(DEADLINE_MS)
        f.until(lambda: f.engine.drained, "drained")
        assert f.counts() == {"handed_over_idle": 1}
        assert f.ask(client).endswith(b"ok")
        assert f.count("clients", heir) == 1


def test_requests_go_on_while_connections_move(family: Family) -> None:
    """Clients that never stop asking, each from a thread of its own, over many moves to and fro."""
    with family as f:
        answers: list[bytes] = []
        stop = threading.Event()
        f.origin.setblocking(True)
        f.answering_origin()

        def ask() -> None:
            with socket.create_connection(f.front.getsockname()) as client:
                while not stop.is_set():
                    client.sendall(GET)
                    answer = b""
                    while not answer.endswith(b"ok"):
                        answer += client.recv(4096) or b"ended ok"
                    answers.append(answer)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        giver, taker = f.engine, f.relative()
        f.until(lambda: f.count("clients", giver) == 4, "all are here")
        for _ in range(20):
            f.join(giver, taker)
            giver.rest(DEADLINE_MS)
            f.until(lambda g=giver, t=taker: f.count("clients", g) == 0 and f.count("clients", t) == 4, "all move")
            giver.resume()
            giver, taker = taker, giver
        stop.set()
        f.until(lambda: not any(client.is_alive() for client in clients), "they end")
        assert set(answers) == {OK}
        assert len(answers) == f.totals("listener", "web").requests
        assert f.totals("listener", "web").connections == 4
