"""Random bytes, cuts, stalls and closes on both sides of one engine, turned by hand; every round is replayed by its seed.

    PYTHONPATH=src:tests python -m fuzz.fuzz --seconds 600          a long run, from a random seed
    PYTHONPATH=src:tests python -m fuzz.fuzz --seed 17 --rounds 1   one round again

Best under a debug or sanitized build (ci/sanitize tests/fuzz). What must hold: the engine does not crash; the origin reads only
well-formed requests and the clients only well-formed responses, by the strict reader of kit.http1; the head scanner reads
nothing otherwise than llhttp does (a debug build asserts that of every head); when both sides have closed nothing is left.
"""

import argparse
import random
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from bascule.codec.head import read_head
from engine.harness import Harness
from kit.http1 import Cut, Ended, Malformed, Reader, read_body, read_request_head, read_response
from wire import bad, good

STEPS = 60
OWN = 13  # pieces of this file, chosen more often than those of the wire corpus: they get further
CONFIG = """
[listeners.web]
address = "127.0.0.1:1"
header_timeout = "50ms"
keepalive_timeout = "100ms"
body_timeout = "50ms"
max_body_bytes = 300000
trusted_proxies = ["127.0.0.0/8"]
[backends.app]
connect_timeout = "50ms"
response_timeout = "50ms"
idle_timeout = "50ms"
keepalive_timeout = "200ms"
tunnel_timeout = "50ms"
[backends.app.servers.a1]
url = "{origin}"
[backends.none]
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
[frontends.none]
route = "PathPrefix(`/nowhere`)"
backend = "none"
"""
HOST = b"Host: a.test\r\n"
REQUESTS = [
    b"GET /app HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /app HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\nhello world",
    b"POST /app HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000,
    b"POST /app HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: 1\r\n\r\n",
    b"POST /app HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"ffff\r\n"
    + b"y" * 65535
    + b"\r\n0\r\n\r\n",
    b"GET /app HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nbytes of the tunnel",
    b"POST /app HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /app HTTP/1.0\r\n\r\n",
    b"GET /app HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"GET /app HTTP/1.1\r\n" + HOST + b"Connection: close, X-Hop\r\nX-Hop: 1\r\nCookie: a=b\r\n\r\n",
    b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nGET ",
    b"GET http://a.test/app?q=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /app/../app/%2e/x HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n" + b"z" * 150_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"w" * 32768 + b"\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nbytes of the tunnel",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 742 Beyond\r\nContent-Length: 3\r\n\r\nfar",
    b"HTTP/1.1 999\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Connection: close\r\n",
    b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"ffffffffffffffff\r\n", b"-1", b"+", b"0x", b"\x80", b"%00", b"\r\n\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Trailer: a\r\n", b"TE: trailers\r\n", b"\x0b",
]  # fmt: skip


class Violation(AssertionError):
    """What must hold did not."""


