"""A WebSocket that counts: every number that it sends has to come back, in order, over the one connection it ever makes."""

import asyncio
import base64
import contextlib
import os
import struct
from typing import Final

from bascule.demo import websocket

PAUSE_S: Final = 0.02
_TIMEOUT_S: Final = 10.0
_TEXT: Final = 1


class Echo:
    """One WebSocket through the balancer, from `start` to `stop`."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.echoed = 0
        self.failure = ""
        """Why it ended before it was stopped; empty when it did not."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open it; OSError, TimeoutError or ValueError when that fails."""
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self.host, self.port)
            key = base64.b64encode(os.urandom(16))
            writer.write(
                b"GET /echo HTTP/1.1\r\nHost: demo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
            )
            head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 ") or websocket.accept_key(key) not in head:
            raise ValueError(f"the WebSocket was answered with {head[:80]!r}")
        self._task = asyncio.create_task(self._run(reader, writer))

    async def stop(self) -> None:
        """Close it. Harmless when it was never opened."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = bytearray()
        try:
            while True:
                payload = b"%d" % (self.echoed + 1)
                writer.write(masked(payload))
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = await _next(reader, buffer)
                if answer != (_TEXT, payload):
                    raise ValueError(f"{payload!r} came back as {answer!r}")
                self.echoed += 1
                await asyncio.sleep(PAUSE_S)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.failure = f"the WebSocket ended after {self.echoed} echoes: {type(error).__name__}: {error}"
        finally:
            writer.close()


async def _next(reader: asyncio.StreamReader, buffer: bytearray) -> tuple[int, bytes]:
    while True:
        for frame in websocket.frames(buffer):
            return frame
        data = await reader.read(4096)
        if not data:
            raise EOFError("the connection was closed")
        buffer += data


def masked(payload: bytes) -> bytes:
    """Return one final text frame of less than 126 bytes, as a client has to send it (RFC 6455 section 5.3)."""
    mask = os.urandom(4)
    body = bytes(octet ^ mask[index & 3] for index, octet in enumerate(payload))
    return struct.pack("!BB", 0x80 | _TEXT, 0x80 | len(payload)) + mask + body
