"""Three engines that hand their connections to each other at random moments, under clients that verify every byte.

    PYTHONPATH=src:tests python -m fuzz.moves --seconds 600 --seed 1

Half of the clients pipeline requests, cut anywhere, and check that the answers are theirs, in order, and that none says close; the
others hold tunnels whose server sends everything back. Engines rest with one heir or two, now and then with one more that takes
a parcel and dies without an answer. What must hold: no client notices; every parcel is answered or comes back; nothing is left.
"""

import argparse
import random
import select
import socket
import threading
import time

from engine.handing import DEADLINE_MS, SWITCH, UPGRADE, Family

ASKERS = 6
TUNNELS = 5
CLIENT_TIMEOUT_S = 30.0


def take(client: socket.socket, buffer: bytearray, end: bytes | int) -> bytes:
    """Return what comes up to and with `end`, or so many bytes; the rest stays in the buffer."""
    while (end not in buffer) if isinstance(end, bytes) else len(buffer) < end:
        more = client.recv(65536)
        assert more, "the connection ended"
        buffer += more
    length = buffer.index(end) + len(end) if isinstance(end, bytes) else end
    taken = bytes(buffer[:length])
    del buffer[:length]
    return taken


def serve(server: socket.socket) -> None:
    """The origin: the path, many times, as the answer; what a tunnel brings goes back."""
    buffer = bytearray()
    try:
        with server:
            while True:
                head = take(server, buffer, b"\r\n\r\n")
                if b"upgrade:" in head.lower():
                    server.sendall(SWITCH + bytes(buffer))
                    while data := server.recv(65536):
                        server.sendall(data)
                    return
                body = body_of(head.split(b" ")[1])
                server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except (OSError, AssertionError):
        return


def body_of(path: bytes) -> bytes:
    """What the origin answers to a path."""
    return path * (1 + sum(path) % 50)


class Round:
    """One run from one seed."""

    def __init__(self, seed: int) -> None:
        """See the module."""
        self.seed = seed
        self.family = Family(buffer_bytes=32768)
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.requests = self.bytes = self.moves = 0

    def accept(self) -> None:
        """Serve every connection to the origin in a thread of its own."""
        while True:
            try:
                server, _ = self.family.origin.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(server,), daemon=True).start()

    def client(self, number: int) -> None:
        """One client from its connection to the end of the run."""
        rng = random.Random(f"{self.seed}/{number}")
        try:
            with socket.create_connection(self.family.front.getsockname(), CLIENT_TIMEOUT_S) as client:
                (self.tunnel if number < TUNNELS else self.ask)(client, rng, b"/app/%d" % number)
        except (OSError, AssertionError) as error:
            self.errors.append(f"client {number}: {error!r}")

    def ask(self, client: socket.socket, rng: random.Random, name: bytes) -> None:
        """Send requests in bursts, cut in two, and check the answers."""
        buffer = bytearray()
        while not self.stop.is_set():
            paths = [b"%s/%d" % (name, self.requests + number) for number in range(rng.randrange(1, 8))]
            text = b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths)
            cut = rng.randrange(len(text))
            client.sendall(text[:cut])
            time.sleep(rng.random() * 0.02)
            client.sendall(text[cut:])
            for path in paths:
                head = take(client, buffer, b"\r\n\r\n")
                body = body_of(path)
                assert head == b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), head
                assert take(client, buffer, len(body)) == body
                self.requests += 1

    def tunnel(self, client: socket.socket, rng: random.Random, _: bytes) -> None:
        """Send more than fits anywhere on the way, read now and then, and check what comes back."""
        buffer = bytearray()
        client.sendall(UPGRADE)
        assert take(client, buffer, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        while not self.stop.is_set():
            data = rng.randbytes(rng.choice([10, 1000, 200_000]))
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            time.sleep(rng.random() * 0.02)
            assert take(client, buffer, len(data)) == data
            sender.join()
            self.bytes += len(data)

    def move(self, rng: random.Random) -> None:
        """Let one engine rest, or serve again."""
        f = self.family
        giver = rng.choice(f.engines)
        if giver.resting:
            giver.resume()
            return
        heirs = [engine for engine in f.engines if engine is not giver and not engine.resting]
        if not heirs:
            return
        for heir in rng.sample(heirs, rng.randrange(1, len(heirs) + 1)):
            f.join(giver, heir)
        dying = f.puppet() if giver is f.engine and rng.random() < 0.2 else None
        giver.rest(DEADLINE_MS)
        self.moves += 1
        if dying is not None:
            self.turn(0.02)
            f.sockets.remove(dying)
            dying.close()

    def turn(self, seconds: float) -> None:
        """Let all engines handle what comes, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            select.select([engine.fileno() for engine in self.family.engines], [], [], 0.002)
            for engine in self.family.engines:
                engine.turn()

    def enough(self) -> bool:
        """Whether anything was tried at all: a busy machine gets more time."""
        return self.moves >= 3 and self.requests >= 10 and self.bytes >= 1000

    def run(self, seconds: float) -> None:
        """Move for so long, let the clients end, and see that nothing is left."""
        f, rng = self.family, random.Random(self.seed)
        with f:
            f.origin.setblocking(True)
            f.relative()
            f.relative()
            numbers = range(ASKERS + TUNNELS)
            clients = [threading.Thread(target=self.client, args=(number,), daemon=True) for number in numbers]
            for thread in [threading.Thread(target=self.accept, daemon=True), *clients]:
                thread.start()
            f.until(lambda: f.count("clients") == len(clients), "all are here", 20)
            began = time.monotonic()
            while not self.errors and (time.monotonic() < began + seconds or not self.enough()):
                assert time.monotonic() < began + seconds + CLIENT_TIMEOUT_S, "hardly anything happens"
                self.move(rng)
                self.turn(rng.random() * 0.05)
            self.stop.set()
            for engine in f.engines:
                engine.resume()
            f.until(lambda: not any(thread.is_alive() for thread in clients), "the clients end", CLIENT_TIMEOUT_S * 2)
            assert self.errors == [], f"seed {self.seed}"
            f.until(lambda: not any(f.count("clients", engine) for engine in f.engines), "nothing is left", 20)
            assert not any(f.count("refused", engine) for engine in f.engines)
            given = sum(f.count("handed_over_idle", e) + f.count("handed_over_tunnels", e) for e in f.engines)
            assert given == sum(f.count("inherited", engine) for engine in f.engines) > 0


def main() -> None:
    """Run once and say what was done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    one = Round(options.seed)
    one.run(options.seconds)
    print(f"{one.moves} moves, {one.requests} requests, {one.bytes} bytes through tunnels: no client noticed")


if __name__ == "__main__":
    main()
