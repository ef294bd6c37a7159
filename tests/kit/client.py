"""A client that sends exactly the bytes it is told to, cut where it is told to."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from kit.http1 import Cut, Ended, Malformed, Message, Reader, read_response

Address = tuple[str, int] | str
"""(host, port), or the path of a Unix socket."""


def connect(address: Address, deadline_s: float = 10.0) -> socket.socket:
    """Connect with TCP_NODELAY, so that what is sent apart leaves apart."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(deadline_s)
        sock.connect(address)
        return sock
    sock = socket.create_connection(address, timeout=deadline_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class RawClient:
    """One connection to the proxy, spoken to in bytes and read strictly."""

    def __init__(self, address: Address, deadline_s: float = 10.0, receive_buffer_bytes: int = 0) -> None:
        if receive_buffer_bytes:
            self.sock = socket.socket()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self.sock.settimeout(deadline_s)
            self.sock.connect(address)
        else:
            self.sock = connect(address, deadline_s)
        self.reader = Reader(self.sock, deadline_s)
        self._sender: threading.Thread | None = None

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> "RawClient":
        """Send all of `data`; a peer that has closed already is no error, its answer is still to be read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def send_meanwhile(self, data: bytes) -> "RawClient":
        """Send all of `data` while the caller goes on; what is not sent by then ends with the connection."""
        self._sender = threading.Thread(target=self.send, args=(data,), daemon=True)
        self._sender.start()
        return self

    def send_apart(self, pieces: Iterable[bytes], pause_s: float = 0.001) -> "RawClient":
        """Send each piece in a segment of its own."""
        for piece in pieces:
            self.send(piece)
            time.sleep(pause_s)
        return self

    def response(self, method: bytes = b"GET") -> Message:
        """Read one response."""
        return read_response(self.reader, method)

    def ask(self, data: bytes, method: bytes | None = None) -> Message:
        """Send a request and read its response."""
        return self.send(data).response(method or data.split(b" ", 1)[0])

    def closed(self, deadline_s: float = 5.0) -> bool:
        """Tell whether the peer closes without another byte, waiting for it up to the deadline."""
        return self.reader.at_end(deadline_s)

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close the connection."""
        if self._sender is not None:
            # Closing does not wake a thread that sends, and its descriptor could be another's by the time it wakes.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            self._sender.join()
        self.sock.close()


def ask(address: Address, data: bytes, deadline_s: float = 10.0) -> Message:
    """Send one request on a connection of its own and return the response."""
    with RawClient(address, deadline_s) as client:
        return client.ask(data)


def get(address: Address, target: str = "/", host: str = "kit.test", headers: str = "") -> Message:
    """GET `target` on a connection of its own; `headers` are further header lines, each ended by CRLF."""
    return ask(address, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n".encode())


@dataclass
class Delivery:
    """One connection of a batch: what to send, in which pieces, and what came back."""

    pieces: Sequence[bytes]
    label: str = ""
    methods: Sequence[bytes] = (b"GET",)
    received: bytearray = field(default_factory=bytearray)
    ended: str = ""  # "", closed, reset, timeout
    sock: socket.socket | None = None

    def responses(self) -> list[Message]:
        """Parse everything that came back; `methods` are those of the requests, in order."""
        reader = _Replay(bytes(self.received), self.ended == "closed")
        found = []
        for method in [*self.methods, *[b"GET"] * 16]:
            try:
                found.append(read_response(reader, method))
            except Ended:
                break
        return found


class _Replay(Reader):
    """A Reader over bytes already received."""

    def __init__(self, data: bytes, closed: bool) -> None:
        self.buffer = bytearray(data)
        self.seen = self.buffer
        self.closed = closed

    def fill(self) -> bool:
        return False


def deliver(
    address: Address,
    batch: Sequence[Delivery],
    done: Callable[[Delivery], bool],
    pause_s: float = 0.001,
    deadline_s: float = 10.0,
) -> None:
    """Send every delivery's pieces on a connection of its own, all connections abreast, and read what comes back.

    The k-th pieces of all go out before the (k+1)-th of any: the pause between is paid once per round, not per
    connection. A connection is read until the peer closes it or `done` says that the answer is complete.
    """
    for item in batch:
        item.sock = connect(address, deadline_s)
    try:
        for round_ in range(max(len(item.pieces) for item in batch)):
            for item in batch:
                if round_ < len(item.pieces) and item.sock is not None:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        item.sock.sendall(item.pieces[round_])
            time.sleep(pause_s)
        _collect(batch, done, time.monotonic() + deadline_s)
    finally:
        for item in batch:
            if item.sock is not None:
                item.sock.close()


def _collect(batch: Sequence[Delivery], done: Callable[[Delivery], bool], end: float) -> None:
    with selectors.DefaultSelector() as selector:
        for item in batch:
            assert item.sock is not None
            item.sock.setblocking(False)
            selector.register(item.sock, selectors.EVENT_READ, item)
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                item = key.data
                try:
                    data = item.sock.recv(1 << 16)
                except ConnectionError:
                    item.ended = "reset"
                    selector.unregister(item.sock)
                    continue
                item.received += data
                if not data:
                    item.ended = "closed"
                if not data or done(item):
                    selector.unregister(item.sock)
        for key in list(selector.get_map().values()):
            key.data.ended = key.data.ended or "timeout"


def complete(count: int) -> Callable[[Delivery], bool]:
    """Return a test for `deliver`: true when `count` whole responses have come."""

    def done(item: Delivery) -> bool:
        try:
            return len(item.responses()) >= count
        except (Cut, Malformed):
            return False

    return done
