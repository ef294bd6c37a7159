"""TLS handshakes of the admin API, bounded: how many at once, and how long each may take.

uvicorn would leave them to the event loop, which waits a minute for each, of as many clients as have a port: before
anybody has said who he is, they would take all descriptors and memory of the process that brings changes into force.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from bascule.admin.connection import CONNECTIONS_MAX, HEAD_TIMEOUT_S

PAUSE_S: Final = 0.2
"""After a connection that could not be taken (no descriptor is left, say)."""


class Handshakes:
    """Takes the connections of one listening socket. Owner: the server that it belongs to."""

    def __init__(
        self, listening: socket.socket, context: ssl.SSLContext, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """`protocol` makes what gets a connection once it is encrypted."""
        self._listening = listening
        self._context = context
        self._protocol = protocol
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take connections until cancelled; the one too many is closed at once."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listening)
                except OSError:
                    await asyncio.sleep(PAUSE_S)
                    continue
                if len(self._under_way) >= CONNECTIONS_MAX:
                    connection.close()
                    continue
                task = loop.create_task(self._shake(connection))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        finally:
            for task in self._under_way:
                task.cancel()

    async def _shake(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):  # the client's: nobody is there to be told
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=HEAD_TIMEOUT_S
            )
