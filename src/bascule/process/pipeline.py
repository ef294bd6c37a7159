"""The way of a change from a store to the workers (docs/life-of-a-change.md), and what is known of it on this node.

    following ─► gather ─► gates ─► objects ─► (bind) ─► compile ─► (unbind) ─► publish ─► applied

Whoever brings something into force holds the control's lock and waits for no worker: see `progress`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from bascule.change.examine import path_of
from bascule.change.gates import OPERATOR
from bascule.change.gather import Gather
from bascule.change.ledger import owner_of
from bascule.change.live import Applied, Freeze, ObjectState
from bascule.change.names import ServerNames
from bascule.change.objects import Changes, ObjectTable
from bascule.model.keys import format_key, parse_key
from bascule.model.problems import Problem
from bascule.model.quantities import duration_ms
from bascule.process.compiling import Compiling, images_of, refusals
from bascule.process.following import Following
from bascule.process.guard import Guard
from bascule.process.keeping import images_due, keep_images
from bascule.process.live_metrics import LiveMetrics
from bascule.process.mirror import Mirror
from bascule.process.notices import Notices
from bascule.process.progress import Progress
from bascule.process.servers import InForceNow
from bascule.process.unbound import Unbound
from bascule.store.interface import Batch, Event, Reading, Store, StoreError

if TYPE_CHECKING:
    from bascule.change.compiled import CompiledSnapshot
    from bascule.change.gather import Gathered
    from bascule.model.tree import Settings
    from bascule.model.tree import Store as StoreTable
    from bascule.process.control import Control
    from bascule.process.master import Master
    from bascule.process.servers import Servers

REVIEW_S: Final = 1.0
"""How often the gates are asked what they need to hold no longer."""
RETRY_S: Final = 1.0
COUNTED: Final = ("listener", "frontend", "backend", "server")
"""Kinds that have counters."""
KEYS_SHOWN: Final = 100
MIRROR_S: Final = 0.5
"""How long a reader waits for the watch to tell what is in the store already, before the store is asked."""
APPLIED_S: Final = 10.0


class Pipeline:
    """One store in force. Owner: the master, for its life; used from its event loop only."""

    def __init__(
        self,
        master: Master,
        store: Store,
        table: StoreTable,
        settings: Settings,
        directory: str,
        compiling: Compiling | None = None,
    ) -> None:
        """`table` is the `[store]` table, `settings` hold while the store has none, `directory` outlives a reboot."""
        assert master.directory is not None
        self.master = master
        self.store = store
        self.table = ObjectTable(settings)
        now = InForceNow(self.table, lambda: self._control)
        self.guard = Guard(self.table, table, directory, master.log, in_force=now)
        self.gates = self.guard.gates
        self.notices = Notices()
        self.metrics = LiveMetrics()
        self.names = ServerNames()
        self.compiling = compiling or Compiling(master.directory.slot, master.publisher)
        self.progress = Progress(master.publisher, self.metrics)
        self.following = Following(store, master.log, self._on_reading, self._on_batch, self._on_store)
        self._gather = Gather(
            self.table.ledger.value, duration_ms(table.coalesce) / 1000, duration_ms(table.coalesce_max) / 1000
        )
        self._control: Control | None = None
        self._unbound = Unbound(self.table)
        self._freezes: tuple[Freeze, ...] = ()
        self._heard = asyncio.Event()

    @property
    def revision(self) -> int:
        """Return the store revision in force."""
        return self.progress.revision

    # ---- start

    def load(self, reading: Reading) -> None:
        """Take the first state in: the store's, or the last good one."""
        self.table.load(reading.entries, reading.identity, reading.revision)

    def load_newer(self, reading: Reading) -> None:
        """Take the store's state in where another one was loaded before: what differs goes through the gates."""
        if not self._refuses(reading.identity, reading.revision):
            events = self._judge(self.table.differences(reading.entries), reading.revision, reading=True)
            self.table.identity = reading.identity
            self.table.apply(events, reading.revision)
        self.following.go_on_from(reading.revision)

    def compile_all(self, revision: int, addresses: dict[str, bytes]) -> CompiledSnapshot:
        """Compile everything for a start, and quarantine what cannot be."""
        self.compiling.identity = self.table.identity
        compiled = self.compiling.first(self.table.tree(), addresses, revision, self.table.revision)
        self._quarantine(compiled, self._nothing())
        return compiled

    def without(self, problems: Sequence[dict[str, str]]) -> None:
        """Quarantine the listeners that cannot be bound."""
        self._unbound.refuse(problems, self._nothing())

    def in_force(self, since: Reading) -> None:
        """Say that what was loaded is in force."""
        self.progress.note(self.table.revision, 0.0)
        self.guard.note_all(since.entries)
        keep_images(self)

    def _nothing(self) -> Changes:
        return Changes(self.table.revision, [], {}, rewritten=[], standing=[])

    # ---- life

    def start(self, control: Control) -> None:
        """Begin to follow the store."""
        self._control = control
        self.notices = control.broadcast
        if self.compiling.ready:
            control.servers.load(self.table.tree().backends)
        self.table.forget_tree()
        control.spawn(self.following.run())
        control.spawn(self._take())
        control.spawn(self._look_after())
        control.spawn(self.guard.watch_over(self.store, self.read_again).run())

    async def close(self) -> None:
        """Write down what is in force and let go of the store."""
        await asyncio.to_thread(self.guard.last_good.close, 1.0)
        await self.store.close()

    async def _take(self) -> None:
        """Bring into force what is gathered, for ever."""
        while True:
            await self._gather.due()
            try:
                async with self._lock:
                    gathered = self._gather.take()
                    if gathered is not None:
                        await self._gathered(gathered)
            except Exception as error:  # whatever it is, the next change has to find somebody here
                self.master.log.error(
                    "a change could not be brought into force; reading everything anew",
                    error=f"{type(error).__name__}: {error}",
                )
                self.metrics.failed += 1
                self.compiling.ready = False
                await asyncio.sleep(RETRY_S)
                self.following.read_again()

    async def _look_after(self) -> None:
        """Ask the gates now and then what they need not hold any longer, try again to bind what could not be, and fold."""
        while True:
            await asyncio.sleep(REVIEW_S)
            try:
                if self.compiling.fold_due:
                    await self._fold()
                await self._keep_images()
                await self._let_go()
                if self.gates.freeze_state() is None:
                    await self._review()
                    await self._bind_again()
            except Exception as error:
                self.master.log.error("looking after the store failed", error=f"{type(error).__name__}: {error}")
                self.following.read_again()

    async def _keep_images(self) -> None:
        """Have the images written down now and then, beside the objects that they say."""
        if images_due(self) and not len(self._gather):
            async with self._lock:
                # What drains is in force, and no object says it.
                if not any(server.draining for server in self._servers.departures.departed()):
                    if not self.compiling.clean:
                        self._publish(await self.compiling.fold(self.table.revision))
                    keep_images(self)

    async def _let_go(self) -> None:
        """Take servers out of force that left and have finished what they had."""
        departed = self._servers.departures.due()
        if departed:
            async with self._lock:
                changes = msgspec.structs.replace(self._nothing(), edits=departed)
                await self._bring_into_force(changes, 0.0)

    async def _review(self) -> None:
        verdict = self.gates.review() if self.gates.held else None
        if verdict is not None and verdict.events:
            async with self._lock:
                await self._apply(verdict.events, self.table.revision, 0.0)
            self.guard.note_gates()

    async def _bind_again(self) -> None:
        due = self._unbound.due()
        if due:
            async with self._lock:
                await self._bring_into_force(self.table.again(due), 0.0)

    @property
    def _servers(self) -> Servers:
        assert self._control is not None
        return self._control.servers

    @property
    def _lock(self) -> asyncio.Lock:
        assert self._control is not None
        return self._control.lock

    # ---- what the store says

    def _refuses(self, identity: str, revision: int) -> bool:
        """Ask the gates about where something comes from, and tell whether anything may come into force now."""
        self.gates.position(identity, revision, self.table.identity, self.table.revision)
        self._note_freeze()
        return bool(self._freezes)

    def _on_batch(self, batch: Batch) -> None:
        frozen = self._freezes
        if batch.identity == self.table.identity and self.following.seen <= batch.revision < self.table.revision:
            return  # a reading was faster than this watch, and the store did not go back
        if self._refuses(batch.identity, batch.revision):
            return
        if frozen:  # it is the one it was again
            self.following.read_again()
            return
        self.metrics.revisions += batch.revisions if batch.events else 0
        self._gather.add(batch)
        self._heard.set()

    async def _on_reading(self, reading: Reading) -> None:
        async with self._lock:
            if self._refuses(reading.identity, reading.revision):
                return
            self._gather.drop()
            await self._difference(reading, judged=True)

    async def _difference(self, reading: Reading, *, judged: bool) -> None:
        events: Sequence[Event] = self.table.differences(reading.entries)
        if judged and self.table.identity:
            events = self._judge(events, reading.revision, reading=True)
        self.table.identity = reading.identity
        await self._apply(events, reading.revision, time.monotonic())

    def _on_store(self, what: str) -> None:
        self.notices.tell("store", self.revision, {"state": what, "place": self.store.place})

    async def _gathered(self, gathered: Gathered) -> None:
        if gathered.identity != self.table.identity or self.gates.freeze_state() is not None:
            return  # it is read anew when the freeze ends
        if gathered.revision < self.table.revision:
            return  # a reading was faster
        self.metrics.coalesced += max(gathered.batches - 1, 0)
        await self._apply(self._judge(gathered.events, gathered.revision), gathered.revision, gathered.since_s)

    def _judge(self, events: Sequence[Event], revision: int, *, reading: bool = False) -> Sequence[Event]:
        if self._control is not None:  # at the start nobody serves yet who could leave
            self._servers.departures.saw(events)
        verdict = self.gates.judge(events, reading=reading)
        if verdict.held or verdict.returned or verdict.released:
            self.guard.note_gates()
        for reason in dict.fromkeys(hold.reason for hold in verdict.held):
            keys = [hold.key for hold in verdict.held if hold.reason == reason]
            self.master.log.error("held: " + reason, objects=len(keys), remedy=verdict.held[0].remedy)
            self.notices.tell("held", revision, {"reason": reason, "keys": keys[:KEYS_SHOWN], "count": len(keys)})
        return verdict.events

    # ---- into force

    async def _apply(self, events: Sequence[Event], revision: int, since_s: float) -> None:
        await self._bring_into_force(self.table.apply(events, revision), since_s)

    async def _bring_into_force(self, changes: Changes, since_s: float) -> None:
        """Bind what is new, compile, close what is gone, publish. What can fail comes before what has an effect."""
        control = self._control
        assert control is not None
        # A predecessor may have died between two of these steps, and its keeper with it.
        succeeds = not self.compiling.ready
        listeners = changes.listeners or succeeds
        if listeners:
            await self._bind(changes)
        if changes.edits or succeeds:
            compiled, same = await self._compile(changes)
            if listeners:
                control.unbind(self.wanted_listeners())
            if not same:
                self._publish(compiled)
            self._release(changes)
        self._note(changes, since_s)
        if changes.settings is not None or succeeds:
            control.tell_settings(self.table.settings())
        if listeners:
            control.lend_when_applied()

    async def _compile(self, changes: Changes) -> tuple[CompiledSnapshot, bool]:
        """Return the next snapshot, and whether the workers run this very one already."""
        control, compiling = self._control, self.compiling
        assert control is not None
        compiling.identity = self.table.identity
        same = False
        if compiling.ready:
            changes.edits = self._servers.soften(changes.edits, changes.before)
            if self.names.apply(changes.edits):
                compiling.set_addresses(await control.look_up(self.names.wanted()))
            compiled = await compiling.apply(changes.edits, self.table.revision)
            self._servers.apply(changes.edits, self.table)
        else:  # as a successor, or after something went wrong
            tree = self.table.tree()
            self.names.load(tree)
            addresses = await control.look_up(self.names.wanted())
            compiled, same = await compiling.again(tree, addresses, self.table.revision)
            self._servers.load(tree.backends)
        self._quarantine(compiled, changes)
        return compiled, same

    def _publish(self, compiled: CompiledSnapshot) -> None:
        assert self._control is not None
        self._control.publish(compiled.revision, images_of(compiled))
        self.metrics.published += 1

    async def readdress(self, addresses: dict[str, bytes]) -> None:
        """Publish what is in force with other addresses of host names; the caller holds the lock."""
        if self.compiling.ready and self.compiling.set_addresses(addresses):
            self._publish(await self.compiling.apply((), self.table.revision))

    async def _fold(self) -> None:
        """Fold everything together while nothing else is to be done."""
        async with self._lock:
            if self.compiling.fold_due and not len(self._gather):
                self._publish(await self.compiling.fold(self.table.revision))

    def _quarantine(self, compiled: CompiledSnapshot, changes: Changes) -> None:
        """Refuse what the compiler has refused: its form before stays in force."""
        for key, problem in refusals(compiled):
            self.table.reject(key, (problem,), changes)
            self.metrics.rejected += 1

    async def _bind(self, changes: Changes) -> None:
        """Open new listeners; those that cannot be opened are quarantined, and the others go on."""
        control = self._control
        assert control is not None
        while problems := await control.bind(self.wanted_listeners(), self.table.settings().slots):
            self._unbound.refuse(problems, changes)

    def wanted_listeners(self) -> list[dict[str, str]]:
        """Return id and address of every listener in force, by id."""
        return [{"id": name, "address": found.address} for name, found in sorted(self.table.listeners().items())]

    def _release(self, changes: Changes) -> None:
        """Let the counters of what is gone go."""
        directory = self.master.directory
        assert directory is not None
        gone = {format_key(edit.kind, edit.id, edit.owner) for edit in changes.edits if edit.record is None}
        if not gone:
            return
        gone.update(key for key in changes.before if owner_of(key) in gone)
        for key in gone:
            parsed = parse_key(key)
            if parsed is not None and parsed.kind in COUNTED:
                with contextlib.suppress(KeyError):
                    directory.release(parsed.kind, f"{parsed.owner}/{parsed.id}" if parsed.owner else parsed.id)

    def _note(self, changes: Changes, since_s: float) -> None:
        """The store's revision is in force now: tell everybody who wants to know."""
        self.progress.note(self.table.revision, since_s if changes.edits else 0.0)
        self.guard.note(changes)
        if self._control is not None:
            self._control.await_applied()
        if changes.edits and self.notices.heard:
            keys = [format_key(edit.kind, edit.id, edit.owner) for edit in changes.edits[:KEYS_SHOWN]]
            self.notices.tell("change", self.revision, {"keys": keys, "count": len(changes.edits)})
        for key in changes.standing:
            state = self.table.state(key)
            if state is not None and state.state == "quarantined":
                self._note_quarantined(key, state.problems[0])

    def _note_quarantined(self, key: str, problem: Problem) -> None:
        self.metrics.quarantined += 1
        self.master.log.warning(
            "quarantined: its last good form stays in force", object=key, problem=problem.message, remedy=problem.remedy
        )
        self.notices.tell("quarantined", self.revision, {"key": key, "problem": problem.message})

    def _note_freeze(self) -> None:
        before, self._freezes = self._freezes, self.gates.freezes()
        if self._freezes != before:
            self.guard.note_gates()
        if bool(self._freezes) == bool(before):
            return
        if (freeze := self.gates.freeze_state()) is not None:
            self.master.log.error("frozen: " + freeze.reason, remedy=freeze.remedy)
            self.notices.tell("frozen", self.revision, {"by": freeze.by, "reason": freeze.reason})
        else:
            self.master.log.info("no longer frozen")
            self.notices.tell("unfrozen", self.revision, {})
        self.progress.move()

    def acknowledged(self, sequence: int) -> None:
        """Every serving worker has the snapshot of this number."""
        newest = self.progress.acknowledged(sequence)
        if newest:
            self.notices.tell("applied", newest, {})

    # ---- what is asked: bascule.change.live.Live

    async def until_applied(self, revision: int, timeout_s: float) -> Applied:
        """See Live."""
        deadline_s = time.monotonic() + timeout_s
        there = await self.progress.until_in_force(revision, deadline_s, lambda: self.gates.freeze_state() is not None)
        lagging = await self.progress.until_applied(revision, deadline_s) if there else ()
        # While frozen the number may be another history's; and without a worker nothing is in force anywhere.
        applied = there and not lagging and bool(self.master.publisher.serving()) and not self.gates.freeze_state()
        return Applied(self.revision, applied, lagging, self.gates.reasons())

    async def reading(self, at_least: int) -> Reading:
        """See Live."""
        deadline_s = time.monotonic() + MIRROR_S
        while not self._told(at_least):
            self._heard.clear()
            try:
                await asyncio.wait_for(self._heard.wait(), max(deadline_s - time.monotonic(), 0.0))
            except TimeoutError:
                return await self.store.read()
        entries = Mirror(self.table.ledger, self._gather.events, self.gates.held)
        return Reading(self.table.identity, max(self.table.revision, self._gather.revision), entries)

    def _told(self, at_least: int) -> bool:
        """Tell whether table and gatherer together are what the store said up to a revision."""
        known = bool(self.following.connected_s and self.table.identity and not self.gates.freezes())
        return known and max(self.table.revision, self._gather.revision) >= at_least

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
        """See Live."""
        freeze = self.gates.freeze(reason, by)
        self._note_freeze()
        return await self.guard.remembered(freeze)

    async def unfreeze(self, by: str) -> Applied:
        """See Live."""
        if self.gates.unfreeze():
            self.master.log.info("unfrozen", by=by)
        self._note_freeze()
        try:
            await self.read_again()
        except StoreError:
            self.following.read_again()  # what came meanwhile was not kept
            raise
        await self.guard.until_written()
        return await self.until_applied(self.revision, APPLIED_S)

    async def adopt(self, by: str) -> Applied:
        """See Live. While an operator has frozen everything it changes nothing: nothing could be read."""
        if (freeze := self.gates.freeze_state()) is not None and freeze.by == OPERATOR:
            return Applied(self.revision, False, (), self.gates.reasons())
        self.master.log.warning("adopted: what the gates held back comes into force", by=by)
        async with self._lock:
            reading = await self.store.read()
            verdict = self.gates.adopt()
            self._note_freeze()
            self._gather.drop()
            if verdict.events:
                await self._apply(verdict.events, self.table.revision, 0.0)
            await self._difference(reading, judged=False)
            self.guard.note_gates()
        self.following.read_again()
        await self.guard.until_written()
        return await self.until_applied(self.revision, APPLIED_S)

    async def read_again(self) -> None:
        """Read the store now and bring the differences into force, through all gates."""
        await self._on_reading(await self.store.read())
