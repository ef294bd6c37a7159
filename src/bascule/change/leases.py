"""What a server gets of the traffic besides what its configuration says: its way from starting to its full share.

    starting ── its own word (state up), or its health check passes ──► ready ── slow_start ──► serving
                                                                          ▲                        │
                                                                          └── healthy again ── unhealthy

Every verdict is one word in shared memory (cext/bascule/shared/verdicts.pxd), not a new snapshot: a ramp changes ten times
a second, and health in a pool of hundreds more often than configuration, and neither is a revision of the store.

Only servers of backends that have a health check or a slow start are kept here; all others cost nothing. When every
server of a backend fails its check, the check is taken to be what is wrong, and ignored until one passes.

Owner: the master's event loop. Words are written before the snapshot that first knows the server.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from bascule.change.edits import Edit
from bascule.health.checks import HealthChecks
from bascule.health.probe import Lookup
from bascule.model.quantities import duration_ms
from bascule.model.tree import Backend, HealthCheck, Server
from bascule.process.log import Log
from bascule.shared.verdicts import SHARE_FULL, Verdicts

TICK_S: Final = 0.1
CLEAR_AFTER_S: Final = 2.0
"""A removed server's word stays until every worker has left the snapshot that knows it; its slot rests far longer."""

State = Literal["starting", "ramping", "serving", "unhealthy", "draining", "down"]
Servers = Callable[[str], Iterable[tuple[str, Server]]]
"""All servers of a backend that are in force, by id."""


class Standing(msgspec.Struct, frozen=True):
    """How one server stands."""

    backend: str
    server: str
    state: State
    share: float
    """Of its weight, 0 to 1."""
    reason: str = ""
    """Why it is unhealthy, or not ready yet."""


class _Member:
    """One server. `ready_s` is when it last began to take traffic (monotonic)."""

    __slots__ = ("ready_s", "serving", "share", "slot", "state", "url", "weight")

    def __init__(self, slot: int, server: Server) -> None:
        self.slot = slot
        self.serving = False
        self.ready_s = 0.0
        self.share = 0
        self.take(server)

    def take(self, server: Server) -> None:
        self.url = server.url
        self.state = server.state
        self.weight = server.weight


class _Pool:
    """One backend with a health check or a slow start."""

    __slots__ = ("check", "ignored", "members", "slow_start_s")

    def __init__(self, backend: Backend) -> None:
        self.members: dict[str, _Member] = {}
        self.ignored = False
        self.take(backend)

    def take(self, backend: Backend) -> None:
        self.check: HealthCheck | None = backend.health_check
        self.slow_start_s = duration_ms(backend.slow_start) / 1000


