"""The master after boot: one asyncio loop for changes, acknowledgements and the admin API.

A configuration comes from a file or a command line, read as a whole (`reloading.py`), or from a live store, object by
object (`pipeline.py`). Both bring it into force through here: this is where the links to keeper and workers hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import uvloop

from bascule.change.live import Applied, Preview
from bascule.change.resolve import Resolver, names_of
from bascule.process import huge_pages
from bascule.process.link import Link, LinkClosedError
from bascule.process.names import PATIENCE_S
from bascule.process.notices import Notices
from bascule.process.reloading import Outcome, Reloader
from bascule.process.servers import Servers
from bascule.process.views import metrics_document, status_document
from bascule.process.watching import Watching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from typing import Any

    from bascule.change.live import Freeze, Notice, ObjectState
    from bascule.model.tree import Settings, Tree
    from bascule.process.master import Master
    from bascule.process.pipeline import Pipeline
    from bascule.store.interface import Put, Reading, Remove, Store

KEEPER_TIMEOUT_S = 15.0
NICE = 5
"""Of the master once something is served: on a busy processor a worker gets three times what it gets."""
FLUSH_TIMEOUT_S = 1.0
PRELOAD_AFTER_S = 5.0


class Control:
    """One configuration in force, and the way of the next one. Fulfils bascule.change.live.Live."""

    def __init__(self, master: Master) -> None:
        """See the class."""
        self.master = master
        self.started_at = time.time()
        self.lock = asyncio.Lock()
        """Held by whoever brings something into force."""
        self.summing = asyncio.Lock()
        """Held by whoever sums statistics up: with a million objects that takes seconds and GBs."""
        self.reloader = Reloader(self)
        self.pipeline: Pipeline | None = master.pipeline
        self.resolver = Resolver()
        self.broadcast = Notices()
        self.servers = Servers(self)
        self.watching = Watching(self)
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._asking = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._released = asyncio.Event()
        """Not set: nothing is to come into force, because another generation takes over."""
        self._awaiting_applied = False

    # ---- links

    def attach(self) -> None:
        """Hang the links into the running loop."""
        loop = asyncio.get_running_loop()
        if self.master.keeper is not None:
            loop.add_reader(self.master.keeper.fileno(), self._read_keeper, self.master.keeper)
            unheard, self.master.unheard = self.master.unheard, []
            for message in unheard:
                self._from_keeper(message, [])
            self._read_keeper(self.master.keeper)
        self.master.publisher.attach(loop)

    def _read_keeper(self, link: Link) -> None:
        try:
            link.flush()
            # What comes after `rest`, a promotion perhaps, is for who waits for it: standby.await_promotion.
            while not self.master.standby and (received := link.receive()) is not None:
                self._from_keeper(*received)
        except LinkClosedError:
            self._keeper_lost(link)

    def _keeper_lost(self, link: Link) -> None:
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()
        self.master.keeper = None
        self.master.log.error(
            "the keeper is gone: workers serve on and reloads work, but nobody replaces a process or binds a listener; "
            "start a keeper on the same state directory and it will take over",
            state=self.master.state_path,
        )
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LinkClosedError("the keeper is gone"))

    def _from_keeper(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["type"]
        if self.master.common_message(message, descriptors):
            if kind == "upgrade":
                self._upgrade_goes_on(message["happened"])
            return
        if kind == "reload":
            self.spawn(self._reload_on_signal())
        elif kind == "hold":
            self._released.clear()
            self.spawn(self._hold())
        elif kind == "go_on":
            self._released.set()
        elif kind == "rest":
            self.master.standby = True
            if self.master.keeper is not None:
                asyncio.get_running_loop().remove_reader(self.master.keeper.fileno())
            self.end()
        elif kind == "listener_closed":
            self.broadcast.tell("closed", self.revision, {key: message[key] for key in ("id", "address", "lost")})
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    async def _hold(self) -> None:
        """Let the change under way end, and begin no other until the keeper says so: another generation takes over."""
        async with self.lock:
            if self.pipeline is not None:  # what the next master begins with, and may have to compile
                await asyncio.to_thread(self.pipeline.guard.last_good.flush, FLUSH_TIMEOUT_S)
            if not self._released.is_set():  # the keeper may have given up in the meantime
                self.tell_keeper({"type": "held", "baseline": self.watching.baseline()})
                await self._released.wait()

    def _upgrade_goes_on(self, happened: dict[str, Any]) -> None:
        self.watching.told()
        self.broadcast.tell("upgrade", self.revision, happened)

    async def ask_keeper(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send to the keeper and return its answer; TimeoutError, LinkClosedError."""
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            self.tell_keeper(message)
            return await asyncio.wait_for(self._answer, KEEPER_TIMEOUT_S)

    def tell_keeper(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send to the keeper; LinkClosedError when there is none any more."""
        self.master.tell_keeper(message, descriptors)
        keeper = self.master.keeper
        if keeper is not None and keeper.wants_write:
            loop = asyncio.get_running_loop()

            def writable() -> None:
                with contextlib.suppress(LinkClosedError):
                    keeper.flush()
                if not keeper.wants_write:
                    loop.remove_writer(keeper.fileno())

            loop.add_writer(keeper.fileno(), writable)

    # ---- into force: what both ways have in common

    async def bind(self, wanted: list[dict[str, str]], slots: int) -> list[dict[str, str]]:
        """Have the keeper open the listeners that are new; return its complaints (id, address, message, remedy), with
        which nothing is opened."""
        added = [entry for entry in wanted if entry not in self.master.listening]
        if not added:
            return []
        answer = await self.ask_keeper({"type": "bind", "listeners": added, "slots": slots})
        problems: list[dict[str, str]] = answer["problems"] if answer["type"] == "bind_failed" else []
        return problems

    def unbind(self, wanted: list[dict[str, str]]) -> None:
        """Have the keeper close the listeners that are no longer wanted.

        It takes its time, and nobody waits for it: a worker serves who waits in their queues by the snapshot it has, a
        newer one too. Before the swap, so that a master that dies in between has not left them open.
        """
        removed = [entry for entry in self.master.listening if entry not in wanted]
        if removed:
            self.tell_keeper({"type": "unbind", "listeners": removed})
        self.master.listening = wanted

    def publish(self, sequence: int, images: Sequence[int]) -> None:
        """Send a snapshot to the keeper, for workers and masters to come, and then to all workers.

        In this order: a master that dies in between leaves no worker with a snapshot whose number its successor would use
        again for another one. `images` are descriptors, the publisher's from now on: the snapshot, or its records and, when
        that is new, its routes base.
        """
        if self.master.keeper is not None:
            with contextlib.suppress(LinkClosedError):
                self.tell_keeper({"type": "snapshot", "revision": sequence}, list(images))
        self.master.publisher.publish(sequence, *images)

    def lend(self, wanted: list[dict[str, str]] | None = None) -> None:
        """Have the keeper lend out the slots of listeners in force, all without an argument: the workers know them by
        now."""
        if self.master.keeper is not None:
            in_force = self.master.listening
            listeners = in_force if wanted is None else [entry for entry in wanted if entry in in_force]
            self.tell_keeper({"type": "listen", "listeners": listeners})

    def lend_when_applied(self) -> None:
        """Lend out what is in force when the workers have the snapshot of now. The next change does not wait for it."""
        self.spawn(self._lend_when_applied(self.master.listening))

    async def _lend_when_applied(self, wanted: list[dict[str, str]]) -> None:
        await self.master.publisher.applied()
        with contextlib.suppress(LinkClosedError):
            self.lend(wanted)

    async def look_up(self, names: Mapping[str, float]) -> dict[str, bytes]:
        """Return the addresses of host names (authority to interval in seconds), which are kept up to date from now on.

        One that cannot be looked up in time comes with a later snapshot.
        """
        known = self.resolver.addresses()
        self.resolver.want(names)
        new = [name for name in names if name not in known]
        if new:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.resolver.refresh(new), PATIENCE_S)
        return self.resolver.addresses()

    async def _readdress(self) -> None:
        async with self.lock:
            addresses = self.resolver.addresses()
            if self.pipeline is not None:
                await self.pipeline.readdress(addresses)
            else:
                await self.reloader.readdress(addresses)

    def await_applied(self) -> None:
        """Tell the pipeline when every worker has what is published now."""
        if not self._awaiting_applied:
            self._awaiting_applied = True
            self.spawn(self._await_applied())

    async def _await_applied(self) -> None:
        assert self.pipeline is not None
        publisher = self.master.publisher
        try:
            while True:
                sequence = publisher.revision
                if await publisher.applied():
                    sequence = publisher.revision
                self.pipeline.acknowledged(min((w.revision for w in publisher.serving()), default=sequence))
                if publisher.revision == sequence:
                    return
        finally:
            self._awaiting_applied = False

    # ---- reload

    async def reload(self, because: str) -> Outcome:
        """Bring what the store says now into force, or keep everything as it is and say why. One at a time."""
        if self.pipeline is not None:
            from bascule.process.rereading import reread

            return await reread(self.pipeline, because)
        return await self.reloader.reload(because)

    async def _reload_on_signal(self) -> None:
        outcome = await self.reload("SIGHUP")
        status = f"Revision {outcome.revision} in force"
        if not outcome.ok:
            first = outcome.problems[0].render().split("\n")[0] if outcome.problems else "unknown"
            status += f"; the last reload failed: {first}"
        with contextlib.suppress(LinkClosedError):
            self.tell_keeper({"type": "reloaded", "ok": outcome.ok, "status": status})

    # ---- what a live configuration can be asked: bascule.change.live.Live

    @property
    def store(self) -> Store | None:
        """The store, None without a live one."""
        return None if self.pipeline is None else self.pipeline.store

    @property
    def revision(self) -> int:
        """Return the store revision in force; without a live store, the snapshot's number."""
        return self.master.publisher.revision if self.pipeline is None else self.pipeline.revision

    async def reading(self, at_least: int = 0) -> Reading:
        """Return what the store holds, at a revision that is `at_least` that one."""
        return await self._live().reading(at_least)

    def freeze_state(self) -> Freeze | None:
        """Return why changes are kept out, None when they are not."""
        return None if self.pipeline is None else self.pipeline.gates.freeze_state()

    def states(self) -> Sequence[ObjectState]:
        """Return every object that is not plainly in force."""
        return () if self.pipeline is None else self.pipeline.states()

    async def preview(self, operations: Sequence[Put | Remove]) -> Preview:
        """Validate operations against what the store holds now, and say what they would change."""
        from bascule.change.preview import preview

        return preview(self._live().table, operations)

    async def until_applied(self, revision: int, timeout_s: float) -> Applied:
        """Wait until a store revision is in force in every serving worker, until time is up, or while a gate holds it."""
        return await self._live().until_applied(revision, timeout_s)

    def notices(self) -> AsyncIterator[Notice]:
        """Yield what happens from now on."""
        return self.broadcast.read()

    async def freeze(self, reason: str, by: str) -> Freeze:
        """Keep every change out of force until `unfreeze`; the store goes on."""
        return await self._live().freeze(reason, by)

    async def unfreeze(self, by: str) -> Applied:
        """Bring into force what the store says now, through all gates."""
        return await self._live().unfreeze(by)

    async def adopt(self, by: str) -> Applied:
        """Accept what the gates hold back: the store is right as it is."""
        return await self._live().adopt(by)

    def _live(self) -> Pipeline:
        if self.pipeline is None:
            raise RuntimeError("this configuration does not come from a live store")
        return self.pipeline

    # ---- views

    def tree(self) -> Tree | None:
        """Return the tree in force; None when a new master could not yet load what its predecessor compiled."""
        if self.pipeline is not None:
            return self.pipeline.table.tree()
        return self.master.in_force.tree if self.master.in_force is not None else None

    def tell_settings(self, settings: Settings) -> None:
        """Tell the keeper what a live store says of the processes."""
        from bascule.process.configuration import process_settings

        if self.master.keeper is not None:
            self.tell_keeper({"type": "settings", **process_settings(settings)})

    async def status(self) -> dict[str, Any]:
        """Return the status document: bascule.admin.status.Status, and how the processes are."""
        return await status_document(self)

    async def metrics(self) -> bytes:
        """Return the statistics for Prometheus."""
        return await metrics_document(self)

    # ---- life

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine beside the others, and log what it dies of."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.master.log.error("a task of the master failed", error=repr(task.exception()))

    def end(self) -> None:
        """Let `run` return."""
        self._ended.set()

    async def run(self, *, reload_wanted: bool) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        if self.master.warm is not None:
            self.pipeline, self.master.warm = self.master.warm.pipeline(), None
        self.attach()
        from bascule.admin.server import AdminServer

        # Its socket first: who asks while a successor reads the store waits for the answer.
        admin = AdminServer(self, os.path.join(self.master.state_path, "admin.sock"))
        await self._begin_unless_ended(reload_wanted=reload_wanted)
        self.spawn(huge_pages.back_when_used(self.master.regions[1], self.master.log))
        self.spawn(self.watching.run())
        self.spawn(self.resolver.run(lambda: self.spawn(self._readdress())))
        serving = asyncio.ensure_future(admin.serve())
        if self.master.keeper is not None:
            self.tell_keeper({"type": "in_charge"})
        self.spawn(self._preload())
        await self._ended.wait()
        admin.stop()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(serving, 1.0)
        for task in list(self._tasks):
            task.cancel()
        self.resolver.close()
        if self.pipeline is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.pipeline.close(), 2.0)
        if self.master.standby:
            self._let_go()

    async def _begin_unless_ended(self, *, reload_wanted: bool) -> None:
        """Begin, but not when this master is to rest before it has: what it would bring into force waits for the end of a
        hold that only the master after it sees."""
        begun = asyncio.ensure_future(self._begin(reload_wanted=reload_wanted))
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({begun, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not begun.done():
            begun.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await begun
        else:
            begun.result()

    async def _preload(self) -> None:
        """Import the rest when the start is over."""
        from bascule.process.preload import preload

        await asyncio.sleep(PRELOAD_AFTER_S)
        store = "file" if self.pipeline is None else self.pipeline.store.kind
        await asyncio.to_thread(preload, store)

    def _let_go(self) -> None:
        """Keep the links, and nothing else that a promotion would not bring anew."""
        master = self.master
        master.publisher.detach()
        master.pipeline = master.in_force = master.directory = None
        if master.keeper is not None:
            asyncio.get_running_loop().remove_reader(master.keeper.fileno())
            self.tell_keeper({"type": "rested"})

    async def _begin(self, *, reload_wanted: bool) -> None:
        """Go on from what is in force: with what the boot left, or, as a successor, with what the workers run."""
        master = self.master
        if master.in_force is not None and self.pipeline is None:
            self.resolver.want(names_of(master.in_force.tree))
            master.in_force.pack()
        if reload_wanted and self.pipeline is None:
            self.pipeline = await self._succeed()
        if self.pipeline is not None:
            self.resolver.want(self.pipeline.names.wanted())
            self.pipeline.start(self)
            return
        if reload_wanted:
            await self.reloader.reload("start of a new master")
        if master.options["command"] == "run":
            if master.in_force is not None:
                self.servers.load(master.in_force.tree.backends)
            self.spawn(self.reloader.watch_file())

    async def _succeed(self) -> Pipeline | None:
        """Return the pipeline of a new master whose predecessor had one."""
        from bascule.model.problems import ConfigError
        from bascule.process import configuration

        try:
            loaded = await asyncio.to_thread(configuration.load, self.master.options)
        except ConfigError:
            return None  # a file that names no store; the reload says what is wrong with it
        if not loaded.live:
            return None
        from bascule.process.live_boot import succeed

        pipeline = succeed(self.master, loaded)
        if pipeline.revision:  # else the settings are in the store alone
            with contextlib.suppress(LinkClosedError):
                self.tell_settings(pipeline.table.settings())
        return pipeline


def run_control_loop(master: Master, *, reload_wanted: bool) -> None:
    """Run the master until it is told to end. What it has to do can wait a moment; what the workers have to do cannot."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    runner, master.runner = master.runner or asyncio.Runner(loop_factory=uvloop.new_event_loop), None

    async def run() -> None:
        await Control(master).run(reload_wanted=reload_wanted)

    with runner:
        runner.run(run())
