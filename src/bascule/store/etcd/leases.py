"""Leases in etcd: granted, kept alive over one stream for all of them, ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from bascule.store.etcd.client import END, EtcdClient, Link, pause_s, rpc
from bascule.store.interface import LeaseLostError, UnavailableError

TTL_MAX_S: Final = 9_000_000_000
"""etcd's own bound."""


class Leases:
    """The leases that this process holds or keeps alive for others."""

    def __init__(self, client: EtcdClient) -> None:
        """The stream is opened by the first heartbeat."""
        self._client = client
        self._stream: _KeepAliveStream | None = None

    async def grant(self, ttl_ms: int) -> int:
        """Return a new lease; its time is rounded up to seconds, and by etcd to at least its election timeout (2 s)."""
        request = rpc.LeaseGrantRequest(TTL=min(max(1, -(-ttl_ms // 1000)), TTL_MAX_S))
        return int((await self._client.call("Lease", "LeaseGrant", request)).ID)

    async def keep_alive(self, lease: int) -> int:
        """Begin a lease's time anew and return it in ms; LeaseLostError when it has ended (etcd answers TTL 0)."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._client.timeout_s
        tries = 0
        while True:
            try:
                if self._stream is None or self._stream.ended:
                    self._stream = _KeepAliveStream(self._client, await self._client.metadata())
                ttl_s = await self._stream.beat(lease)
            except UnavailableError:
                tries += 1
                if loop.time() + pause_s(tries) >= end:
                    raise
                await asyncio.sleep(pause_s(tries))
                continue
            if ttl_s <= 0:
                raise LeaseLostError(f"lease {lease} has ended", "grant another one and put everything again")
            return ttl_s * 1000

    async def keys(self, lease: int) -> list[bytes] | None:
        """Return the keys that live by a lease, None when it has ended."""
        response = await self._client.call("Lease", "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
        return None if response.TTL <= 0 else list(response.keys)

    async def revoke(self, lease: int) -> None:
        """End a lease; one that has ended is no error."""
        with contextlib.suppress(LeaseLostError):
            await self._client.call("Lease", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))

    async def close(self) -> None:
        """Close the stream; leases go on until they end."""
        if self._stream is not None:
            await self._stream.close()


class _KeepAliveStream:
    """The one stream of heartbeats. Made and used in one loop; `ended` once it has broken, and then never used again."""

    def __init__(self, client: EtcdClient, metadata: tuple[tuple[str, str], ...]) -> None:
        self.ended = False
        self._waiting: dict[int, list[asyncio.Future[int]]] = {}
        self._client = client
        self._metadata = metadata
        self._call: Any = None
        self._opened = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def beat(self, lease: int) -> int:
        """Send a heartbeat and return the answer's TTL in seconds."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lease, []).append(future)
        try:
            async with asyncio.timeout(self._client.attempt_s):
                await asyncio.shield(self._opened)
                await self._call.write(rpc.LeaseKeepAliveRequest(ID=lease))
                return await future
        except TimeoutError:
            self._end(leave=True)
            raise UnavailableError("etcd does not answer a heartbeat", "see `etcdctl endpoint health`") from None
        except (UnavailableError, asyncio.CancelledError):
            raise
        except Exception as error:  # what a write to a broken stream raises differs from release to release of gRPC
            self._end(leave=True)
            raise UnavailableError("the stream of heartbeats broke", "see `etcdctl endpoint health`") from error
        finally:
            waiting = self._waiting.get(lease, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(lease, None)

    async def _run(self) -> None:
        async with self._client.using() as link:
            self._link: Link = link
            self._call = link.services["Lease"].LeaseKeepAlive(metadata=self._metadata)
            self._opened.set_result(None)
            try:
                while (response := await self._call.read()) is not END:
                    for future in self._waiting.pop(response.ID, []):
                        if not future.done():
                            future.set_result(int(response.TTL))
            except Exception as error:
                self._client.failed(link, error)
            finally:
                self._call.cancel()
                self._end(leave=False)

    def _end(self, *, leave: bool) -> None:
        if self.ended:
            return
        self.ended = True
        if leave and self._call is not None:
            self._client.leave(self._link)
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(UnavailableError("the stream of heartbeats broke"))
                    future.exception()
        self._task.cancel()

    async def close(self) -> None:
        self._end(leave=False)
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