class Replay:
    """Bytes as a socket, for kit.http1.Reader."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def settimeout(self, _: float) -> None:
        """Nothing waits here."""

    def recv(self, _: int) -> bytes:
        """Return everything, then the end."""
        data, self.data = self.data, b""
        return data


class Peer:
    """One socket of a round: what it has still to send, and what it received."""

    def __init__(self, sock: socket.socket, send: bytes, methods: list[bytes] | None = None) -> None:
        self.sock = sock
        self.methods = methods  # of the requests in `send`, when each is whole
        self.sent = send
        self.left = send
        self.received = bytearray()
        self.open = True

    def act(self, rng: random.Random) -> None:
        """Do one thing that a peer may do."""
        if not self.open:
            return
        choice = rng.random()
        try:
            if choice < 0.55 and self.left:
                size = rng.choice((1, 2, 7, 100, 5000, 1 << 20))
                self.left = self.left[self.sock.send(self.left[:size]) :]
            elif choice < 0.95:
                self.received += self.sock.recv(rng.choice((1, 100, 1 << 16, 1 << 20)))
            elif choice < 0.97:
                self.sock.shutdown(rng.choice((socket.SHUT_WR, socket.SHUT_WR, socket.SHUT_RD)))
            elif choice < 0.98:
                self.close(reset=True)
            elif choice < 0.985:
                self.close()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def finish(self) -> None:
        """Take what is there, then close."""
        while self.open:
            try:
                data = self.sock.recv(1 << 20)
            except OSError:
                break
            self.received += data
            if not data:
                break
        self.close()

    def close(self, *, reset: bool = False) -> None:
        """Close, with FIN or with RST."""
        if self.open:
            self.open = False
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few changes near their beginning, where the syntax is."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 1, 2, 5))):
        at = rng.randrange(min(len(out), 400) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            out[at:at] = rng.choice(TOKENS)
        elif kind == 1:
            del out[at : at + rng.choice((1, 1, 2, 10))]
        elif kind == 2 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 3:
            out[at:at] = out[at : at + rng.choice((1, 10, 40))]
        else:
            out[at : at + 1] = rng.choice(TOKENS)
    return bytes(out)


def corpus() -> tuple[list[bytes], list[bytes]]:
    """Return requests and responses to begin from: the ones above and those of the wire corpus."""
    requests = [*REQUESTS]
    for module in (good, bad):
        for value in vars(module).values():
            if isinstance(value, list):
                requests += [case.send for case in value if isinstance(getattr(case, "send", None), bytes)]
    # The strict reader must know which responses have no body, so no method but these.
    return [request for request in requests if b"HEAD" not in request], RESPONSES


def stream(rng: random.Random, pieces: list[bytes]) -> bytes:
    """Return some messages one behind another, some of them spliced or changed."""
    out = b""
    for _ in range(rng.choice((1, 1, 2, 4))):
        piece = mutate(rng, rng.choice(pieces if rng.random() < 0.3 else pieces[:OWN]))
        if rng.random() < 0.1:
            other = rng.choice(pieces)
            piece = piece[: rng.randrange(len(piece) + 1)] + other[rng.randrange(len(other) + 1) :]
        out += piece
    return out


def plain_stream(rng: random.Random) -> tuple[bytes, list[bytes]]:
    """Return whole requests, HEAD among them, and their methods: each answer is then read by the rules of its own request."""
    out, methods = b"", []
    for _ in range(rng.choice((1, 2, 4))):
        piece = rng.choice([piece for piece in REQUESTS if b"pgrade" not in piece])
        if rng.random() < 0.5:
            piece = b"HEAD " + piece.partition(b" ")[2]
        out += piece
        methods.append(piece.partition(b" ")[0])
    return out, methods


def check_readers(data: bytes, *, response: bool) -> None:
    """Compare the scanner with llhttp on the first head of a stream."""
    scanned = read_head(data, response=response)
    if scanned is not None and scanned != read_head(data, response=response, scanner=False):
        raise Violation(f"the scanner reads {data[:2000]!r} as {scanned}, llhttp otherwise")


def check_origin(server: Peer) -> None:
    """Read everything the origin received as requests; the last may be cut."""
    reader = Reader(Replay(bytes(server.received)))  # type: ignore[arg-type]
    try:
        while True:
            message = read_request_head(reader)
            read_body(reader, message, response=False)
            if message.get(b"upgrade") is not None and b" 101 " in server.sent:
                return
    except (Cut, Ended):
        return
    except Malformed as error:
        raise Violation(f"the origin received {bytes(server.received[:2000])!r}: {error}") from error


def check_client(client: Peer) -> None:
    """Read everything the client received as responses; the last may be cut."""
    if client.methods is None and b"HEAD " in client.sent:
        return
    methods = iter(client.methods or ())
    reader = Reader(Replay(bytes(client.received)))  # type: ignore[arg-type]
    try:
        while True:
            # Codes of 600 and more are passed on: RFC 9110 section 15 says how they are to be read.
            if read_response(reader, next(methods, b"GET"), codes=rb"[1-9]").status == 101:
                return
    except (Cut, Ended):
        return
    except Malformed as error:
        raise Violation(
            f"the client sent {client.sent[:2000]!r} and received {bytes(client.received[:2000])!r}: {error}"
        ) from error


class Fuzzer:
    """Two engines for many rounds: one whose origin is behind TCP, one behind a Unix socket."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        inet = Harness(config=CONFIG, send_bytes=8192)
        unix = Harness(config=CONFIG, send_bytes=8192, unix=Path(self.directory.name, "origin"))
        self.engines = (inet, unix)
        self.harness = inet
        self.requests, self.responses = corpus()

    def round(self, seed: int) -> None:
        """Play one round; Violation when something does not hold."""
        rng = random.Random(seed)
        h = self.harness = self.engines[rng.random() < 0.2]
        clients = []
        for _ in range(rng.choice((1, 2, 4))):
            sock = h.connect(receive_bytes=rng.choice((0, 2048)))
            plain = rng.random() < 0.25
            clients.append(Peer(sock, *plain_stream(rng)) if plain else Peer(sock, stream(rng, self.requests)))
        servers: list[Peer] = []
        h.origin.setblocking(False)
        for _ in range(rng.choice((STEPS, 2 * STEPS, 5 * STEPS))):
            choice = rng.random()
            if choice < 0.35:
                rng.choice(clients).act(rng)
            elif choice < 0.6:
                if servers:
                    rng.choice(servers).act(rng)
            elif choice < 0.602:
                time.sleep(rng.choice((0.02, 0.08)))
            elif choice < 0.61:
                h.adopt(h.template.replace("{origin}", h.address))
            elif choice < 0.75:
                self.accept(rng, servers)
            else:
                h.turn()
        self.end(clients, servers, rng)
        for server in servers:
            check_readers(server.sent, response=True)
            check_origin(server)
        for client in clients:
            check_readers(client.sent, response=False)
            check_client(client)

    def close(self) -> None:
        """Close both engines; nothing may be left."""
        for engine in self.engines:
            engine.close()
        self.directory.cleanup()

    def accept(self, rng: random.Random, servers: list[Peer]) -> None:
        """Take a connection to the origin, if there is one."""
        try:
            sock, _ = self.harness.origin.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        servers.append(Peer(sock, stream(rng, self.responses)))

    def end(self, clients: list[Peer], servers: list[Peer], rng: random.Random) -> None:
        """Close both sides; nothing may be left."""
        h = self.harness
        h.turn()
        for peer in [*clients, *servers]:
            peer.finish()
        end = time.monotonic() + 5
        while True:
            h.turn()
            before = len(servers)
            self.accept(rng, servers)
            for peer in servers[before:]:
                peer.finish()
            live = h.engine.live_objects()
            if (live["connections"], live["exchanges"], live["buffers"]) == (0, 0, 0):
                break
            if time.monotonic() > end:
                raise Violation(f"left over: {h.engine.state()} {live}")
            time.sleep(0.001)
        h.sockets.clear()
        h.assert_gauges_zero()


def run(seed: int, *, rounds: int = 0, seconds: float = 0.0) -> int:
    """Play rounds with the seeds from `seed` on, until a number of rounds or of seconds of CPU; return how many."""
    fuzzer = Fuzzer()
    start = time.process_time()
    done = 0
    while done < rounds or (seconds and time.process_time() - start < seconds):
        try:
            fuzzer.round(seed + done)
        except BaseException:
            sys.stderr.write(f"fuzz: seed {seed + done} fails; again with --seed {seed + done} --rounds 1\n")
            raise
        done += 1
    fuzzer.close()
    return done


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="of CPU")
    arguments = parser.parse_args()
    sys.stderr.write(f"fuzz: first seed {arguments.seed}\n")
    done = run(arguments.seed, rounds=arguments.rounds, seconds=arguments.seconds)
    sys.stderr.write(f"fuzz: {done} rounds without a finding\n")


if __name__ == "__main__":
    main()
