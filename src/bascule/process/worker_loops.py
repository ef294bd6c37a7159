"""The two loops that a worker hangs in, one after the other.

The first is poll(2): importing uvloop (and asyncio with it) costs 65 ms of CPU, and a worker that replaces a dead one
should accept before that. It is imported by a thread once the worker serves; then uvloop takes the same descriptors over.
A worker beside others that serve imports it first (`Worker.settles`): beside requests it would cost those a p99 of five times
what it was.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import gc
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from bascule.process.link import Link
    from bascule.process.orphaned import MeetingPlace
    from bascule.process.worker import Worker

PATIENCE_MS = 20
"""How long a turn of the engine waits for an answer before the loop has its turn. A shorter wait costs more than it looks:
a timer that is the processor's next one is programmed anew for each wait."""
QUIET_BEFORE_IMPORT_S = 0.25


class FirstLoop:
    """The loop until uvloop is imported: the engine, two links and the heartbeat on poll(2)."""

    def __init__(self, worker: Worker) -> None:
        """See the class."""
        self._worker = worker
        self._poll = select.poll()
        self._watched: dict[int, Link] = {}
        self._engine = -1
        self._imported = False
        self._importing = False
        self._quiet_until_s = 0.0
        self._wakeup, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wakeup, select.POLLIN)
        _signal.set_wakeup_fd(self._wakeup_write)
        _signal.signal(_signal.SIGTERM, lambda number, frame: worker.terminate())
        for link in (worker.keeper, worker.master):
            assert link is not None
            self._watch(link)
        worker.on_lost = self._forget  # type: ignore[method-assign]
        worker.on_waiting = self._wait_for_keeper  # type: ignore[method-assign]
        worker.on_found = self._watch  # type: ignore[method-assign]

    def run(self) -> None:
        """Return when uvloop can take over, or when the worker is to end."""
        worker = self._worker
        while not worker.ended and not self._imported:
            wait_s = worker.tick()
            if worker.settles and worker.revision:
                break
            if worker.slots and not self._importing:
                wait_s = min(wait_s, self._import_when_quiet())
            for descriptor, _ in self._poll.poll(wait_s * 1000):
                self._serve(descriptor)
        _signal.set_wakeup_fd(-1)
        for descriptor in (self._wakeup, self._wakeup_write):
            os.close(descriptor)

    def _serve(self, descriptor: int) -> None:
        worker = self._worker
        if descriptor == self._engine and worker.engine is not None:
            worker.engine.turn()
        elif descriptor == self._wakeup:
            os.read(self._wakeup, 64)
        elif worker.waiting is not None and descriptor == worker.waiting.fileno():
            self._poll.unregister(descriptor)
            worker.keeper_came()
        elif descriptor in self._watched:
            worker.read(self._watched[descriptor])
            if worker.engine is not None and self._engine < 0:
                self._engine = worker.engine.fileno()
                self._poll.register(self._engine, select.POLLIN)

    def _watch(self, link: Link) -> None:
        self._watched[link.fileno()] = link
        self._poll.register(link.fileno(), select.POLLIN)

    def _wait_for_keeper(self, place: MeetingPlace) -> None:
        self._poll.register(place.fileno(), select.POLLIN)

    def _forget(self, link: Link) -> None:
        del self._watched[link.fileno()]
        self._poll.unregister(link.fileno())

    def _import_when_quiet(self) -> float:
        """Start the import when the worker has served for a moment; return how long that is to wait for."""
        now = time.monotonic()
        if not self._quiet_until_s:
            self._quiet_until_s = now + QUIET_BEFORE_IMPORT_S
        if now >= self._quiet_until_s:
            self._importing = True
            import threading  # noqa: F401 - it takes the thread that imports it first for the main one

            # While the import runs, a turn of the engine waits for the GIL at most this long.
            sys.setswitchinterval(0.0002)
            _thread.start_new_thread(self._import, ())
        return max(self._quiet_until_s - now, 0.0)

    def _import(self) -> None:
        import uvloop  # noqa: F401

        self._imported = True
        os.write(self._wakeup_write, b"i")


def run_uvloop(worker: Worker) -> None:
    """Serve until the worker is to end."""
    import uvloop

    sys.setswitchinterval(0.005)
    loop = uvloop.new_event_loop()
    engine = worker.engine
    assert engine is not None
    loop.add_reader(engine.fileno(), engine.turn, PATIENCE_MS)
    hanging = _Hanging(worker, loop)

    # Until the loop runs, the handler of the first loop answers; one of uvloop's would only be noted, and read at the
    # next signal.
    loop.call_soon(loop.add_signal_handler, _signal.SIGTERM, hanging.terminate)
    loop.call_soon(hanging.beat)
    loop.call_soon(worker.settled)
    loop.set_exception_handler(hanging.failed)
    _freeze()
    try:
        loop.run_forever()
    finally:
        loop.close()
    if hanging.error is not None:
        raise hanging.error


class _Hanging:
    """A worker in its second loop: what wakes it beside its engine."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._pending: asyncio.TimerHandle | None = None
        self.error: BaseException | None = None
        worker.on_lost = self._forget  # type: ignore[method-assign]
        worker.on_waiting = self._wait_for_keeper  # type: ignore[method-assign]
        worker.on_found = self._watch  # type: ignore[method-assign]
        for link in (worker.keeper, worker.master):
            if link is not None:
                self._watch(link)
        if worker.waiting is not None:
            self._wait_for_keeper(worker.waiting)

    def beat(self) -> None:
        """Do what is due, and come again when something else is."""
        worker = self._worker
        if self._pending is not None:
            self._pending.cancel()
        wait_s = worker.tick()
        for link in (worker.keeper, worker.master):
            if link is not None and link.wants_write:
                worker.read(link)
        if worker.ended:
            self._loop.stop()
        else:
            self._pending = self._loop.call_later(wait_s, self.beat)

    def failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something raised. Who has clients serves on, and leaves it to the keeper what follows from that."""
        error = context.get("exception") or RuntimeError(context["message"])
        if self._worker.serves_on(error):
            return
        self.error = error
        self._loop.stop()

    def terminate(self) -> None:
        """SIGTERM."""
        self._worker.terminate()
        self.beat()

    def _watch(self, link: Link) -> None:
        worker = self._worker

        def readable() -> None:
            worker.read(link)
            if worker.ended or worker.emptying:
                self.beat()

        self._also(link.fileno(), readable)

    def _forget(self, link: Link) -> None:
        self._loop.remove_reader(link.fileno())

    def _wait_for_keeper(self, place: MeetingPlace) -> None:
        descriptor = place.fileno()

        def came() -> None:
            self._loop.remove_reader(descriptor)
            self._worker.keeper_came()

        self._also(descriptor, came)

    def _also(self, descriptor: int, readable: Callable[[], None]) -> None:
        assert self._worker.engine is not None
        self._loop.add_reader(descriptor, readable)
        self._worker.engine.watch(descriptor)


def _freeze() -> None:
    """What is alive now lives as long as the process: let no collection ever look at it, and run none by itself."""
    gc.collect()
    gc.freeze()
    gc.disable()
