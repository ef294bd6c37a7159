"""The master: reads the configuration, compiles it, has it bound and adopted, and answers the admin socket.

It starts in two steps. `Boot` brings the first snapshot into force with as little imported as can be: no asyncio, no
HTTP. `ControlLoop` (control.py) goes on from there: reloads, acknowledgements, the admin API. A master that replaces a
dead one finds regions, snapshot and workers as they are, and `Boot` has nothing to do but look.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import select
import sys
import time

from bascule.process.link import Link, LinkClosedError
from bascule.process.log import Log
from bascule.process.publisher import Publisher
from bascule.process.spawn import name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from bascule.change.compiled import CompiledSnapshot
    from bascule.process.configuration import Configuration
    from bascule.process.pipeline import Pipeline
    from bascule.process.warm_start import WarmStart
    from bascule.shared.statistics import Directory

CANNOT_START = 3
FAILURE, USAGE = 1, 2
REASON_MAX = 2000
QUIET_S = 0.1
LINGER_MAX_S = 2.0
STATISTICS_SLOTS_MIN = 131_072
"""The region cannot grow while it is in use, so it has twice the slots of the first configuration where this is not
enough (43,000 routes). What is not written takes no memory."""


class Master:
    """What boot and control loop share. `in_force` is None until a configuration is, or in a successor that cannot load
    it."""

    def __init__(self, keeper: Link) -> None:
        """See the class."""
        self.keeper: Link | None = keeper
        self.options: dict[str, Any] = {}
        self.state_path = ""
        self.keeper_pid = 0
        self.log = Log(process="master", pid=os.getpid())
        self.publisher = Publisher(self.log)
        self.regions: list[int] = []
        self.directory: Directory | None = None
        self.in_force: Configuration | None = None
        self.addresses: dict[str, bytes] = {}
        self.listening: list[dict[str, str]] = []
        self.workers_wanted = 0
        self.ready = False
        self.standby = False
        """Not in charge: of a generation that does not serve yet, or serves no more."""
        self.admin_socket = -1
        """On which the admin API listens, when a predecessor did; the keeper has it too."""
        self.loaded: Configuration | None = None
        """What a master that stands by has found that it would load."""
        self.upgrade: dict[str, Any] = {}
        """What the keeper last said of upgrades: `Upgrade.state`, and when it said so (`told_s`, monotonic)."""
        self.pipeline: Pipeline | None = None
        """Of a live store."""
        self.warm: WarmStart | None = None
        """What remains to be done after a start from images."""
        self.unheard: list[dict[str, Any]] = []
        """What the keeper said during the boot and only the loop can do."""
        self.runner: asyncio.Runner | None = None
        """Its loop, when the boot needed one."""

    def tell_keeper(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send to the keeper; LinkClosedError when there is none any more."""
        if self.keeper is None:
            raise LinkClosedError("the keeper is gone")
        self.keeper.send(message, descriptors or [])

    def greeted(self, hello: dict[str, Any], descriptors: list[int]) -> None:
        """Take over what the keeper says is in force: at the start, and at every promotion.

        Regions that a predecessor has written are opened anew, so that this one goes on from what they say now.
        """
        self.options = hello["options"]
        if hello["standby"]:
            from bascule.cli.options import defaults

            self.options = {**defaults(), **self.options}  # of a keeper that may be of another version
        self.log.json = self.options["log_format"] == "json"
        self.state_path = hello["state"]
        self.keeper_pid = hello["keeper_pid"]
        self.workers_wanted = hello["workers"]
        self.ready = hello["ready"]
        self.standby = hello["standby"]
        self.note_upgrade(hello.get("upgrade") or {})
        self.listening = [{"id": name, "address": address} for name, address in hello["listeners"]]
        if hello.get("admin"):
            if self.admin_socket >= 0:
                os.close(self.admin_socket)
            self.admin_socket = descriptors.pop()
        if hello["regions"]:
            for old in self.regions:
                os.close(old)
            self.regions = descriptors[: hello["regions"]]
            del descriptors[: hello["regions"]]
            if not self.standby:
                from bascule.shared.statistics import Directory

                self.directory = Directory(self.regions[0])
        if hello["snapshot"]:
            self.publisher.hold(hello["revision"], *descriptors)

    def note_upgrade(self, state: dict[str, Any]) -> None:
        """Remember how upgrades stand."""
        self.upgrade = {**state, "told_s": time.monotonic()}

    def common_message(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        """Handle what the keeper may say at any time; False when it is something else."""
        kind = message["type"]
        if kind == "worker":
            self.publisher.introduce(message, descriptors)
        elif kind == "worker_gone":
            self.publisher.gone(message)
        elif kind == "target":
            self.workers_wanted = message["workers"]
        elif kind == "ready":
            self.ready = True
        elif kind == "upgrade":
            self.note_upgrade(message["state"])
        elif kind == "reopen_logs":
            os.dup2(descriptors[0], 2)
            os.close(descriptors[0])
        else:
            return False
        return True


class Boot:
    """From the keeper's hello to the first snapshot in force, on blocking calls."""

    def __init__(self, master: Master) -> None:
        """See the class."""
        self._master = master
        assert master.keeper is not None
        self._link = master.keeper
        self._poll = select.poll()
        self._poll.register(self._link.fileno(), select.POLLIN)
        self.reload_wanted = False

    def run(self) -> None:
        """Raise ConfigError when there is no snapshot yet and the configuration gives none."""
        master = self._master
        hello, descriptors = self._await("hello")
        master.greeted(hello, descriptors)
        if master.standby:
            from bascule.process.standby import stand_by

            stand_by(master, self)
            return
        if hello["snapshot"]:
            self.reload_wanted = True
            return
        from bascule.process import configuration

        loaded = configuration.load_first(master.options)
        if loaded.live:
            from bascule.process.warm_start import warm_start

            master.warm = warm_start(master, self, loaded)
            if master.warm is None:
                from bascule.process.live_boot import boot_live

                boot_live(master, self, loaded)
            return
        self.make_regions(loaded.object_count(), loaded.limits_bytes())
        compiled = self.compile(loaded, 1)
        master.tell_keeper({"type": "settings", **loaded.process_settings()})
        self._bind(loaded)
        from bascule.shared.snapshot import make_memfd

        self.publish(loaded.listeners(), compiled.revision, [make_memfd(compiled.image)])
        master.in_force = loaded
        report_warnings(master.log, loaded)

    def linger(self) -> None:
        """Leave the first moments to the workers: what comes next, the HTTP stack, costs more than all of the boot.

        Returns QUIET_S after the keeper is ready, or sooner when there is something to do.
        """
        master = self._master
        end_s = time.monotonic() + LINGER_MAX_S
        quiet_s = 0.0
        while not self.reload_wanted and (wait_s := (quiet_s or end_s) - time.monotonic()) > 0:
            try:
                received = self._next(wait_s)
            except LinkClosedError:
                return  # the control loop will see it too, and serves on without a keeper
            if received is not None:
                self._note(*received)
            if master.ready and not quiet_s:
                quiet_s = time.monotonic() + QUIET_S

    def look(self) -> None:
        """Take note of what the keeper has said meanwhile; LinkClosedError when it is gone."""
        received = self._next(0.0)
        if received is not None:
            self._note(*received)

    def _next(self, wait_s: float | None = None) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for the keeper, `wait_s` at most, and return its message if there is one."""
        writing = select.POLLOUT if self._link.wants_write else 0
        self._poll.modify(self._link.fileno(), select.POLLIN | writing)
        self._poll.poll(None if wait_s is None else wait_s * 1000)
        self._link.flush()
        return self._link.receive()

    def _note(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message["type"] == "reload":
            self.reload_wanted = True
        elif not self._master.common_message(message, descriptors):
            self._master.unheard.append(message)

    def compile(self, loaded: Configuration, revision: int) -> CompiledSnapshot:
        """Compile a configuration whole, with what its host names say in a moment."""
        master = self._master
        assert master.directory is not None
        compiled = loaded.compile(revision, master.directory.slot, {})
        if compiled.unresolved:
            from bascule.process.names import resolve_now

            master.addresses = resolve_now(loaded.tree)
            compiled = loaded.compile(revision, master.directory.slot, master.addresses)
        return compiled

    def make_regions(self, objects: int, limits_bytes: int) -> None:
        """Make the shared regions, with room for twice as many objects, unless a predecessor has."""
        master = self._master
        if master.regions:
            return
        from bascule.shared import limits, statistics, verdicts

        slots = slots_for(objects)
        master.regions = [statistics.create(objects=slots), limits.create(limits_bytes), verdicts.create(slots)]
        master.directory = statistics.Directory(master.regions[0])
        master.tell_keeper({"type": "regions"}, master.regions)

    def _bind(self, loaded: Configuration) -> None:
        problems = self.bind(loaded.listeners(), loaded.settings.slots)
        if problems:
            raise loaded.bind_error(problems)

    def bind(self, listeners: list[dict[str, str]], slots: int) -> list[dict[str, str]]:
        """Have the keeper open listeners: all of them, or none and a list of problems (id, address, message, remedy)."""
        self._master.tell_keeper({"type": "bind", "listeners": listeners, "slots": slots})
        answer, _ = self._await("bound", "bind_failed")
        problems: list[dict[str, str]] = answer["problems"] if answer["type"] == "bind_failed" else []
        return problems

    def publish(self, listeners: list[dict[str, str]], revision: int, images: list[int]) -> None:
        """Bring the first snapshot into force; `images` as in Control.publish."""
        master = self._master
        master.tell_keeper({"type": "snapshot", "revision": revision}, images)
        master.listening = listeners
        master.tell_keeper({"type": "listen", "listeners": master.listening})
        master.publisher.hold(revision, *images)

    def _await(self, *kinds: str) -> tuple[dict[str, Any], list[int]]:
        while True:
            received = self._next()
            if received is None:
                continue
            message, descriptors = received
            if message["type"] in kinds:
                return message, descriptors
            self._note(message, descriptors)


def slots_for(objects: int) -> int:
    """Return how many slots the shared regions get for so many objects: twice as many, if that many are allowed.

    ConfigError when not even the objects themselves fit.
    """
    from bascule.shared.statistics import SLOTS_MAX

    if objects > SLOTS_MAX:
        from bascule.model.problems import ConfigError, Problem

        message = f"the configuration has {objects:,} objects; {SLOTS_MAX:,} is the most one load balancer keeps"
        raise ConfigError(
            [Problem(message=message, remedy="divide it, with a --prefix or file for each load balancer")]
        )
    return min(max(STATISTICS_SLOTS_MIN, 2 * objects), SLOTS_MAX)


def report_warnings(log: Log, loaded: Configuration) -> None:
    """Log what the configuration could do better."""
    for warning in loaded.warnings:
        log.warning("configuration", problem=warning.render().splitlines()[0])


def main() -> None:
    """Entry point: `master KEEPER_LINK_FD`."""
    name_process("bascule-master")
    for ignored in (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGPIPE):
        _signal.signal(ignored, _signal.SIG_IGN)  # a terminal sends them to the whole group; the keeper decides
    gc.disable()  # nothing that a boot makes is garbage before it ends
    master = Master(Link(int(sys.argv[1])))
    boot = Boot(master)
    try:
        boot.run()
    except LinkClosedError:
        sys.exit(CANNOT_START)
    except Exception as error:
        _fail(master, error)
    if not master.standby:
        boot.linger()
    _serve(master, reload_wanted=boot.reload_wanted)


def _serve(master: Master, *, reload_wanted: bool) -> None:
    """Be in charge, or stand by, whichever the keeper says, until the end."""
    from bascule.process.control import run_control_loop

    gc.enable()
    if not master.standby:
        run_control_loop(master, reload_wanted=reload_wanted)
    while master.standby:
        from bascule.process.standby import Ended, await_promotion

        try:
            await_promotion(master)
        except Ended:
            return
        run_control_loop(master, reload_wanted=True)


def _fail(master: Master, error: Exception) -> None:
    """The first configuration cannot come into force: say why, all of it, and have the keeper end."""
    from bascule.model.problems import ConfigError

    text = str(error) or type(error).__name__
    status = FAILURE
    if isinstance(error, ConfigError):
        sys.stderr.write(text + "\n")  # as long as it is: a packet to the keeper has bounds
        if master.options.get("command") == "proxy" and not master.regions and not any(p.file for p in error.problems):
            status = USAGE  # nothing has been looked at yet but the command line
    else:
        import traceback

        traceback.print_exc()
    if master.keeper is not None:
        master.tell_keeper({"type": "fatal", "reason": text.splitlines()[0][:REASON_MAX], "status": status})
    sys.exit(CANNOT_START)
