"""Host names of servers to addresses, outside the way of any request.

Each name is looked up again after its backend's `resolve_interval` (getaddrinfo(3) does not tell the TTL). A server's
address is sticky: it stays as long as it is in the answer, because a name with several addresses comes back in
another order every time, and following it would throw away warm connections. An answer that fails keeps the last
good one: an error is never data.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from bascule.change.address import literal_sockaddr
from bascule.model.quantities import duration_ns
from bascule.model.tree import Tree

LOOKUPS_AT_ONCE: Final = 4
LOOKUP_TIMEOUT_S: Final = 5.0
"""After which a lookup counts as failed; its thread is left to itself, so a hanging name server delays no other name."""

Lookup = Callable[[str, int], Sequence[bytes]]
"""(host, port) to the sockaddrs of the answer, best first; OSError when there is none."""


def names_of(tree: Tree) -> dict[str, float]:
    """Return the server authorities ("name:port") that need resolving, each with its interval in seconds.

    A name that several backends use gets the shortest of their intervals.
    """
    names: dict[str, float] = {}
    literal: set[str] = set()
    for backend in tree.backends.values():
        for server in backend.servers.values():
            url = server.url
            if url in literal:
                continue
            authority = url.removeprefix("http://")
            if authority not in names and literal_sockaddr(authority) is not None:
                literal.add(url)
                continue
            interval_s = duration_ns(backend.resolve_interval) / 1e9
            names[authority] = min(names.get(authority, interval_s), interval_s)
    return names


def system_lookup(host: str, port: int) -> Sequence[bytes]:
    """Ask the system's resolver (files, DNS, whatever nsswitch.conf says), in the order of RFC 6724."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    addresses = [_pack(family, address) for family, _, _, _, address in answers]
    return [address for address in addresses if address]


def _pack(family: int, address: Sequence[object]) -> bytes:
    """Return struct sockaddr_in or sockaddr_in6 (netinet/in.h); empty for any other family."""
    host, port = str(address[0]), int(str(address[1]))
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_pton(family, host) + bytes(8)
    if family == socket.AF_INET6:
        packed = socket.inet_pton(family, host.partition("%")[0])
        scope = int(str(address[3]))
        return struct.pack("=H", family) + struct.pack("!HI", port, 0) + packed + struct.pack("=I", scope)
    return b""


class Resolution(msgspec.Struct):
    """What is known about one name."""

    interval_s: float
    due_s: float = 0.0
    address: bytes = b""
    """Empty until the first good answer."""
    failure: str = ""
    """Why the last lookup failed; empty after a good one."""
    since_s: float = 0.0
    """When `address` or `failure` last changed."""


class Resolver:
    """Keeps the addresses of the names that are wanted.

    Owner: the master's event loop. Lookups run in threads of its own; everything else runs on the loop, so nothing
    is locked.
    """

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = LOOKUP_TIMEOUT_S,
    ) -> None:
        """See the class; `lookup` and `clock` are for tests."""
        self._timeout_s = timeout_s
        self._lookup = lookup
        self._clock = clock
        self._names: dict[str, Resolution] = {}
        self._turns = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._wake = asyncio.Event()

    def want(self, names: Mapping[str, float]) -> None:
        """Replace the set of wanted names (authority to interval in seconds). What is known of those that stay is
        kept."""
        kept = self._names
        self._names = {}
        for authority, interval_s in names.items():
            known = kept.get(authority) or Resolution(interval_s)
            known.interval_s = interval_s
            self._names[authority] = known
        self._wake.set()

    def addresses(self) -> dict[str, bytes]:
        """Return the sockaddr of every wanted name that has one: what compile_snapshot takes."""
        return {name: known.address for name, known in self._names.items() if known.address}

    def address(self, name: str) -> bytes | None:
        """Return the sockaddr of one wanted name, None while it has none."""
        known = self._names.get(name)
        return known.address or None if known is not None else None

    def failures(self) -> dict[str, str]:
        """Return the reason of every wanted name whose last lookup failed; its last good address still counts."""
        return {name: known.failure for name, known in self._names.items() if known.failure}

    async def refresh(self, authorities: Iterable[str] | None = None) -> bool:
        """Look up the names that are due, or those given; return whether any address changed."""
        now_s = self._clock()
        if authorities is None:
            authorities = [name for name, known in self._names.items() if known.due_s <= now_s]
        results = await asyncio.gather(*(self._refresh_one(authority) for authority in authorities))
        return any(results)

    async def run(self, changed: Callable[[], None]) -> None:
        """Refresh for ever, calling `changed` after every refresh that changed an address."""
        while True:
            if await self.refresh():
                changed()
            self._wake.clear()
            due_s = min((known.due_s for known in self._names.values()), default=None)
            wait_s = None if due_s is None else max(0.05, due_s - self._clock())
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except TimeoutError:
                continue

    async def _refresh_one(self, authority: str) -> bool:
        known = self._names.get(authority)
        if known is None:
            return False
        host, _, port = authority.rpartition(":")
        before = known.address
        try:
            async with self._turns:
                answer = await asyncio.wait_for(self._in_thread(host, int(port)), self._timeout_s)
        except TimeoutError:
            self._note(known, known.address, f"no answer within {self._timeout_s:g} s")
        except (OSError, UnicodeError) as error:
            self._note(known, known.address, getattr(error, "strerror", None) or str(error))
        else:
            address = known.address if known.address in answer or not answer else answer[0]
            self._note(known, address, "" if answer else "no address of a usable family")
        return known.address != before

    def _note(self, known: Resolution, address: bytes, failure: str) -> None:
        now_s = self._clock()
        if (known.address, known.failure) != (address, failure):
            known.address, known.failure, known.since_s = address, failure, now_s
        known.due_s = now_s + known.interval_s

    def _in_thread(self, host: str, port: int) -> asyncio.Future[Sequence[bytes]]:
        """Start a lookup in a daemon thread: an executor's would be waited for when the process ends."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[bytes]] = loop.create_future()

        def settle(answer: Sequence[bytes], error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

        def work() -> None:
            answer: Sequence[bytes] = ()
            failure: Exception | None = None
            try:
                answer = self._lookup(host, port)
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, answer, failure)

        threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
        return future

    def close(self) -> None:
        """Forget all names; a lookup under way ends by itself."""
        self._names = {}
