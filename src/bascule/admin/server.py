"""The admin API's server: uvicorn on a Unix socket that only the owner of the state directory may open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from bascule.admin.app import make_app

if TYPE_CHECKING:
    from bascule.process.control import Control

BACKLOG = 128
_STOP_TIMEOUT_S = 1


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the master's own decide when it ends) and without its ten ticks a second,
    which are two thirds of the CPU time of an idle load balancer."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """What a tick is for (the Date header, limits of requests) is not used here."""
        self.server_state.default_headers = self.config.encoded_headers
        await self._ended.wait()

    def end(self) -> None:
        """Let `serve` return."""
        self.should_exit = True
        self._ended.set()


class AdminServer:
    """Serves the admin API at `path` until told to stop."""

    def __init__(self, control: Control, path: str) -> None:
        """Bind beside the path and rename over it: a master that follows another takes the place in one step."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = f"{path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        before = os.umask(0o177)
        try:
            self._socket.bind(temporary)
        finally:
            os.umask(before)
        self._socket.listen(BACKLOG)
        os.rename(temporary, path)
        self._file = os.lstat(path)
        config = uvicorn.Config(
            make_app(control),
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            http="httptools",
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            server_header=False,
            date_header=False,
        )
        self._server = _Server(config)

    async def serve(self) -> None:
        """Serve until `stop`; then remove the socket file, unless it is a successor's by now."""
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self._file, os.lstat(self.path)):
                    os.unlink(self.path)

    def stop(self) -> None:
        """Answer what is being answered, then end `serve`."""
        self._server.end()
