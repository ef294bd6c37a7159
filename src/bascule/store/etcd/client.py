"""Calls to etcd over gRPC: endpoints, deadlines, authentication, errors as the store's own.

This is the only file that imports gRPC and `etcd3` (whose generated stubs are all that is used of it: its client is
blocking, and after a server's restart stays dead for minutes).

One endpoint is used at a time, through one channel, and left for the next one as soon as a call fails on it or the
watch falls silent; so a frozen or cut-off member is left within one deadline, where gRPC's round_robin would go on sending
every third call to it until its keepalive notices, and each endpoint's certificate is checked against its own name.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from etcd3 import etcdrpc as rpc
from grpc import aio

from bascule.model.tree import EtcdOptions
from bascule.store.etcd.credentials import Certificates, Endpoint, certificates_of, endpoints_of, password_of
from bascule.store.etcd.errors import TokenError, store_error
from bascule.store.etcd_page import Page
from bascule.store.interface import StoreError, UnavailableError

__all__ = ["END", "EtcdClient", "Link", "pause_s", "rpc"]

END: Final = aio.EOF
"""What reading a stream gives when the server has ended it."""

PAUSE_FIRST_S: Final = 0.05
PAUSE_LARGEST_S: Final = 5.0

RECEIVE_BYTES_MAX = 1 << 30
"""One revision comes in one message, whatever its size; lists are paged (reader.py)."""


def _options() -> list[tuple[str, object]]:
    return [
        # A second line behind the watch's own heartbeat. Without ping_timeout_ms a frozen server is not noticed at all.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 2_000),
        ("grpc.http2.ping_timeout_ms", 2_000),
        # Channels to one address would share a connection, also one that is dead without anybody knowing.
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy for web pages (HTTP_PROXY) is none for etcd.
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.max_send_message_length", 1 << 30),
    ]


class _Pages:
    """KV.Range, whose answers are taken apart as they come: a start has 300,000 keys to read."""

    def __init__(self, channel: aio.Channel) -> None:
        self.Range = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=Page,
        )


class Link:
    """One channel to one endpoint. Owned by the client; closed when it is retired and nobody uses it any more."""

    def __init__(self, endpoint: Endpoint, certificates: Certificates | None) -> None:
        """Connects when the first call is made."""
        self.endpoint = endpoint
        self.users = 0
        self.retired = False
        address = endpoint.address
        target = address if address[:1] in "0123456789[" else f"dns:///{address}"
        if certificates is None:
            self.channel = aio.insecure_channel(target, options=_options())
        else:
            credentials = grpc.ssl_channel_credentials(certificates.ca, certificates.key, certificates.certificate)
            self.channel = aio.secure_channel(target, credentials, options=_options())
        self.services: dict[str, Any] = {
            "KV": rpc.KVStub(self.channel),
            "Watch": rpc.WatchStub(self.channel),
            "Lease": rpc.LeaseStub(self.channel),
            "Auth": rpc.AuthStub(self.channel),
            "Pages": _Pages(self.channel),
        }


class EtcdClient:
    """Calls to one etcd cluster from one event loop."""

    def __init__(self, options: EtcdOptions) -> None:
        """Nothing is connected yet."""
        self.options = options
        self.endpoints = endpoints_of(options)
        self.timeout_s = options.timeout_ms / 1000
        """For an answer from any endpoint. One endpoint gets half of it when there are others."""
        self.attempt_s = self.timeout_s / (2 if len(self.endpoints) > 1 else 1)
        # Nodes begin at different members, so that a fleet spreads over them.
        self._next = random.randrange(len(self.endpoints))  # noqa: S311 - no secret
        self._link: Link | None = None
        self._token = ""
        self._open = not options.username
        """No token is needed: we have no user, or etcd asks nobody."""
        self._renewed_s = 0.0
        self._authenticating = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self.calls: dict[str, int] = {}
        """Calls made, by method: what says that a steady state makes none."""

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    def link(self) -> Link:
        """Return the channel in use."""
        if self._link is None:
            endpoint = self.endpoints[self._next % len(self.endpoints)]
            self._link = Link(endpoint, certificates_of(self.options) if endpoint.tls else None)
        return self._link

    def leave(self, link: Link) -> None:
        """Use another endpoint (or with one alone, another connection) from now on; who uses this one may go on."""
        if self._link is link:
            self._next += 1
            self._link = None
        link.retired = True
        self._let_go(link)

    def _let_go(self, link: Link) -> None:
        if link.retired and link.users == 0:
            link.users = -1
            task = asyncio.get_running_loop().create_task(link.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncIterator[Link]:
        """Hold the link in use, so that it is not closed underneath a stream."""
        link = self.link()
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            self._let_go(link)

    async def close(self) -> None:
        """Close every channel."""
        if self._link is not None:
            self.leave(self._link)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def call(
        self,
        service: str,
        method: str,
        request: Any,
        *,
        timeout_s: float = 0.0,
        attempt_s: float = 0.0,
        repeat: bool = True,
    ) -> Any:
        """Call a method until one endpoint answers; a StoreError when none does in time or the answer is no.

        With `repeat` false it is tried once, because carrying it out twice is not the same as once. Also then an ended
        token is renewed, because a call refused for its token has done nothing. `attempt_s` is for one endpoint's answer.
        """
        attempt_s = attempt_s or self.attempt_s
        loop = asyncio.get_running_loop()
        end = loop.time() + max(timeout_s or self.timeout_s, attempt_s)
        renewed = False
        tries = 0
        while True:
            try:
                return await self._try(service, method, request, min(attempt_s, max(end - loop.time(), 0.1)))
            except TokenError:
                if renewed or not self.options.username:
                    raise store_error("INVALID_ARGUMENT", "authentication failed", str(self.endpoints[0])) from None
                renewed = True
                await self.authenticate()
            except UnavailableError:
                tries += 1
                pause = pause_s(tries)
                if not repeat or loop.time() + pause >= end:
                    raise
                await asyncio.sleep(pause)

    async def _try(self, service: str, method: str, request: Any, timeout_s: float) -> Any:
        metadata = await self.metadata()
        async with self.using() as link:
            self.calls[method] = self.calls.get(method, 0) + 1
            try:
                return await getattr(link.services[service], method)(request, timeout=timeout_s, metadata=metadata)
            except aio.AioRpcError as error:
                raise self.failed(link, error) from None
            except aio.UsageError:  # the channel was closed by close() while we waited
                raise UnavailableError("the connection to etcd was closed") from None

    def failed(self, link: Link, error: BaseException) -> StoreError:
        """Return what a failed call means, and leave the endpoint when it is the endpoint that failed."""
        if isinstance(error, aio.AioRpcError):
            details = error.details() or ""
            if self.options.username and "user name is empty" in details:  # authentication was switched on just now
                details = "invalid auth token"
            meaning = store_error(error.code().name, details, str(link.endpoint))
        else:
            meaning = UnavailableError(f"etcd at {link.endpoint} broke the connection off")
        if isinstance(meaning, UnavailableError):
            self.leave(link)
        return meaning

    # ── authentication ───────────────────────────────────────────────────────────────────────────────────────────

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call carries: that its member must have a leader, and our token."""
        if not self._open and not self._token:
            await self.authenticate()
        leader = ("hasleader", "true")
        return (leader, ("token", self._token)) if self._token else (leader,)

    async def authenticate(self) -> None:
        """Fetch a new token; RefusedError for a wrong password. Callers at the same time share one request."""
        old = self._token
        async with self._authenticating:
            if self._token != old:
                return
            request = rpc.AuthenticateRequest(name=self.options.username, password=password_of(self.options))
            async with self.using() as link:
                self.calls["Authenticate"] = self.calls.get("Authenticate", 0) + 1
                try:
                    response = await link.services["Auth"].Authenticate(request, timeout=self.attempt_s)
                except aio.AioRpcError as error:
                    if "authentication is not enabled" in (error.details() or ""):
                        self._open, self._token = True, ""
                        return
                    raise self.failed(link, error) from None
            self._open, self._token = False, str(response.token)
            self._renewed_s = asyncio.get_running_loop().time()

    def may_have_ended(self) -> bool:
        """Tell whether a "permission denied" may mean an ended token: some releases of etcd say that of a watch."""
        return not self._open and asyncio.get_running_loop().time() - self._renewed_s > 1.0


def pause_s(tries: int) -> float:
    """Return how long to wait after that many failures in a row: doubling, capped, and never the same for two nodes."""
    return float(min(PAUSE_LARGEST_S, PAUSE_FIRST_S * 2.0 ** min(tries - 1, 10)) * random.uniform(0.5, 1.0))  # noqa: S311
