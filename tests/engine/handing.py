"""Two or more engines of one test that hand connections over to each other, and heirs that are processes of their own."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bascule.change.compile import compile_snapshot
from bascule.engine.engine import Engine
from bascule.shared import limits
from bascule.shared.snapshot import make_memfd
from bascule.shared.statistics_reader import Reader
from engine.harness import OK, Harness, tree_of

HERE = Path(__file__).parent
GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET /app/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
DEADLINE_MS = 60_000
LIMITED = """
[listeners.web]
address = "127.0.0.1:1"
[backends.app.servers.a1]
url = "{origin}"
[frontends.app]
route = "PathPrefix(`/app`)"
backend = "app"
[frontends.app.middlewares.m]
type = "concurrency_limit"
max = 1
key = "global"
"""
"""A configuration in which one exchange at a time is admitted."""
COUNTS = ("handed_over_idle", "handed_over_tunnels", "inherited", "refused", "taken_back")


def gone(sock: socket.socket) -> bool:
    """Tell whether a client has been closed or reset."""
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def seqpacket(send_bytes: int = 0) -> tuple[int, int]:
    """Return the descriptors of the two ends of a socket as the keeper makes it."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if send_bytes:
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    return ends[0].detach(), ends[1].detach()


class Family(Harness):
    """The harness's engine, which accepts, and heirs of it."""

    def __init__(
        self,
        *,
        backend: str = "",
        listener: str = "",
        config: str | None = None,
        log: Path | None = None,
        buffer_bytes: int = 0,
    ) -> None:
        """See Harness. All engines share one statistics and one limits region, as workers do.

        `buffer_bytes`: of what the kernel keeps of a connection where the engine writes; 0: as it comes.
        """
        self.limits = limits.create(1 << 20)
        self.image = -1
        self.log = log
        super().__init__(
            backend,
            listener=listener,
            config=config,
            log=log,
            limits_fd=self.limits,
            workers=8,
            send_bytes=buffer_bytes,
            origin_receive_bytes=buffer_bytes,
        )

    def adopt(self, config: str) -> None:
        """Compile and adopt another configuration, in all engines."""
        self.revision += 1
        image = compile_snapshot(tree_of(config), revision=self.revision, slot=self.directory.slot, addresses={})
        if self.image >= 0:
            os.close(self.image)
        self.image = make_memfd(image.image)
        for engine in self.engines:
            assert engine.adopt(self.image) == self.revision

    def relative(self) -> Engine:
        """Return a further engine, without slots, that this harness turns too."""
        log_fd = -1 if self.log is None else os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        engine = Engine(
            worker=len(self.engines), statistics_fd=self.statistics, limits_fd=self.limits, access_log_fd=log_fd
        )
        if log_fd >= 0:
            os.close(log_fd)
        engine.adopt(self.image)
        self.engines.append(engine)
        return engine

    def heir(self, giver: Engine | None = None) -> Engine:
        """Return a further engine that `giver`, the harness's own unless named, gives to."""
        engine = self.relative()
        self.join(giver or self.engine, engine)
        return engine

    def join(self, giver: Engine, taker: Engine, *, send_bytes: int = 0) -> None:
        """Connect two engines; `send_bytes` bounds what may be on its way."""
        ours, theirs = seqpacket(send_bytes)
        taker.inherit(theirs)
        giver.bequeath(ours)

    def puppet(self) -> socket.socket:
        """Return the other end of a bequest: the test plays the heir."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.engine.bequeath(ours.detach())
        self.sockets.append(theirs)
        return theirs

    def rest(self, giver: Engine | None = None) -> None:
        """Let an engine rest, with a deadline that does not come."""
        (giver or self.engine).rest(DEADLINE_MS)

    def count(self, name: str, engine: Engine | None = None) -> int:
        """Return one number of an engine's state."""
        return int((engine or self.engine).state()[name] or 0)

    def counts(self, engine: Engine | None = None) -> dict[str, int]:
        """Return what an engine has given and taken, without zeros."""
        return {name: self.count(name, engine) for name in COUNTS if self.count(name, engine)}

    def served(self, count: int, *, reply: bytes = OK) -> list[socket.socket]:
        """Return clients that have each had an answer on their connection, which is idle now."""
        clients = []
        server: socket.socket | None = None
        for _ in range(count):
            client = self.connect()
            client.sendall(GET)
            server = server or self.accept()
            self.head(server)
            server.sendall(reply)
            assert self.head(client).endswith(b"ok")
            clients.append(client)
        return clients

    def ask(self, client: socket.socket, request: bytes = GET) -> bytes:
        """Return the answer to a request that an engine without pooled connections forwards."""
        client.sendall(request)
        server = self.accept()
        self.head(server)
        server.sendall(OK)
        return self.head(client)

    def crowd(self, count: int) -> list[socket.socket]:
        """Return so many accepted clients that have sent nothing."""
        before = self.count("clients")
        clients = []
        for number in range(count):
            clients.append(self.connect())
            if number % 32 == 0:
                self.turn()
        self.until(lambda: self.count("clients") == before + count, "all are accepted")
        return clients

    def tunnel(self, *, receive_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
        """Return the client's and the server's end of a tunnel that has carried a byte each way."""
        client = self.connect(receive_bytes=receive_bytes)
        client.sendall(UPGRADE)
        server = self.accept()
        self.head(server)
        server.sendall(SWITCH + b"<")
        assert self.head(client).endswith(b"\r\n\r\n<")
        client.sendall(b">")
        assert self.receive(server) == b">"
        return client, server

    def moved(self, taker: Engine, count: int = 1, giver: Engine | None = None) -> None:
        """Wait until all clients of an engine are another's, `count` in all."""
        self.until(lambda: self.count("clients", taker) == count and not self.count("clients", giver), "all move")

    def packet(self, sock: socket.socket) -> tuple[bytes, list[int]]:
        """Return the next packet on a socket of a handover and its descriptors."""
        found: list[tuple[bytes, list[int]]] = []

        def arrived() -> bool:
            try:
                data, descriptors, _, _ = socket.recv_fds(sock, 1 << 18, 253)
            except BlockingIOError:
                return False
            found.append((data, descriptors))
            return True

        self.until(arrived, "a packet")
        return found[0]

    def gauges(self) -> dict[str, tuple[int, int]]:
        """Return in_flight and connections_open of every object, over all workers."""
        rows = Reader(self.statistics).totals()
        return {f"{row.kind}/{row.id}": (row.in_flight, row.connections_open) for row in rows}

    def answering_origin(self) -> None:
        """Answer requests on the origin's side from threads, until the origin is closed."""

        def serve(server: socket.socket) -> None:
            with server:
                data = b""
                while more := server.recv(65536):
                    data += more
                    while b"\r\n\r\n" in data:
                        data = data.partition(b"\r\n\r\n")[2]
                        server.sendall(OK)

        def accept() -> None:
            while True:
                try:
                    server, _ = self.origin.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(server,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def close(self) -> None:
        """Close all engines; no object may be left in any."""
        for engine in self.engines:
            engine.close()
            live = engine.live_objects()
            assert not any(live[name] for name in ("connections", "exchanges", "buffers", "timers")), live
        assert all(open_ == 0 for _, open_ in self.gauges().values()), self.gauges()
        super().close()
        os.close(self.limits)
        os.close(self.image)

    def __enter__(self) -> "Family":
        return self


class Told:
    """A process that does what a line on its standard input says, and answers each with a line of JSON."""

    def __init__(self, script: str, *arguments: object, descriptors: tuple[int, ...] = ()) -> None:
        """Start a script of this folder."""
        self.process = subprocess.Popen(
            [sys.executable, HERE / script, *map(str, arguments)],
            pass_fds=descriptors,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def say(self, command: str) -> Any:
        """Have it do something and return what it answers."""
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """Return the next line it writes."""
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            assert self.process.stdin
            assert self.process.stdout
            self.process.stdin.close()
            self.process.wait(60)
            self.process.stdout.close()


class HeirProcess(Told):
    """An engine in a process of its own that takes over connections; it handles events only when told."""

    def __init__(self, family: Family, worker: int = 7) -> None:
        """Start it as the heir of the family's first engine."""
        ours, theirs = seqpacket()
        descriptors = (family.statistics, family.limits, family.image, theirs)
        super().__init__("heir.py", worker, *descriptors, descriptors=descriptors)
        os.close(theirs)
        self.say("state")
        family.engine.bequeath(ours)


class Crowd(Told):
    """Idle clients in a process of their own."""

    def __init__(self, family: Family, count: int) -> None:
        """Begin to connect so many, or as many as descriptors allow."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 1000)), hard))
        self.count = min(count, hard - 1000)
        super().__init__("crowd.py", family.front.getsockname()[1], self.count)

    def alive(self) -> int:
        """Return how many connections have neither ended nor received anything."""
        return int(self.say("alive"))
