"""A patient turn waits for answers in the engine itself, and never longer than those it keeps waiting can bear."""

import select
import socket
import threading
import time

from engine.harness import OK, Harness

REQUEST = b"GET /app HTTP/1.1\r\nHost: a.test\r\n\r\n"
FOREVER_MS = 60_000
FAR_LESS_S = 30.0


def link(h: Harness) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a link; the engine watches the first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    h.sockets += [ours, theirs]
    h.engine.watch(ours.fileno())
    return ours, theirs


def test_a_turn_meets_the_answer_and_the_next_request() -> None:
    with Harness() as h:
        _, theirs = link(h)
        client = h.connect()
        h.until(lambda: h.engine.state()["clients"], "the connection")
        answers = []

        def play() -> None:
            """Both peers of two exchanges."""
            client.setblocking(True)
            client.settimeout(20)
            h.origin.settimeout(20)
            server = None
            for _ in range(2):
                client.send(REQUEST)
                if server is None:
                    server, _ = h.origin.accept()
                    h.sockets.append(server)
                    server.settimeout(20)
                server.recv(1 << 16)
                server.send(OK)
                answers.append(client.recv(1 << 16))
            theirs.send(b"enough")

        peers = threading.Thread(target=play)
        h.engine.turn()  # a turn just before: the next one expects more than one request
        peers.start()
        select.select([h.engine.fileno()], [], [], 20)
        started = time.monotonic()
        while len(answers) < 2:
            h.engine.turn(FOREVER_MS)
            assert time.monotonic() - started < FAR_LESS_S
        peers.join()
        assert [answer.endswith(b"ok") for answer in answers] == [True, True]


def test_nothing_in_flight_is_not_waited_for() -> None:
    with Harness() as h:
        h.connect()
        assert select.select([h.engine.fileno()], [], [], 20)[0]
        started = time.monotonic()
        h.engine.turn(FOREVER_MS)
        assert time.monotonic() - started < FAR_LESS_S
        assert h.engine.state()["clients"] == 1


def test_a_watched_descriptor_ends_the_turn() -> None:
    with Harness() as h:
        ours, theirs = link(h)
        client = h.connect()
        h.until(lambda: h.engine.state()["clients"], "the connection")
        client.send(REQUEST)  # the origin never answers
        speaker = threading.Timer(0.2, theirs.send, [b"a message"])
        speaker.start()
        started = time.monotonic()
        h.engine.turn(FOREVER_MS)
        assert time.monotonic() - started < FAR_LESS_S
        speaker.join()
        assert ours.recv(100) == b"a message"
        theirs.close()  # the end of a link is something to say, too
        h.engine.turn(FOREVER_MS)
        assert time.monotonic() - started < FAR_LESS_S


def test_silence_ends_the_turn_with_its_patience() -> None:
    with Harness() as h:
        client = h.connect()
        h.until(lambda: h.engine.state()["clients"], "the connection")
        client.send(REQUEST)
        h.engine.turn(50)
        assert h.engine.state()["exchanges"] == 1
