"""A strict HTTP/1.1 reader for both ends of the wire, independent of the parser under test.

It accepts what RFC 9112 lets a recipient accept without leniency, and nothing else: a proxy that lets anything more
through to either side makes a test fail with `Malformed`.
"""

import re
import socket
from dataclasses import dataclass, field

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[^\r\n\0]*)?)")
HEAD_BYTES_MAX = 1 << 20
Headers = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """Bytes that are no HTTP/1.1 message."""


class Cut(Exception):
    """The peer closed or reset the connection inside a message; `partial` is what came of the body."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


class Ended(Exception):
    """The peer closed the connection between two messages."""


@dataclass
class Message:
    """One request or response; header names are lower case, values without surrounding blanks."""

    start: bytes
    headers: Headers
    raw_head: bytes
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    framing: str = "none"  # none, length, chunked, close
    interim: list["Message"] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status code of a response."""
        return int(self.start.split(b" ", 2)[1])

    @property
    def method(self) -> bytes:
        """The method of a request."""
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The target of a request."""
        return self.start.split(b" ")[1]

    @property
    def version(self) -> bytes:
        """`HTTP/1.1` or `HTTP/1.0`."""
        return self.start.split(b" ")[0] if self.start.startswith(b"HTTP/") else self.start.rsplit(b" ", 1)[1]

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every line of a header, in order."""
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a header that may come once at most."""
        values = self.all(name)
        if len(values) > 1:
            raise Malformed(f"{name!r} came {len(values)} times: {values}")
        return values[0] if values else None


class Reader:
    """Reads one socket with a deadline; keeps every byte it saw in `seen`."""

    def __init__(self, sock: socket.socket, deadline_s: float = 10.0) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.seen = bytearray()
        self.deadline_s = deadline_s

    def fill(self) -> bool:
        """Read once more; False at the end of the stream. A reset is a `Cut`."""
        self.sock.settimeout(self.deadline_s)
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError as error:
            raise Cut(f"connection lost: {error}") from error
        self.buffer += data
        self.seen += data
        return bool(data)

    def until(self, mark: bytes, limit: int = HEAD_BYTES_MAX) -> bytes:
        """Return everything up to and with `mark`; Ended when the stream ends before the first byte."""
        start = 0
        while (at := self.buffer.find(mark, start)) < 0:
            start = max(0, len(self.buffer) - len(mark) + 1)
            if len(self.buffer) > limit:
                raise Malformed(f"no {mark!r} within {limit} bytes")
            if not self.fill():
                if not self.buffer:
                    raise Ended
                raise Cut(f"closed inside {bytes(self.buffer[:80])!r}", bytes(self.buffer))
        return self.take(at + len(mark))

    def take(self, count: int) -> bytes:
        """Remove `count` bytes from the buffer."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def exactly(self, count: int) -> bytes:
        """Return `count` bytes; `Cut` when the stream ends before."""
        while len(self.buffer) < count:
            try:
                more = self.fill()
            except Cut as cut:
                cut.partial = bytes(self.buffer)
                raise
            if not more:
                raise Cut(f"closed {count - len(self.buffer)} bytes before the end", bytes(self.buffer))
        return self.take(count)

    def rest(self) -> bytes:
        """Return everything up to the end of the stream."""
        while self.fill():
            pass
        return self.take(len(self.buffer))

    def at_end(self, deadline_s: float | None = None) -> bool:
        """Tell whether the peer has closed without another byte, waiting for it up to the deadline."""
        if self.buffer:
            return False
        before, self.deadline_s = self.deadline_s, deadline_s or self.deadline_s
        try:
            return not self.fill()
        except Cut:
            return True
        except TimeoutError:
            return False
        finally:
            self.deadline_s = before


def parse_head(raw: bytes) -> Message:
    """Parse a start line and headers, ended by an empty line."""
    lines = raw[:-4].split(b"\r\n")
    for line in lines:
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise Malformed(f"bare CR, LF or NUL in {line[:80]!r}")
    return Message(lines[0], parse_fields(lines[1:]), raw)


def parse_fields(lines: list[bytes]) -> Headers:
    """Parse header or trailer lines."""
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise Malformed(f"bad header line {line[:80]!r}")
        headers.append((name.lower(), value.strip(b" \t")))
    return headers


def framing(message: Message, *, response: bool) -> tuple[str, int]:
    """Return the framing of a body that the headers announce, and its length; refuse whatever is ambiguous."""
    coding, length = message.get(b"transfer-encoding"), message.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise Malformed("Content-Length beside Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise Malformed(f"Transfer-Encoding {coding!r}")
        if message.version != b"HTTP/1.1":
            raise Malformed("Transfer-Encoding on HTTP/1.0")
        return "chunked", 0
    if length is not None:
        if not re.fullmatch(rb"[0-9]{1,18}", length):
            raise Malformed(f"Content-Length {length!r}")
        return "length", int(length)
    return ("close" if response else "none"), 0


def read_chunked(reader: Reader, message: Message) -> None:
    """Read a chunked body and its trailers into `message`."""
    body = bytearray()
    try:
        while True:
            line = reader.until(b"\r\n")[:-2]
            match = CHUNK_LINE.fullmatch(line)
            if match is None:
                raise Malformed(f"bad chunk line {line[:80]!r}")
            size = int(match[1], 16)
            if size == 0:
                break
            body += reader.exactly(size)
            if reader.exactly(2) != b"\r\n":
                raise Malformed("chunk data not followed by CRLF")
        lines = []
        while line := reader.until(b"\r\n")[:-2]:
            lines.append(line)
    except Ended:
        raise Cut("closed between two chunks", bytes(body)) from None
    except Cut as cut:
        raise Cut(str(cut), bytes(body) + cut.partial) from None
    message.trailers = parse_fields(lines)
    message.body = bytes(body)


def read_body(reader: Reader, message: Message, *, response: bool) -> None:
    """Read the body that the head announces into `message`."""
    message.framing, length = framing(message, response=response)
    if message.framing == "chunked":
        read_chunked(reader, message)
    elif message.framing == "length":
        message.body = reader.exactly(length)
    elif message.framing == "close":
        message.body = reader.rest()


def read_request_head(reader: Reader) -> Message:
    """Read the head of a request as an origin server receives it."""
    message = parse_head(reader.until(b"\r\n\r\n"))
    if not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/1\.[01]", message.start):
        raise Malformed(f"bad request line {message.start[:120]!r}")
    return message


def read_response(reader: Reader, method: bytes = b"GET", *, codes: bytes = rb"[1-5]") -> Message:
    """Read one response with the interim ones before it; `method` is that of its request, `codes` the first digits known."""
    interim: list[Message] = []
    while True:
        message = parse_head(reader.until(b"\r\n\r\n"))
        if not re.fullmatch(rb"HTTP/1\.[01] " + codes + rb"[0-9][0-9] [\t\x20-\x7e\x80-\xff]*", message.start):
            raise Malformed(f"bad status line {message.start[:120]!r}")
        if message.status == 101 or message.status >= 200:
            break
        interim.append(message)
    message.interim = interim
    framed = framing(message, response=True)
    if message.status in (101, 204) and framed[0] in ("length", "chunked"):
        raise Malformed(f"{message.status} with body framing")
    if method != b"HEAD" and message.status not in (101, 204, 304):
        read_body(reader, message, response=True)
    return message
