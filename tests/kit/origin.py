"""A real origin server whose every connection follows a script.

A script is a plain function of an `OriginConnection`, run in a thread of its own: it reads and sends what it likes, and
may close or reset. Every byte received is kept per connection, and whatever is no well-formed request is a violation: a
proxy that lets smuggled bytes through is seen here, whatever the client was told.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from kit.http1 import Cut, Ended, Malformed, Message, Reader, read_body, read_request_head
from kit.waiting import until

Script = Callable[["OriginConnection"], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OriginConnection:
    """One accepted connection, as a script sees it."""

    def __init__(self, origin: "ScriptedOrigin", sock: socket.socket, number: int, peer: Any = None) -> None:
        self.origin = origin
        self.sock = sock
        self.peer = peer
        self.number = number
        self.reader = Reader(sock, deadline_s=60.0)
        self.dropped = threading.Event()
        self.finished = threading.Event()

    def head(self) -> Message:
        """Read the head of the next request and note it; Ended when the proxy closes instead."""
        message = read_request_head(self.reader)
        with self.origin.lock:
            self.origin.requests.append(message)
            self.origin.connection_of.append(self)
        return message

    def request(self) -> Message:
        """Read the next request with its body."""
        message = self.head()
        read_body(self.reader, message, response=False)
        return message

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self.sock.sendall(data)

    def send_apart(self, pieces: Iterable[bytes], pause_s: float = 0.001) -> None:
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.sock.sendall(piece)
            self.wait(pause_s)

    def wait(self, seconds: float) -> None:
        """Wait, or end the script when the connection is dropped meanwhile."""
        if self.dropped.wait(seconds):
            raise Ended

    def hang(self) -> None:
        """Do nothing until the connection is dropped, reading nothing."""
        self.dropped.wait()

    def hang_until_closed(self) -> None:
        """Read and drop bytes until the proxy closes."""
        with contextlib.suppress(Cut):
            while self.reader.fill():
                pass

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close with FIN."""
        self.sock.close()


def answering(response: bytes | Callable[[Message], bytes], *, close: bool = False) -> Script:
    """Return a script that reads whole requests and answers each, keeping the connection unless `close`."""

    def script(connection: OriginConnection) -> None:
        while True:
            request = connection.request()
            connection.send(response if isinstance(response, bytes) else response(request))
            if close:
                return

    return script


Reply = Callable[[OriginConnection, Message], bool]
"""Answers one request whose head has been read; returns whether the connection goes on."""


def replying(origin_reply: Callable[[], Reply]) -> Script:
    """Return a script that asks for the reply to follow at each request anew.

    A pooled connection of the proxy then needs no replacing between two tests.
    """

    def script(connection: OriginConnection) -> None:
        while True:
            head = connection.head()
            if not origin_reply()(connection, head):
                return

    return script


def reply_with(response: bytes, *, close: bool = False, pieces: int = 0) -> Reply:
    """Return a reply that reads the request's body and sends `response`, in pieces of so many bytes if given."""

    def reply(connection: OriginConnection, head: Message) -> bool:
        read_body(connection.reader, head, response=False)
        if pieces:
            connection.send_apart([response[i : i + pieces] for i in range(0, len(response), pieces)])
        else:
            connection.send(response)
        return not close

    return reply


def echo(request: Message) -> bytes:
    """Answer with the request's own body, so that a test sees what arrived."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.body), request.body)


class ScriptedOrigin:
    """Listens on a port of `host` (or on a Unix socket) and runs `script` for every connection."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        path: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        backlog: int = 4096,
    ) -> None:
        self.reply: Reply = reply_with(OK)
        self.script = script or replying(lambda: self.reply)
        self.lock = threading.Lock()
        self.requests: list[Message] = []
        self.connection_of: list[OriginConnection] = []
        self.connections: list[OriginConnection] = []
        self.violations: list[str] = []
        self.errors: list[BaseException] = []
        self.path = path
        self.backlog = backlog
        self.host = host
        self.port = port
        self.listener: socket.socket | None = None
        self.accepting: threading.Thread | None = None
        self.start()

    @property
    def address(self) -> str:
        """The address as the proxy's command line takes it."""
        if self.path:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a server's url in a configuration."""
        return self.address if self.path else f"http://{self.address}"

    def start(self) -> None:
        """Begin to accept, on the port it had before if there was one."""
        if self.path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.path)
        else:
            self.listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((self.host, self.port))
            self.port = self.listener.getsockname()[1]
        self.listener.listen(self.backlog)
        self.accepting = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self.accepting.start()

    def refuse(self) -> None:
        """Stop listening: the next connect is refused. Open connections live on."""
        if self.listener is not None:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        if self.accepting is not None:
            self.accepting.join(5)
            self.accepting = None

    def stop(self) -> None:
        """Stop listening, end every script and close every connection."""
        self.refuse()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close every open connection with FIN, as a server does that restarts.

        Idle ones are waited for until the proxy has closed its side too: it has noticed, and takes none of them again.
        """
        with self.lock:
            connections, self.connections = self.connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
            connection.dropped.set()
        end = time.monotonic() + 2.0
        for connection in connections:
            if not connection.finished.wait(max(0.0, end - time.monotonic())):
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def settle(self) -> None:
        """Wait until every request that was on its way has been noted: none comes to light later, as if it were the next test's.

        A proxy may have answered for itself, sent a head and closed before the thread here has seen the connection. Connections
        are accepted in order, so that when one of our own is, all before it have a thread; and these end when dropped.
        """
        if self.listener is not None:
            with socket.create_connection((self.host, self.port)) as marker:
                peer = marker.getsockname()
                until(lambda: any(known.peer == peer for known in list(self.connections)), "the origin accepts")
        self.drop_connections()

    def forget(self, *, script: Script | None = None, reply: Reply | None = None) -> None:
        """Forget what was seen and behave as told from now on; a new script drops the connections of the old one."""
        if script is not None:
            self.script = script
            self.drop_connections()
        if reply is not None:
            self.reply = reply
        with self.lock:
            self.requests, self.connection_of, self.violations, self.errors = [], [], [], []

    def wait_requests(self, count: int, deadline_s: float = 10.0) -> list[Message]:
        """Wait until `count` request heads have come, and return all."""
        until(lambda: len(self.requests) >= count, f"{count} requests at the origin", deadline_s)
        return list(self.requests)

    def __enter__(self) -> "ScriptedOrigin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        number = 0
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = OriginConnection(self, sock, number, peer)
            number += 1
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=self._run, args=(connection, self.script), daemon=True).start()

    def _run(self, connection: OriginConnection, script: Script) -> None:
        try:
            script(connection)
        except (Ended, Cut, OSError):
            pass
        except Malformed as error:
            with self.lock:
                self.violations.append(f"{error}; received: {bytes(connection.reader.seen[-300:])!r}")
        except BaseException as error:
            with self.lock:
                self.errors.append(error)
        finally:
            connection.sock.close()
            connection.finished.set()
            with self.lock, contextlib.suppress(ValueError):
                self.connections.remove(connection)
