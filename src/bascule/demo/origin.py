"""An example origin server: a page, a JSON answer, an echo, a WebSocket echo and bodies of any size.

Run as `python -m bascule.demo.origin --name a --version 1.0.0 --port 9001`. SIGTERM stops it as a well-behaved server
stops: it accepts nothing more, answers what it has begun, closes, and ends.
"""

import argparse
import asyncio
import json
import signal
import sys
from typing import Final, cast

import httptools

from bascule.demo import page, websocket

_BYTES_MAX: Final = 64 << 20
_REASONS: Final = {101: b"Switching Protocols", 200: b"OK", 404: b"Not Found"}


class Origin:
    """What all connections of one example origin share."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.requests = 0
        self.stopping = False
        self.connections: set[Connection] = set()

    def answer(self, method: bytes, target: bytes, body: bytes) -> tuple[int, bytes, bytes]:
        """Return status, content type and body for one request."""
        path = target.partition(b"?")[0]
        if path == b"/":
            return 200, b"text/html; charset=utf-8", page.HTML.format(name=self.name, version=self.version).encode()
        if path == b"/style.css":
            return 200, b"text/css", page.STYLE.encode()
        if path == b"/app.js":
            return 200, b"text/javascript", page.SCRIPT.encode()
        if path == b"/api":
            answer = {"origin": self.name, "version": self.version, "requests": self.requests}
            return 200, b"application/json", json.dumps(answer).encode()
        if path == b"/echo" and method == b"POST":
            return 200, b"application/octet-stream", body
        if path.startswith(b"/bytes/") and path[7:].isdigit() and int(path[7:]) <= _BYTES_MAX:
            return 200, b"application/octet-stream", b"x" * int(path[7:])
        return 404, b"text/plain", b"not found\n"


class Connection(asyncio.Protocol):
    """One accepted connection: requests by httptools, answered in order; or an echo once it is a WebSocket."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.parser = httptools.HttpRequestParser(self)
        self.socket_buffer: bytearray | None = None
        self.busy = False
        self.reset()

    def reset(self) -> None:
        """Forget the last request."""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection, so that a stop can close it."""
        self.transport = cast(asyncio.Transport, transport)
        self.origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.origin.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse requests, or echo frames."""
        if self.socket_buffer is not None:
            self.socket_buffer += data
            self.echo_frames(self.socket_buffer)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.headers.get(b"upgrade", b"").lower() == b"websocket":
                self.switch(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.reset()
        self.busy = True

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line."""
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Answer the request."""
        self.busy = False
        if self.parser.should_upgrade() and self.headers.get(b"upgrade", b"").lower() == b"websocket":
            return
        self.origin.requests += 1
        method = self.parser.get_method()
        status, kind, body = self.origin.answer(method, self.target, bytes(self.body))
        keep = self.parser.should_keep_alive() and not self.origin.stopping
        lines = [(b"Content-Type", kind), (b"Content-Length", b"%d" % len(body))]
        lines += [] if keep else [(b"Connection", b"close")]
        self.transport.write(self.head(status, lines) + (b"" if method == b"HEAD" else body))
        if not keep:
            self.transport.close()

    def head(self, status: int, lines: list[tuple[bytes, bytes]]) -> bytes:
        """Return a response head that names the origin and its version."""
        lines = [*lines, (b"X-Origin", self.origin.name.encode()), (b"X-Version", self.origin.version.encode())]
        fields = b"".join(b"%s: %s\r\n" % line for line in lines)
        return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, _REASONS[status], fields)

    def switch(self, rest: bytes) -> None:
        """Become a WebSocket."""
        accept = websocket.accept_key(self.headers.get(b"sec-websocket-key", b""))
        lines = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Accept", accept)]
        self.transport.write(self.head(101, lines))
        self.socket_buffer = bytearray()
        self.data_received(rest)

    def echo_frames(self, buffer: bytearray) -> None:
        """Send every data frame back; answer pings and the closing frame."""
        for opcode, payload in websocket.frames(buffer):
            self.transport.write(websocket.frame(websocket.PONG if opcode == websocket.PING else opcode, payload))
            if opcode == websocket.CLOSE:
                self.transport.close()


async def serve(origin: Origin, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(origin), host, port, backlog=1024)
    bound = server.sockets[0].getsockname()[1]
    print(f"origin {origin.name} {origin.version} on {host}:{bound}", flush=True)
    await stop.wait()
    origin.stopping = True
    server.close()
    for connection in list(origin.connections):
        if not connection.busy:
            connection.transport.close()
    while origin.connections:
        await asyncio.sleep(0.02)


def main(arguments: list[str]) -> None:
    """Run one origin as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bascule.demo.origin", description=__doc__)
    parser.add_argument("--name", default="a")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    import uvloop

    uvloop.run(serve(Origin(options.name, options.version), options.host, options.port))


if __name__ == "__main__":
    main(sys.argv[1:])
