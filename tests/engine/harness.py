"""One engine in the test's own process, between sockets that the test holds: nothing moves unless the test turns it."""

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bascule.change.compile import compile_snapshot
from bascule.engine.engine import Engine
from bascule.model.tree import Tree
from bascule.shared import statistics
from bascule.shared.snapshot import make_memfd
from bascule.shared.statistics_directory import Directory
from bascule.shared.statistics_reader import ObjectTotals, Reader
from bascule.store.file import parse

DEADLINE_S = 30.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def tree_of(config: str) -> Tree:
    """Return the tree of a configuration text."""
    return parse(config.encode(), "test.toml").tree


class Harness:
    """An engine with listener "web" on 127.0.0.1 and one origin, both played by the test."""

    def __init__(
        self,
        backend: str = "",
        *,
        listener: str = "",
        config: str | None = None,
        log: Path | None = None,
        unix: Path | None = None,
        listen_unix: Path | None = None,
        send_bytes: int = 0,
        origin_receive_bytes: int = 0,
        verdicts_fd: int = -1,
        limits_fd: int = -1,
        workers: int = 1,
    ) -> None:
        """`backend` and `listener` are further lines of their tables, `config` replaces the whole text.

        `workers`: segments of the statistics region; the harness's own engine is worker 0.
        """
        self.origin = listening(unix, receive_bytes=origin_receive_bytes)
        self.front = listening(listen_unix, send_bytes=send_bytes)
        self.address = f"unix://{unix}" if unix else f"http://127.0.0.1:{self.origin.getsockname()[1]}"
        web = f"unix://{listen_unix}" if listen_unix else "127.0.0.1:1"
        self.template = config or (
            f'[listeners.web]\naddress = "{web}"\n' + listener + '\n[backends.app]\n' + backend
            + '\n[backends.app.servers.a1]\nurl = "{origin}"\n'
            + '[frontends.app]\nroute = "PathPrefix(`/app`)"\nbackend = "app"\n'
        )  # fmt: skip
        self.statistics = statistics.create(workers=workers, objects=64)
        self.directory = Directory(self.statistics)
        self.revision = 0
        self.sockets: list[socket.socket] = []
        log_fd = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.engine = Engine(
            worker=0,
            statistics_fd=self.statistics,
            limits_fd=limits_fd,
            verdicts_fd=verdicts_fd,
            access_log_fd=log_fd,
        )
        self.engines = [self.engine]
        if log_fd >= 0:
            os.close(log_fd)
        self.adopt(self.template.replace("{origin}", self.address))
        self.engine.lend("web", 0, os.dup(self.front.fileno()))

    def adopt(self, config: str) -> None:
        """Compile and adopt another configuration."""
        self.revision += 1
        image = compile_snapshot(tree_of(config), revision=self.revision, slot=self.directory.slot, addresses={})
        descriptor = make_memfd(image.image)
        assert self.engine.adopt(descriptor) == self.revision
        os.close(descriptor)

    def turn(self, times: int = 1) -> None:
        """Let the engine handle what is ready."""
        for _ in range(times):
            self.engine.turn()

    def until(self, done: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Turn the engine whenever it asks for it, until `done` holds."""
        end = time.monotonic() + deadline_s
        while not done():
            assert time.monotonic() < end, f"never: {what}; {self.engine.state()} {self.engine.live_objects()}"
            select.select([engine.fileno() for engine in self.engines], [], [], 0.005)
            for engine in self.engines:
                engine.turn()

    def connect(self, *, receive_bytes: int = 0) -> socket.socket:
        """Return a client's connection."""
        client = socket.socket()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect(self.front.getsockname())
        client.setblocking(False)
        self.sockets.append(client)
        return client

    def accept(self, listener: socket.socket | None = None) -> socket.socket:
        """Return the next connection the engine opens to the origin."""
        source = listener or self.origin
        self.until(lambda: select.select([source], [], [], 0)[0], "a connection to the origin")
        server, _ = source.accept()
        server.setblocking(False)
        self.sockets.append(server)
        return server

    def receive(self, sock: socket.socket, count: int = 1, deadline_s: float = DEADLINE_S) -> bytes:
        """Return at least `count` bytes from a socket; fewer when it ends before."""
        data = b""

        def enough() -> bool:
            nonlocal data
            while len(data) < count:
                try:
                    more = sock.recv(1 << 16)
                except BlockingIOError:
                    return False
                except ConnectionError:
                    return True
                if not more:
                    return True
                data += more
            return True

        self.until(enough, f"{count} bytes; so far {data[:200]!r}", deadline_s)
        return data

    def head(self, sock: socket.socket) -> bytes:
        """Return what a socket receives up to the end of a head (and perhaps more)."""
        data = self.receive(sock)
        while b"\r\n\r\n" not in data:
            more = self.receive(sock)
            assert more, f"ended inside a head: {data!r}"
            data += more
        return data

    def ended(self, sock: socket.socket) -> bool:
        """Tell whether the peer closes a socket within the deadline without another byte."""
        return self.receive(sock) == b""

    def totals(self, kind: str, name: str) -> ObjectTotals:
        """Return the counters of one object."""
        found = Reader(self.statistics).total(kind, name)
        assert found is not None
        return found

    def assert_gauges_zero(self) -> None:
        """Nothing is in flight by any object's count."""
        for row in Reader(self.statistics).totals():
            assert row.in_flight == 0, (row.kind, row.id, row.in_flight)

    def close(self) -> None:
        """Close the engine and every socket; whatever was open, no object may be left."""
        self.engine.close()
        live = self.engine.live_objects()
        state = self.engine.state()
        for sock in [*self.sockets, self.front, self.origin]:
            sock.close()
        self.assert_gauges_zero()
        os.close(self.statistics)
        assert (live["connections"], live["exchanges"], live["buffers"]) == (0, 0, 0), live
        assert live["timers"] == 0, live
        assert (state["clients"], state["servers"], state["exchanges"], state["snapshots"]) == (0, 0, 0, 0), state

    def __enter__(self) -> "Harness":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.engine.close()


def listening(path: Path | None = None, *, send_bytes: int = 0, receive_bytes: int = 0) -> socket.socket:
    """Return a listening socket on a free port of 127.0.0.1 or on a path; what it accepts has the buffers given."""
    sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    if send_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.bind(str(path) if path else ("127.0.0.1", 0))
    sock.listen(128)
    return sock
