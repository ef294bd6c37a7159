"""Steady traffic that counts every failure: persistent connections, each asking again as soon as it may.

Strict on purpose: a connection that the balancer closes without announcing it, a late, cut or wrong answer, all count.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_BODY: Final = b"x" * 1500
_TIMEOUT_S: Final = 5.0


class RequestFailedError(Exception):
    """An answer that is not the one expected; the text says what came."""


@dataclass
class Totals:
    """What the traffic has seen so far."""

    requests: int = 0
    by_origin: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Traffic:
    """`connections` clients of one address, each sending a request every `pause_s` seconds."""

    def __init__(self, host: str, port: int, *, connections: int = 16, pause_s: float = 0.01) -> None:
        self.host = host
        self.port = port
        self.connections = connections
        self.pause_s = pause_s
        self.totals = Totals()
        self.stopping = False
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the running event loop."""
        self.tasks = [asyncio.create_task(self._client(number)) for number in range(self.connections)]

    async def stop(self) -> None:
        """Let every client end its exchange."""
        self.stopping = True
        await asyncio.gather(*self.tasks)

    async def _client(self, number: int) -> None:
        while not self.stopping:
            try:
                await self._connection(number)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, RequestFailedError, ValueError) as error:
                self.totals.requests += 1
                self.totals.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)

    async def _connection(self, number: int) -> None:
        """Send requests over one connection until the traffic stops or the balancer announces its close."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            keep = True
            while keep and not self.stopping:
                async with asyncio.timeout(_TIMEOUT_S):
                    keep = await self._exchange(reader, writer, post=number % 4 == 0)
                await asyncio.sleep(self.pause_s)
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, post: bool) -> bool:
        """Make one exchange, count it, and return whether the connection goes on."""
        if post:
            writer.write(b"POST /echo HTTP/1.1\r\nHost: demo.test\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY)
        else:
            writer.write(b"GET /api HTTP/1.1\r\nHost: demo.test\r\nAccept: application/json\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if head[0].split(" ", 2)[1] != "200" or (post and body != _BODY):
            raise RequestFailedError(f"{head[0]}: {body[:80]!r}")
        self.totals.requests += 1
        self.totals.by_origin[f"{headers.get('x-origin', '?')} {headers.get('x-version', '?')}"] += 1
        return headers.get("connection", "").lower() != "close"
