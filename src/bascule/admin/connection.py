"""What one connection of the admin API may cost: uvicorn's protocol, with bounds on heads, bodies, silence and slow readers.

The ASGI application is only called when the first byte of a body is there, so what waits for one has to be bounded here.
Who is at the other end of a Unix socket is noted here as well, because only here the socket is known.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bascule.admin.access import PEER_USER
from bascule.admin.endpoint import BODY_BYTES_MAX

HEAD_BYTES_MAX: Final = 32 << 10
HEAD_TIMEOUT_S: Final = 10.0
"""From the first byte of a connection, or of a further request, to the end of the head."""
BODY_TIMEOUT_S: Final = 30.0
"""From the end of the head to the end of the body."""
WRITE_TIMEOUT_S: Final = 20.0
"""A client that takes nothing for so long while something waits for it is cut off."""
CONNECTIONS_MAX: Final = 512
_PEER: Final = struct.Struct("3i")


class Connection(HttpToolsProtocol):
    """One client. States: reading a head or a body (`_read_timer` runs), serving, idle between requests (uvicorn's own
    timer runs)."""

    _peer_user: int | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    """Received since the last piece that is bounded elsewhere: of a head, of chunk sizes, of trailers."""
    _pieces = 0
    """Heads, chunks and runs of a body that have come to their end."""
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many: it is closed without an answer."""
        super().connection_made(transport)
        self._peer_user = peer_user(transport.get_extra_info("socket"))
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._await(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        self._cancel(self._read_timer)
        self._cancel(self._write_timer)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, or to the trailers behind a body."""
        if self._in_head and self._read_timer is None:
            self._await(HEAD_TIMEOUT_S)
        pieces = self._pieces
        super().data_received(data)
        if self._pieces == pieces and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431, "Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        """The head is there; one that came with a single read is measured now."""
        self._in_head = False
        self._piece()
        self._await(BODY_TIMEOUT_S)
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES_MAX:
            self._refuse(431, "Request Header Fields Too Large")
            return
        if any(name == b"content-length" and int(value) > BODY_BYTES_MAX for name, value in self.headers):
            self._refuse(413, "Content Too Large")  # the parser has seen to it that it is a number
            return
        if self._peer_user is not None:
            self.scope["extensions"] = {PEER_USER: {"id": self._peer_user}}
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Nothing of a trailer is kept (RFC 9110 section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """The size of a chunk has come."""
        self._piece()

    def on_message_complete(self) -> None:
        """The next byte begins a head."""
        self._in_head = True
        self._piece()
        self._cancel(self._read_timer)
        self._read_timer = None
        if self.cycle is not None:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Nothing of a request that was refused is kept."""
        self._piece()
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def pause_writing(self) -> None:
        """The client does not take what it asked for."""
        super().pause_writing()
        self._cancel(self._write_timer)
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It took some."""
        super().resume_writing()
        self._cancel(self._write_timer)
        self._write_timer = None

    def _piece(self) -> None:
        self._pieces += 1
        self._head_bytes = 0

    def _await(self, timeout_s: float) -> None:
        self._cancel(self._read_timer)
        self._read_timer = self.loop.call_later(timeout_s, self._late)

    def _late(self) -> None:
        self._read_timer = None
        self._refuse(408, "Request Timeout")

    def _refuse(self, status: int, phrase: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # an answer is on its way: nothing else can be said on this connection
        elif not self.transport.is_closing():
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()

    def _cancel(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def peer_user(connection: Any) -> int | None:
    """Return the user id at the other end of a Unix socket (SO_PEERCRED, unix(7)); None for other sockets."""
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(user)
