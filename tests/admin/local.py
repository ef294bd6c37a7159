"""A master's admin API without its processes: a real store, real sockets, and a Live that brings everything into force
at once. What depends on workers and gates is tested against real processes (test_processes.py)."""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bascule.admin.server import AdminServer
from bascule.admin.values import tree_of
from bascule.change.decode import decode
from bascule.change.diff import diff
from bascule.change.live import Applied, Freeze, Notice, ObjectState, Preview
from bascule.change.validate import validate
from bascule.model.tree import Backend, Tree
from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Entry, Put, Reading, Remove, Store

QUEUE_MAX = 1000


class LocalLive:
    """`change.live.Live` where what is stored is in force."""

    def __init__(self, directory: Path, options: dict[str, Any]) -> None:
        self.store: Store | None = EmbeddedStore(str(directory / "store.sqlite"))
        self.in_force = 0
        self.object_states: list[ObjectState] = []
        self.frozen: Freeze | None = None
        self.queues: set[asyncio.Queue[Notice]] = set()
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.waits: asyncio.Event = asyncio.Event()
        self.waits.set()
        log = SimpleNamespace(**dict.fromkeys(("info", "warning", "error"), self.log))

        async def reports() -> None:
            return None

        self.master = SimpleNamespace(
            admin_socket=-1,
            keeper=None,
            options={"command": "run", "config": "", "state": str(directory), **options},
            log=log,
            in_force=None,
            publisher=SimpleNamespace(reports=reports),
            state_path=str(directory),
            upgrade={"generation": 2, "version": "1.1", "probation_left_s": 60.0, "told_s": time.monotonic()},
        )

    def log(self, event: str, **fields: Any) -> None:
        self.logged.append((event, fields))

    # ---- Live

    @property
    def revision(self) -> int:
        return self.in_force

    async def reading(self, at_least: int = 0) -> Reading:
        assert self.store is not None
        return await self.store.read()

    def freeze_state(self) -> Freeze | None:
        return self.frozen

    def states(self) -> Sequence[ObjectState]:
        return self.object_states

    async def preview(self, operations: Sequence[Put | Remove]) -> Preview:
        assert self.store is not None
        reading = await self.store.read()
        after = dict(reading.entries)
        for operation in operations:
            if isinstance(operation, Put):
                after[operation.key] = Entry(operation.key, operation.value, 0, 0)
            else:
                for key in list(after):
                    if key == operation.key or (operation.below and key.startswith(operation.key + "/")):
                        del after[key]
        old, new = decode(tree_of(reading.entries)), decode(tree_of(after))
        problems = [*new.problems, *validate(new.tree, backends=new.backends, dangling=True)]
        return Preview(tuple(problems), tuple(diff(old.tree, new.tree)))

    async def until_applied(self, revision: int, timeout_s: float) -> Applied:
        if timeout_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.waits.wait(), timeout_s)
        applied = self.waits.is_set() and self.frozen is None
        if applied:
            self.in_force = max(self.in_force, revision)
        return Applied(self.in_force, applied, () if applied else (1,), (self.frozen.reason,) if self.frozen else ())

    async def notices(self) -> AsyncIterator[Notice]:
        queue: asyncio.Queue[Notice] = asyncio.Queue(QUEUE_MAX)
        self.queues.add(queue)
        try:
            while queue in self.queues:
                yield await queue.get()
            raise RuntimeError("too slow")
        finally:
            self.queues.discard(queue)

    def notify(self, notice: Notice) -> None:
        for queue in list(self.queues):
            try:
                queue.put_nowait(notice)
            except asyncio.QueueFull:
                self.queues.discard(queue)

    async def freeze(self, reason: str, by: str) -> Freeze:
        self.frozen = Freeze(by, reason, time.time())
        return self.frozen

    async def unfreeze(self, by: str) -> Applied:
        self.frozen = None
        return Applied(self.in_force, True)

    async def adopt(self, by: str) -> Applied:
        self.object_states = []
        return Applied(self.in_force, True)

    # ---- Control

    def tree(self) -> Tree:
        return Tree(backends={"fixed": Backend()})

    async def status(self) -> dict[str, Any]:
        return {"revision": self.in_force, "workers": []}

    async def metrics(self) -> bytes:
        return b"bascule_config_revision 1\n"

    async def reload(self, because: str) -> Any:
        return SimpleNamespace(ok=True)


class Reply:
    """An answer of the API."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.data = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class LocalAdmin:
    """The API of one `LocalLive`, served from a thread of its own."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.path = str(directory / "admin.sock")
        self.options = options
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.live: LocalLive
        self.server: AdminServer

    def __enter__(self) -> "LocalAdmin":
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self.live = LocalLive(self.directory, self.options)
        self.server = AdminServer(self.live, self.path)  # type: ignore[arg-type]
        self.ready.set()
        try:
            await self.server.serve()
        finally:
            assert self.live.store is not None
            await self.live.store.close()

    def run(self, function: Callable[[], Any]) -> Any:
        """Run a function, or a coroutine that it returns, in the API's loop."""
        done: Future[Any] = Future()

        async def call() -> None:
            try:
                result = function()
                done.set_result(await result if asyncio.iscoroutine(result) else result)
            except BaseException as error:
                done.set_exception(error)

        asyncio.run_coroutine_threadsafe(call(), self.loop)
        return done.result(20)

    @contextlib.contextmanager
    def connection(self, address: tuple[str, int] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
        connection: http.client.HTTPConnection
        if address is None:
            connection = _Unix(self.path)
        elif tls is not None:
            connection = http.client.HTTPSConnection(*address, timeout=20, context=tls)
        else:
            connection = http.client.HTTPConnection(*address, timeout=20)
        with contextlib.closing(connection):
            yield connection

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        address: tuple[str, int] | None = None,
        tls: ssl.SSLContext | None = None,
        **headers: str,
    ) -> Reply:
        """Make one request; header names with underscores for dashes."""
        data = None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
        with self.connection(address, tls) as connection:
            connection.request(method, path, data, {name.replace("_", "-"): text for name, text in headers.items()})
            return Reply(connection.getresponse())


def user() -> str:
    """Return the name of the user who runs the tests."""
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
