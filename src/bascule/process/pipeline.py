"""The way of a change from a store to the workers (docs/life-of-a-change.md), and what is known of it on this node.

    following ─► gather ─► gates ─► objects ─► (bind) ─► compile ─► (unbind) ─► publish ─► applied

One task takes what is gathered and brings it into force; nothing else changes the table, the compiler or what is
published, and it never waits for workers: `until_applied` and the `applied` notices look at what they acknowledge.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bascule.change.compiling import TreeCompiler
from bascule.change.edits import Edit
from bascule.change.examine import path_of
from bascule.change.gates import Gates
from bascule.change.gather import Gather
from bascule.change.live import Applied, Freeze, ObjectState
from bascule.change.names import ServerNames
from bascule.change.objects import Changes, ObjectTable
from bascule.model.keys import format_key
from bascule.model.problems import Problem
from bascule.model.quantities import duration_ms
from bascule.process.following import Following
from bascule.process.live_metrics import LiveMetrics
from bascule.process.notices import Notices
from bascule.process.reloading import Outcome
from bascule.process.servers import InForceNow
from bascule.store.interface import Batch, Event, Reading, Store, StoreError

if TYPE_CHECKING:
    from bascule.change.compiled import CompiledSnapshot
    from bascule.model.tree import Settings, Tree
    from bascule.process.control import Control
    from bascule.process.master import Master
    from bascule.process.servers import Servers

REVIEW_S: Final = 1.0
"""How often the gates are asked what they need to hold no longer."""
REBIND_S: Final = 5.0
"""How often a listener whose address was taken is tried again."""
COMPILE_IN_THREAD: Final = 500
"""Edits from which on a compilation is left to a thread."""
PUBLISHED_KEPT: Final = 4096
APPLIED_S: Final = 10.0


class Pipeline:
    """One store in force. Owner: the master, for its life; used from its event loop only."""

    def __init__(self, master: Master, store: Store, coalesce_ms: tuple[int, int], settings: Settings) -> None:
        """`coalesce_ms`: quiet time and longest time; `settings` hold while the store has none."""
        assert master.directory is not None
        self.master = master
        self.store = store
        self.table = ObjectTable(settings)
        self.gates = Gates(InForceNow(self.table, lambda: self._control), passing=self._passing)
        self.notices = Notices()
        self.metrics = LiveMetrics()
        self.names = ServerNames()
        self.compiler = TreeCompiler(master.directory.slot)
        self.revision = 0
        """Store revision in force: what the newest published snapshot says."""
        self.settings = settings
        self._compiled = False
        self._gather = Gather(self.table.ledger.value, coalesce_ms[0] / 1000, coalesce_ms[1] / 1000)
        self.following = Following(store, master.log, self._on_reading, self._on_batch, self._on_store)
        self._control: Control | None = None
        self._published: deque[tuple[int, int, float]] = deque(maxlen=PUBLISHED_KEPT)
        """(store revision, sequence number of its snapshot, when its first event came)."""
        self._moved = asyncio.Event()
        self._unbound: dict[str, float] = {}
        self._frozen_before = False

    # ---- start

    def load(self, reading: Reading) -> Tree:
        """Take the first reading in, before anything is in force."""
        tree = self.table.load(reading.entries, reading.identity, reading.revision)
        self.names.load(tree)
        self.settings = tree.settings
        self.following.go_on_from(reading.revision)
        return tree

    def full(self, tree: Tree, revision: int, addresses: dict[str, bytes]) -> CompiledSnapshot:
        """Compile everything, and quarantine what cannot be."""
        compiled = self.compiler.full(tree, revision=revision, addresses=addresses)
        self._compiled = True
        changes = Changes(self.table.revision, [], {}, standing=[])
        for route in compiled.rejected:
            self.table.reject(f"frontends/{route.frontend}", (_route_problem(route),), changes)
        return compiled

    def without(self, problems: Sequence[dict[str, str]], tree: Tree) -> None:
        """Quarantine the listeners that cannot be bound, and take them out of the tree."""
        changes = Changes(self.table.revision, [], {}, standing=[])
        for problem in problems:
            tree.listeners.pop(problem["id"], None)
            self._unbindable(problem, changes)

    def in_force(self) -> None:
        """Say that what was loaded is in force."""
        self.revision = self.table.revision
        self._published.append((self.revision, self.master.publisher.revision, 0.0))
        self.metrics.in_force_s = time.time()

    # ---- life

    def start(self, control: Control) -> None:
        """Begin to follow the store."""
        self._control = control
        self.notices = control.broadcast
        if self._compiled:
            control.servers.load(self.table.tree().backends)
        control.spawn(self.following.run())
        control.spawn(self._take())
        control.spawn(self._look_after())

    async def _take(self) -> None:
        """Bring into force what is gathered, for ever."""
        while True:
            gathered = await self._gather.next()
            try:
                await self._gathered(gathered)
            except Exception as error:  # whatever it is, the next change has to find somebody here
                self.master.log.error(
                    "a change could not be brought into force; reading everything anew",
                    revision=gathered.revision,
                    error=f"{type(error).__name__}: {error}",
                )
                self.metrics.failed += 1
                await asyncio.sleep(1.0)
                self.following.read_again()

    async def _look_after(self) -> None:
        """Ask the gates now and then what they need not hold any longer, and try again to bind what could not be."""
        while True:
            await asyncio.sleep(REVIEW_S)
            departed = self._servers.departures.due()
            if departed:
                async with self._lock:
                    await self._bring_into_force(Changes(self.table.revision, departed, {}, standing=[]), 0.0)
            if self.gates.freeze_state() is None and self.gates.held:
                verdict = self.gates.review()
                if verdict.events:
                    async with self._lock:
                        await self._apply(verdict.events, self.table.revision, 0.0)
            now_s = time.monotonic()
            due = [key for key, tried_s in self._unbound.items() if now_s - tried_s >= REBIND_S]
            if due and self.gates.freeze_state() is None:
                async with self._lock:
                    for key in due:
                        self._unbound.pop(key, None)
                    await self._bring_into_force(self.table.again(due), 0.0)

    @property
    def _servers(self) -> Servers:
        assert self._control is not None
        return self._control.servers

    def _passing(self, backend: str, server: str) -> bool:
        return self._control is None or self._control.servers.passing(backend, server)

    @property
    def _lock(self) -> asyncio.Lock:
        assert self._control is not None
        return self._control.lock

    # ---- what the store says

    def _on_batch(self, batch: Batch) -> None:
        table = self.table
        freeze = self.gates.position(batch.identity, batch.revision, table.identity, table.revision)
        if freeze is not None or self.gates.freeze_state() is not None:
            self._note_freeze()
            return
        if self._frozen_before:  # it is the one it was again
            self._note_freeze()
            self.following.read_again()
            return
        self.metrics.revisions += bool(batch.events)
        self._gather.add(batch)

    async def _on_reading(self, reading: Reading) -> None:
        table = self.table
        async with self._lock:
            self._gather.drop()
            freeze = self.gates.position(reading.identity, reading.revision, table.identity, table.revision)
            self._note_freeze()
            if freeze is not None or self.gates.freeze_state() is not None:
                return
            await self._difference(reading, judged=True)

    async def _difference(self, reading: Reading, *, judged: bool) -> None:
        events: Sequence[Event] = self.table.differences(reading.entries)
        if judged and self.table.identity:
            events = self._judge(events, reading.revision, reading=True)
        self.table.identity = reading.identity
        await self._apply(events, reading.revision, time.monotonic())

    def _on_store(self, what: str) -> None:
        self.notices.tell("store", self.revision, {"state": what, "place": self.store.place})

    async def _gathered(self, gathered: Any) -> None:
        async with self._lock:
            if gathered.identity != self.table.identity or self.gates.freeze_state() is not None:
                self.following.read_again()
                return
            self.metrics.coalesced += max(gathered.batches - 1, 0)
            await self._apply(self._judge(gathered.events, gathered.revision), gathered.revision, gathered.since_s)

    def _judge(self, events: Sequence[Event], revision: int, *, reading: bool = False) -> Sequence[Event]:
        self._servers.departures.saw(events)
        verdict = self.gates.judge(events, reading=reading)
        if verdict.held:
            for reason in dict.fromkeys(hold.reason for hold in verdict.held):
                keys = [hold.key for hold in verdict.held if hold.reason == reason]
                self.master.log.error("held: " + reason, objects=len(keys), remedy=verdict.held[0].remedy)
                self.notices.tell("held", revision, {"reason": reason, "keys": keys[:100], "count": len(keys)})
        return verdict.events

    # ---- into force

    async def _apply(self, events: Sequence[Event], revision: int, since_s: float) -> None:
        await self._bring_into_force(self.table.apply(events, revision), since_s)

    async def _bring_into_force(self, changes: Changes, since_s: float) -> None:
        """Bind what is new, compile, close what is gone, publish. What can fail comes before what has an effect."""
        control = self._control
        assert control is not None
        if changes.listeners:
            await self._bind(changes)
        if changes.edits:
            changes.edits = control.servers.soften(changes.edits, changes.before)
            renamed = self.names.apply(changes.edits)
            if renamed:
                await control.look_up(self.names.wanted())
                self.compiler.set_addresses(control.resolver.addresses())
            compiled = await self._compile(changes.edits)
            self._quarantine_rejected(compiled, changes)
            if changes.listeners:
                await control.unbind(self._wanted_listeners())
            control.servers.apply(changes.edits, self.table)
            if not self._runs_already(compiled):
                control.publish(compiled.revision, compiled.image)
                self.metrics.published += 1
            self._retain(changes.edits)
        self._note(changes, since_s)
        if changes.settings is not None:
            self.settings = changes.settings
            control.tell_settings(changes.settings)
        if changes.listeners:
            await self.master.publisher.applied()
            control.lend()

    async def _compile(self, edits: Sequence[Edit]) -> CompiledSnapshot:
        revision = self.master.publisher.revision + 1
        if not self._compiled:
            assert self._control is not None
            return self.full(self.table.tree(), revision, self._control.resolver.addresses())
        if len(edits) < COMPILE_IN_THREAD:
            return self.compiler.apply(edits, revision=revision)
        return await asyncio.to_thread(self.compiler.apply, edits, revision=revision)

    def _runs_already(self, compiled: CompiledSnapshot) -> bool:
        """Tell whether the workers run this very content: a successor often finds it so."""
        return False

    async def readdress(self, addresses: dict[str, bytes]) -> None:
        """Publish what is in force with other addresses of host names; the caller holds the lock."""
        assert self._control is not None
        self.compiler.set_addresses(addresses)
        compiled = await self._compile(())
        self._control.publish(compiled.revision, compiled.image)

    def _quarantine_rejected(self, compiled: CompiledSnapshot, changes: Changes) -> None:
        for route in compiled.rejected:
            self.table.reject(f"frontends/{route.frontend}", (_route_problem(route),), changes)
        self.metrics.rejected += len(compiled.rejected)

    async def _bind(self, changes: Changes) -> None:
        """Open new listeners, one by one where not all of them can be; those are quarantined, and the rest goes on."""
        control = self._control
        assert control is not None
        problems = await control.bind(self._wanted_listeners(), self._slots())
        if not problems:
            return
        for problem in problems:
            self._unbindable(problem, changes)
        refused = {problem["id"] for problem in problems}
        changes.edits = [edit for edit in changes.edits if edit.kind != "listener" or edit.id not in refused]
        for problem in await control.bind(self._wanted_listeners(), self._slots()):  # somebody was faster than we
            self._unbindable(problem, changes)
            changes.edits = [edit for edit in changes.edits if edit.kind != "listener" or edit.id != problem["id"]]

    def _unbindable(self, problem: dict[str, str], changes: Changes) -> None:
        key = f"listeners/{problem['id']}"
        self.master.log.error(
            "a listener cannot be opened; trying again now and then",
            listener=problem["id"],
            address=problem["address"],
            reason=problem["message"],
            remedy=problem["remedy"],
        )
        found = Problem(path=(*path_of(key), "address"), message=problem["message"], remedy=problem["remedy"])
        self.table.reject(key, (found,), changes)
        self._unbound[key] = time.monotonic()

    def _slots(self) -> int:
        return self.settings.slots

    def _wanted_listeners(self) -> list[dict[str, str]]:
        return [{"id": name, "address": found.address} for name, found in sorted(self.table.listeners().items())]

    def _retain(self, edits: Sequence[Edit]) -> None:
        """Let the counters of removed objects go."""
        directory = self.master.directory
        assert directory is not None
        for edit in edits:
            if edit.record is None and edit.kind in ("listener", "frontend", "backend", "server"):
                name = f"{edit.owner}/{edit.id}" if edit.kind == "server" else edit.id
                with contextlib.suppress(KeyError):
                    directory.release(edit.kind, name)
                if edit.kind == "backend":
                    for key in self.table.ledger.below(f"backends/{edit.id}"):
                        with contextlib.suppress(KeyError):
                            directory.release("server", f"{edit.id}/{key.rpartition('/')[2]}")

    def _note(self, changes: Changes, since_s: float) -> None:
        """The store's revision is in force now: tell everybody who wants to know."""
        self.revision = self.table.revision
        published = bool(changes.edits)
        self._published.append((self.revision, self.master.publisher.revision, since_s if published else 0.0))
        self.metrics.in_force_s = time.time()
        if published and self._control is not None:
            self._control.await_applied()
        if self.notices.heard:
            keys = [format_key(edit.kind, edit.id, edit.owner) for edit in changes.edits[:100]]
            if keys:
                self.notices.tell("change", self.revision, {"keys": keys, "count": len(changes.edits)})
        for key in changes.standing:
            state = self.table.state(key)
            if state is not None and state.state == "quarantined":
                self.metrics.quarantined += 1
                problem = state.problems[0]
                self.master.log.warning(
                    "quarantined: its last good form stays in force",
                    object=key,
                    problem=problem.message,
                    remedy=problem.remedy,
                )
                self.notices.tell("quarantined", self.revision, {"key": key, "problem": problem.message})
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _note_freeze(self) -> None:
        freeze = self.gates.freeze_state()
        if (freeze is not None) == self._frozen_before:
            return
        self._frozen_before = freeze is not None
        if freeze is not None:
            self.master.log.error("frozen: " + freeze.reason, remedy=freeze.remedy)
            self.notices.tell("frozen", self.revision, {"by": freeze.by, "reason": freeze.reason})
        else:
            self.master.log.info("no longer frozen")
            self.notices.tell("unfrozen", self.revision, {})
        self._move()

    # ---- what workers have

    def acknowledged(self, sequence: int) -> None:
        """Every serving worker has the snapshot of this number: note how long it took."""
        newest = 0
        now_s = time.monotonic()
        while self._published and self._published[0][1] <= sequence:
            newest, _, since_s = self._published.popleft()
            if since_s:
                self.metrics.latency(now_s - since_s)
        if newest:
            self.notices.tell("applied", newest, {})

    def sequence_of(self, revision: int) -> int:
        """Return the number of the snapshot with which a store revision came into force (or a later one's)."""
        for known, sequence, _ in self._published:
            if known >= revision:
                return sequence
        return 0

    async def until_applied(self, revision: int, timeout_s: float) -> Applied:
        """See bascule.change.live.Live."""
        deadline_s = time.monotonic() + timeout_s
        publisher = self.master.publisher
        while self.revision < revision and self.gates.freeze_state() is None:
            moved = self._moved
            try:
                await asyncio.wait_for(moved.wait(), max(deadline_s - time.monotonic(), 0.0))
            except TimeoutError:
                break
        sequence = self.sequence_of(revision)
        if self.revision >= revision:
            await publisher.reached(sequence, max(deadline_s - time.monotonic(), 0.0))
        lagging = tuple(worker.number for worker in publisher.serving() if worker.revision < sequence)
        reached = self.revision >= revision and not lagging
        return Applied(self.revision, reached, lagging, self.gates.reasons())

    # ---- what is asked

    def states(self) -> list[ObjectState]:
        """Return every object that is not plainly in force."""
        held = [
            ObjectState(
                key, "held", self.revision, (Problem(path=path_of(key), message=hold.reason, remedy=hold.remedy),)
            )
            for key, hold in self.gates.held.items()
        ]
        return sorted([*held, *self.table.states()], key=lambda state: state.key)

    async def freeze(self, reason: str, by: str) -> Freeze:
        """See bascule.change.live.Live."""
        freeze = self.gates.freeze(reason, by)
        self._note_freeze()
        return freeze

    async def unfreeze(self, by: str) -> Applied:
        """See bascule.change.live.Live."""
        if self.gates.unfreeze():
            self.master.log.info("unfrozen", by=by)
        self._note_freeze()
        await self.read_again()
        return await self.until_applied(self.revision, APPLIED_S)

    async def adopt(self, by: str) -> Applied:
        """See bascule.change.live.Live."""
        self.master.log.warning("adopted: what the gates held back comes into force", by=by)
        async with self._lock:
            verdict = self.gates.adopt()
            self._note_freeze()
            reading = await self.store.read()
            self._gather.drop()
            if verdict.events:
                await self._apply(verdict.events, self.table.revision, 0.0)
            await self._difference(reading, judged=False)
        self.following.read_again()
        return await self.until_applied(self.revision, APPLIED_S)

    async def reload(self, because: str) -> Outcome:
        """Read the store now: what `POST /v1/reload` and SIGHUP mean to a live store."""
        before = self.master.publisher.revision
        try:
            await self.read_again()
        except StoreError as error:
            problem = Problem(message=str(error), remedy=error.remedy)
            return Outcome(ok=False, changed=False, revision=self.revision, problems=(problem,))
        applied = await self.until_applied(self.revision, APPLIED_S)
        changed = self.master.publisher.revision != before
        self.master.log.info("read the store again", because=because, revision=self.revision, changed=changed)
        held = tuple(Problem(message=reason, warning=True) for reason in applied.held)
        return Outcome(
            ok=applied.applied,
            changed=changed,
            revision=self.revision,
            applied=applied.applied,
            lagging=applied.lagging,
            problems=held,
        )

    async def read_again(self) -> None:
        """Read the store now and bring the differences into force, through all gates."""
        await self._on_reading(await self.store.read())


def coalesce_ms(store: Any) -> tuple[int, int]:
    """Return quiet time and longest time of the store's settings."""
    return duration_ms(store.coalesce), duration_ms(store.coalesce_max)


def _route_problem(route: Any) -> Problem:
    return Problem(
        path=("frontends", route.frontend, "route"),
        message=f"{route.message}, at character {route.position + 1} of the route",
        remedy=route.remedy,
    )