class Lifecycles:
    """The verdicts of one master."""

    def __init__(self, slot: Callable[[str, str], int], verdicts: Verdicts, lookup: Lookup, log: Log) -> None:
        """`slot`: the directory's; `lookup`: addresses of host names."""
        self.checks = HealthChecks(self._health_changed, lookup)
        self._slot = slot
        self._verdicts = verdicts
        self._log = log
        self._pools: dict[str, _Pool] = {}
        self._ramping: set[tuple[str, str]] = set()
        self._clearing: deque[tuple[float, int]] = deque()
        self._fresh = True
        self._busy = asyncio.Event()

    # ---- what is in force

    def load(self, backends: Mapping[str, Backend]) -> None:
        """Take over a whole tree: everything that is not in it is forgotten."""
        for name in [name for name in self._pools if name not in backends]:
            self._drop_pool(name)
        for name, backend in backends.items():
            self._put_backend(name, backend, backend.servers.items())
        self._settle()

    def apply(self, edits: Sequence[Edit], servers: Servers) -> None:
        """Take in edits that are about to be published."""
        for edit in edits:
            if edit.kind == "backend":
                if isinstance(edit.record, Backend):
                    known = edit.record.needs_verdicts() or edit.id in self._pools
                    self._put_backend(edit.id, edit.record, servers(edit.id) if known else ())
                else:
                    self._drop_pool(edit.id)
            elif edit.kind == "server" and edit.owner in self._pools:
                if isinstance(edit.record, Server):
                    self._put_server(edit.owner, edit.id, edit.record)
                else:
                    self._drop_server(edit.owner, edit.id)
        for name in {edit.owner or edit.id for edit in edits if edit.kind in ("backend", "server")}:
            self._judge(name)
        self._settle()

    def _settle(self) -> None:
        """After the first time: what a predecessor said of servers that are gone is not to hit their successors."""
        if self._fresh:
            self._fresh = False
            known = {member.slot for pool in self._pools.values() for member in pool.members.values()}
            for slot in self._verdicts.slots():
                if slot not in known:
                    self._verdicts.clear(slot)

    def _put_backend(self, name: str, backend: Backend, servers: Iterable[tuple[str, Server]]) -> None:
        if not backend.needs_verdicts():
            pool = self._pools.get(name)
            slots = [member.slot for member in pool.members.values()] if pool is not None else []
            self._drop_pool(name)
            for slot in slots:  # the servers stay: from now on the configuration alone decides
                self._verdicts.clear(slot)
            return
        pool = self._pools.get(name)
        present = dict(servers)
        if pool is None:
            pool = self._pools[name] = _Pool(backend)
        else:
            pool.take(backend)
            for server in [server for server in pool.members if server not in present]:
                self._drop_server(name, server)
        for server_id, record in present.items():
            self._put_server(name, server_id, record)
        self._judge(name)

    def _put_server(self, backend: str, name: str, server: Server) -> None:
        pool = self._pools[backend]
        member = pool.members.get(name)
        known = None
        if member is None:
            member = pool.members[name] = _Member(self._slot("server", f"{backend}/{name}"), server)
            self._unclear(member.slot)
            known = self._inherit(pool, member) if self._fresh else None
        else:
            if member.url != server.url:
                member.serving = False  # another process, as cold as any new one
            member.take(server)
        if pool.check is None or server.state == "down":
            self.checks.forget(backend, name)
        else:
            self.checks.watch(backend, name, server.url, pool.check, known=known)

    def _inherit(self, pool: _Pool, member: _Member) -> bool | None:
        """Go on where a predecessor stopped; return what it knew of the server's health. Nobody starts slowly because
        the master is new."""
        member.serving = member.state == "up"
        word = self._verdicts.get(member.slot)
        if word is None:
            return None
        share, ready = word
        member.serving = share > 0
        member.ready_s = time.monotonic() - pool.slow_start_s * share / SHARE_FULL
        return True if ready else False if share == 0 else None

    def _drop_server(self, backend: str, name: str) -> None:
        member = self._pools[backend].members.pop(name, None)
        self.checks.forget(backend, name)
        self._ramping.discard((backend, name))
        if member is not None:
            self._clearing.append((time.monotonic() + CLEAR_AFTER_S, member.slot))
            self._busy.set()

    def _drop_pool(self, name: str) -> None:
        pool = self._pools.get(name)
        if pool is not None:
            for server in list(pool.members):
                self._drop_server(name, server)
            del self._pools[name]

    def _unclear(self, slot: int) -> None:
        if self._clearing:
            self._clearing = deque(entry for entry in self._clearing if entry[1] != slot)

    # ---- verdicts

    def _health_changed(self, backend: str, server: str) -> None:
        health = self.checks.health(backend, server)
        if health is not None and health.passing is False:
            self._log.warning("a server is unhealthy", backend=backend, server=server, reason=health.reason)
        else:
            self._log.info("a server is healthy", backend=backend, server=server)
        self._judge(backend)

    def _judge(self, name: str) -> None:
        """Decide anew about every server of a backend."""
        pool = self._pools.get(name)
        if pool is None:
            return
        candidates = [server for server, member in pool.members.items() if member.state == "up" and member.weight]
        ignored = bool(candidates) and not any(self.checks.passing(name, server) for server in candidates)
        if ignored and not pool.ignored:
            self._log.error(
                "every server of a backend fails its health check: the check is ignored until one passes",
                backend=name,
                remedy="see whether the check asks the right path; bascule status shows the reasons",
            )
        pool.ignored = ignored
        now_s = time.monotonic()
        for server, member in pool.members.items():
            self._decide(pool, name, server, member, now_s)

    def _decide(self, pool: _Pool, backend: str, server: str, member: _Member, now_s: float) -> None:
        if member.state == "starting":
            serving = self.checks.proven(backend, server)
        else:
            serving = member.state == "up" and (pool.ignored or self.checks.passing(backend, server))
        if serving and not member.serving:
            member.ready_s = now_s
        member.serving = serving
        self._grow(pool, backend, server, member, now_s)

    def _grow(self, pool: _Pool, backend: str, server: str, member: _Member, now_s: float) -> None:
        """Write the member's word by how long it has been ready."""
        member.share = 0
        if member.serving:
            grown = (now_s - member.ready_s) / pool.slow_start_s if pool.slow_start_s else 1.0
            member.share = max(1, min(SHARE_FULL, int(grown * SHARE_FULL)))
        if 0 < member.share < SHARE_FULL:
            self._ramping.add((backend, server))
            self._busy.set()
        else:
            self._ramping.discard((backend, server))
        by_snapshot = member.state in ("draining", "down") if not member.serving else member.share == SHARE_FULL
        if member.state == "starting":
            by_snapshot = not member.serving
        if by_snapshot:
            self._verdicts.clear(member.slot)
        else:
            self._verdicts.set(member.slot, member.share, ready=member.state == "starting")

    async def run(self) -> None:
        """Ask servers, let shares grow, and clear what is gone, for ever."""
        asking = asyncio.create_task(self.checks.run())
        try:
            while True:
                await self._busy.wait()
                await asyncio.sleep(TICK_S)
                self._tick(time.monotonic())
        finally:
            asking.cancel()

    def _tick(self, now_s: float) -> None:
        for backend, server in list(self._ramping):
            pool = self._pools[backend]
            self._grow(pool, backend, server, pool.members[server], now_s)
        while self._clearing and self._clearing[0][0] <= now_s:
            self._verdicts.clear(self._clearing.popleft()[1])
        if not self._ramping and not self._clearing:
            self._busy.clear()

    # ---- what there is to see

    def takes_traffic(self, backend: str, server: str) -> bool:
        """Tell whether a server that is configured as starting has become ready."""
        pool = self._pools.get(backend)
        member = pool.members.get(server) if pool is not None else None
        return member is not None and member.serving and member.weight > 0

    def standings(self) -> list[Standing]:
        """Return every server that does not plainly serve, by backend and id."""
        found = []
        for backend, pool in sorted(self._pools.items()):
            for server, member in sorted(pool.members.items()):
                health = self.checks.health(backend, server)
                unwell = health is not None and health.passing is False
                if member.serving and member.share == SHARE_FULL and not unwell:
                    continue
                reason = health.reason if health is not None else ""
                found.append(Standing(backend, server, _state(member), member.share / SHARE_FULL, reason))
        return found

    def figures(self) -> list[tuple[str, str, float, bool | None]]:
        """Return backend, id, the share of its weight that it gets (0: nothing) and what its health check says (None: nothing
        yet, or there is none) of every server that has a life of its own, by backend and id."""
        found: list[tuple[str, str, float, bool | None]] = []
        for backend, pool in sorted(self._pools.items()):
            for server, member in sorted(pool.members.items()):
                health = self.checks.health(backend, server)
                share = member.share / SHARE_FULL if member.serving else 0.0
                found.append((backend, server, share, None if health is None else health.passing))
        return found

    def ignored(self) -> list[str]:
        """Return the backends whose check is ignored because every server fails it."""
        return sorted(name for name, pool in self._pools.items() if pool.ignored)


def _state(member: _Member) -> State:
    if member.serving:
        return "serving" if member.share == SHARE_FULL else "ramping"
    return "unhealthy" if member.state == "up" else member.state
