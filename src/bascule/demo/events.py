"""When a revision came into force in every worker: the balancer's own event stream, followed beside the demonstration."""

import asyncio
import contextlib
import json

_LINE_BYTES_MAX = 1 << 20


class Applied:
    """Follows /v1/events on the admin socket and remembers when each revision was in force in every worker."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._at_s: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._following = asyncio.Event()

    async def start(self, deadline_s: float) -> None:
        """Begin; TimeoutError when the admin API does not answer in time."""
        self._task = asyncio.create_task(self._follow())
        await asyncio.wait_for(self._following.wait(), deadline_s)

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def at_s(self, revision: int, deadline_s: float) -> float:
        """Return the Unix time at which a revision, or a later one, was in force in every worker; TimeoutError."""
        async with asyncio.timeout(deadline_s):
            while not any(number >= revision for number in self._at_s):
                self._changed.clear()
                await self._changed.wait()
        return self._at_s[min(number for number in self._at_s if number >= revision)]

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=_LINE_BYTES_MAX)
                with contextlib.closing(writer):
                    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    while line := await reader.readline():
                        self._take(line)
            await asyncio.sleep(0.05)

    def _take(self, line: bytes) -> None:
        if line.startswith(b"retry:"):
            self._following.set()
        if not line.startswith(b"data: "):
            return
        event = json.loads(line[6:])
        if event["type"] == "applied":
            self._at_s.setdefault(event["revision"], event["at_s"])
            self._changed.set()
