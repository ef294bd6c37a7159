"""The admin API's servers: uvicorn on a Unix socket that only the owner of the state directory may open, and on TCP when
asked (`--admin`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from bascule.admin.actions import ACTIONS_FILE, Action, Actions
from bascule.admin.address import AddressError, check_admin, parse_address
from bascule.admin.api import Api
from bascule.admin.app import make_app
from bascule.admin.connection import Connection
from bascule.admin.handshakes import Handshakes
from bascule.admin.tokens import Tokens
from bascule.process import unix_socket
from bascule.process.state_directory import data_path
from bascule.process.upgrade_views import receipts_of, state_of

if TYPE_CHECKING:
    from bascule.model.tree import Tree
    from bascule.process.control import Control

BACKLOG: Final = 128
BIND_PAUSE_S: Final = 1.0
TOKENS_FILE: Final = "tokens.json"
IN_STORE: Final = ("change", "lease ended")
"""What the store's own history has."""
_STOP_TIMEOUT_S: Final = 1


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

    def protocol(self) -> asyncio.Protocol:
        """Return what serves one connection, as uvicorn makes it."""
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class AdminServer:
    """Serves the admin API at a Unix path, and at the addresses of `--admin`, until told to stop."""

    def __init__(self, control: Control, path: str) -> None:
        """Listen on the socket that a predecessor's clients wait in, if the keeper has it; else bind beside the path and
        rename over it, and give it to the keeper."""
        self.path = path
        self._control = control
        self._options: dict[str, Any] = control.master.options
        self._socket = self._listen()
        self._file = os.lstat(path)
        tokens = Tokens(os.path.join(data_path(self._options), TOKENS_FILE))
        self.api = Api(control, _Program(control), tokens)
        self._app = make_app(self.api, lambda text: control.master.log.error("the admin API failed", error=text))
        self._server = _Server(self._config())
        self._remote: list[_Server] = []

    def _listen(self) -> socket.socket:
        master = self._control.master
        if master.admin_socket >= 0 and os.path.exists(self.path):
            return socket.socket(fileno=os.dup(master.admin_socket))
        listening = socket.socket(fileno=unix_socket.listen(self.path, mode=0o600, backlog=BACKLOG))
        if master.keeper is not None:
            self._control.tell_keeper({"type": "admin_socket"}, [listening.fileno()])
        return listening

    async def serve(self) -> None:
        """Serve until `stop`; then remove the socket file, unless the keeper has the socket too, for a successor."""
        remote = [asyncio.create_task(self._serve_tcp(text)) for text in self._options.get("admin") or ()]
        try:
            await self._server.serve(sockets=[self._socket])
            await asyncio.gather(*remote)
        finally:
            for task in remote:
                task.cancel()
            self._socket.close()
            with contextlib.suppress(FileNotFoundError):
                if self._control.master.keeper is None and os.path.samestat(self._file, os.lstat(self.path)):
                    os.unlink(self.path)

    def stop(self) -> None:
        """Answer what is being answered, then end `serve`."""
        self.api.closing.set()
        for server in (self._server, *self._remote):
            server.end()

    # ---- TCP

    async def _serve_tcp(self, text: str) -> None:
        """Serve at one address. What stands in the way is logged, and hurts neither traffic nor the Unix socket."""
        log = self._control.master.log
        certificate, key = self._options.get("admin_cert", ""), self._options.get("admin_key", "")
        try:
            check_admin([text], certificate, key, self._options.get("admin_plain", ""))
            host, port = parse_address(text)
            config = self._config(ssl_certfile=certificate or None, ssl_keyfile=key or None)
            config.load()
        except (AddressError, OSError, ssl.SSLError) as error:
            remedy = getattr(error, "remedy", "") or "check the files of --admin-cert and --admin-key; then start again"
            log.error("the admin API is not on TCP", address=text, error=str(error), remedy=remedy)
            return
        listening = await self._bind(text, host, port)
        if listening is None:
            return
        server = _Server(config)
        self._remote.append(server)
        log.info("the admin API is on TCP", address=text, tls=bool(certificate))
        shaking: asyncio.Task[None] | None = None
        try:
            if config.ssl is None:
                await server.serve(sockets=[listening])
            else:
                shaking = asyncio.create_task(Handshakes(listening, config.ssl, server.protocol).run())
                await server.serve(sockets=[])
        finally:
            if shaking is not None:
                shaking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await shaking
            listening.close()

    async def _bind(self, text: str, host: str, port: int) -> socket.socket | None:
        """Bind, again and again while a predecessor still holds the address; None when told to stop before."""
        said = False
        while not self.api.closing.is_set():
            try:
                return _bind_tcp(host, port)
            except OSError as error:
                if not said:
                    said = True
                    remedy = f"free the address; trying again every {BIND_PAUSE_S:g} s"
                    self._control.master.log.warning(
                        "the admin API cannot listen", address=text, error=error.strerror, remedy=remedy
                    )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.api.closing.wait(), BIND_PAUSE_S)
        return None

    def _config(self, **more: Any) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            http=Connection,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            **more,
        )


class _Program:
    """`api.Program` of a `Control`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._actions = Actions(os.path.join(data_path(control.master.options), ACTIONS_FILE))

    async def status(self) -> dict[str, Any]:
        """Ask every worker, then say what is known."""
        await self._control.master.publisher.reports()
        return await self._control.status()

    async def metrics(self) -> bytes:
        """See `api.Program`."""
        return await self._control.metrics()

    def upgrade_state(self) -> dict[str, Any]:
        """See `api.Program`."""
        return state_of(self._control.master)

    async def receipts(self) -> list[dict[str, Any]]:
        """See `api.Program`."""
        return await asyncio.to_thread(receipts_of, self._control.master)

    async def reload(self, because: str) -> Any:
        """See `api.Program`."""
        return await self._control.reload(because)

    def tree(self) -> Tree | None:
        """See `api.Program`."""
        return self._control.tree()

    def place(self) -> str:
        """See `api.Program`."""
        return str(self._options_of_run().get("config", ""))

    def _options_of_run(self) -> dict[str, Any]:
        options: dict[str, Any] = self._control.master.options
        return options if options["command"] == "run" else {}

    def audit(self, author: str, action: str, **details: object) -> None:
        """One log line and, of what is no change in the store, one in the node's own history."""
        log = self._control.master.log
        log.info(f"admin: {action}", by=author, **details)
        if action in IN_STORE:
            return
        try:
            self._actions.add(author, action, details)
        except OSError as error:
            log.warning("what was done is not in this node's history", action=action, error=error.strerror)

    def actions(self, limit: int) -> Sequence[Action]:
        """See Program."""
        return self._actions.latest(limit)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
