"""Bascule as the one who is tortured: its configuration, and everything that can be done to it."""

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.torture.events import Action
from bench.torture.processes import members
from bench.torture.programs import Swarm
from bench.torture.victims import Kill, stop
from kit.client import ask
from kit.http1 import Cut, Ended, Malformed
from kit.proxies import BasculeProcess, ProxyProcess
from kit.waiting import until

PATIENCE_S = 60.0
ATTEMPTS_MAX = 5
ASKED = "asked for by the torture"
KEEPER_KILLED = "the keeper was killed meanwhile"
UNCHANGED = "the number of workers stays as it is"
WORKERS_MAX = 4
ROUTES_MAX = 40


class Configuration:
    """The tree as it is meant to be: one listener and one route that always stay, and others that come and go."""

    def __init__(self, ports: Sequence[int], origins: Sequence[int]) -> None:
        """`ports`: the listener that stays, and those that a second one moves between; `origins`: ports of servers."""
        self.ports, self.origins = list(ports), list(origins)
        self.second = 0
        self.servers: dict[int, dict[str, Any]] = {port: self._server(port) for port in origins[:2]}
        self.routes: dict[str, str] = {}
        self.wrong = False

    @staticmethod
    def _server(port: int) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{port}"}

    def tree(self) -> dict[str, Any]:
        """Return it as it is written."""
        listeners = {"web": {"address": f"127.0.0.1:{self.ports[0]}"}}
        if self.second:
            listeners["second"] = {"address": f"127.0.0.1:{self.second}"}
        frontends = {
            name: {"route": f"PathPrefix(`/{name}`)", "backend": backend} for name, backend in self.routes.items()
        }
        frontends["all"] = {"route": "PathPrefix(" if self.wrong else "PathPrefix(`/`)", "backend": "app"}
        servers = {f"s{port}": server for port, server in self.servers.items()}
        backends = {"app": {"servers": servers}, "other": {"servers": {"o": self._server(self.origins[0])}}}
        return {
            "store": {"watch": False}, "settings": {"drain_timeout": "30s", "upgrade_probation": "10m"},
            "listeners": listeners, "backends": backends, "frontends": frontends,
        }  # fmt: skip


class Bascule(BasculeProcess):
    """`bascule run` on a file of its own, and the actions of the torture."""

    def __init__(
        self,
        ports: Sequence[int],
        origins: Sequence[int],
        *,
        workers: int = 2,
        seed: int = 0,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(workers=workers, arguments=arguments)
        self.port = ports[0]
        self.config_path = self.directory / "bascule.json"
        self.configuration = Configuration(ports, origins)
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.swarm: Swarm | None = None
        self.sessions: list[int] = []
        self.old_gone_s: list[float] = []
        self.old_stayed = 0
        self.receipts: list[dict[str, Any]] = []
        self.attempts_failed: list[str] = []
        self.oddities: list[str] = []
        self.between_keepers = threading.Lock()
        self.write_tree()

    def command(self) -> list[str]:
        base = [sys.executable, "-m", "bascule", "run", "-c", str(self.config_path)]
        return [*base, "--workers", str(self.workers), "--state", str(self.state), *self.arguments]

    def start(self, *, probe: bool = True) -> ProxyProcess:
        super().start(probe=probe)
        assert self.process is not None
        self.sessions.append(self.process.pid)
        return self

    def write_tree(self) -> None:
        """Put the configuration in the file's place."""
        new = self.config_path.with_suffix(".new")
        new.write_text(json.dumps(self.configuration.tree()))
        new.rename(self.config_path)

    # ---- what it says of itself

    def asked(self) -> dict[str, Any] | None:
        """Return its status, None while nobody answers."""
        try:
            return self.status()
        except (OSError, Cut, Ended, Malformed, ValueError, AssertionError):
            return None

    def settled(self) -> dict[str, Any] | None:
        """Return its status when as many workers serve as should and all have the newest configuration, under the keeper
        that runs: the master of a killed one goes on to answer."""
        status, process = self.asked(), self.process
        if status is None or not status["ready"] or status["lagging"]:
            return None
        if process is None or not self._alive() or status["keeper"]["pid"] != process.pid:
            return None
        serving = [worker for worker in status["workers"] if worker["state"] == "serving"]
        return status if len(serving) == status["workers_wanted"] else None

    def _alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def until_settled(self, extra: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Wait until it is settled, and something more holds."""

        def reached() -> dict[str, Any] | None:
            status = self.settled()
            return status if status is not None and extra(status) else None

        found = until(reached, f"settled; log:\n{self.log_text()[-3000:]}", PATIENCE_S, 0.05)
        assert found is not None
        return found

    # ---- changes of the configuration

    def reload(self, *, good: bool = True) -> str:
        """Write the configuration and bring it into force; what is wrong must change nothing."""
        self.write_tree()
        end = time.monotonic() + PATIENCE_S
        for attempts in itertools.count(1):
            status, document = self._reload_once()
            if status == (200 if good else 422):
                assert good or document["problems"], f"refused without a reason: {document}"
                return f"{attempts} attempts" if attempts > 1 else ""
            # A master that was killed meanwhile answers nobody; the next one does.
            assert time.monotonic() < end, f"reload: status {status}, {document}"
            time.sleep(0.05)
        return ""

    def _reload_once(self) -> tuple[int, Any]:
        request = b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        try:
            answer = ask(str(self.state / "admin.sock"), request, PATIENCE_S)
        except (OSError, Cut, Ended, Malformed) as error:
            return 0, str(error)
        try:
            return answer.status, json.loads(answer.body)
        except ValueError:
            self.oddities.append(f"POST /v1/reload: {answer.status} {answer.body[:200]!r}")
            return 0, self.oddities[-1]

    def route_added(self) -> str:
        """A route more, unless there are many."""
        routes = self.configuration.routes
        if len(routes) < ROUTES_MAX:
            routes[f"r{self.random.randrange(10_000)}"] = self.random.choice(["app", "other"])
        return self.reload()

    def route_removed(self) -> str:
        """One of the routes that come and go, less."""
        routes = self.configuration.routes
        if routes:
            routes.pop(self.random.choice(sorted(routes)))
        return self.reload()

    def server_added(self) -> str:
        """A server more, or one that drained back."""
        servers, origins = self.configuration.servers, self.configuration.origins
        port = self.random.choice(origins)
        servers[port] = {"url": f"http://127.0.0.1:{port}", "weight": self.random.randint(1, 5)}
        return self.reload()

    def _up(self) -> list[int]:
        return [port for port, server in self.configuration.servers.items() if "state" not in server]

    def server_drained(self) -> str:
        """One takes nothing new, unless it is the last."""
        up = self._up()
        if len(up) > 1:
            self.configuration.servers[self.random.choice(up)]["state"] = "draining"
        return self.reload()

    def server_removed(self) -> str:
        """One is gone from the pool, with whatever it has in flight; never the last that takes requests."""
        servers, up = self.configuration.servers, self._up()
        removable = [port for port in servers if len(up) > 1 or port not in up]
        if removable:
            servers.pop(self.random.choice(removable))
        return self.reload()

    def reload_wrong(self) -> str:
        """A configuration with an error: refused."""
        self.configuration.wrong = True
        try:
            return self.reload(good=False)
        finally:
            self.configuration.wrong = False
            self.write_tree()

    def reload_same(self) -> str:
        """HUP, nothing changed."""
        self.signal(signal.SIGHUP)
        return ""

    def listener_changed(self) -> str:
        """The second listener comes, goes, or moves to another port. Its clients stop connecting before it goes: a port
        that is to close cannot be connected to for ever."""
        before = self.configuration.second
        self.configuration.second = self.random.choice(
            [port for port in (0, *self.configuration.ports[1:]) if port != before]
        )
        self._second_target(0)
        time.sleep(0.05)
        self.reload()
        self._second_target(self.configuration.second)
        return f"{before} to {self.configuration.second}"

    def _second_target(self, port: int) -> None:
        if self.swarm is not None:
            self.swarm.target(1, port)

    # ---- processes

    def worker_terminated(self) -> str:
        """TERM to a worker: replaced, without a lost request."""
        pid = self.random.choice(self._serving())
        with contextlib.suppress(ProcessLookupError):  # it is being replaced for another reason
            os.kill(pid, signal.SIGTERM)
        self.until_settled(lambda status: pid not in _serving(status))
        return f"pid {pid}"

    def worker_killed(self) -> str:
        """Kill -9 to a worker; what it held is noted."""
        pid = self.random.choice(self._serving())
        self.kills.append(stop(pid, set(self.configuration.ports)))
        os.kill(pid, signal.SIGKILL)
        self.until_settled(lambda status: pid not in _serving(status))
        return f"pid {pid}, {len(self.kills[-1].clients)} connections"

    def _serving(self) -> list[int]:
        return _serving(self.until_settled())

    def master_killed(self) -> str:
        """Kill -9 to the master: nothing is lost."""
        pid = self.until_settled()["master"]["pid"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.until_settled(lambda status: status["master"]["pid"] != pid)
        return f"pid {pid}"

    def keeper_killed(self) -> str:
        """Kill -9 to the keeper, and another one on the same state directory."""
        assert self.process is not None
        with self.between_keepers:
            self.process.kill()
            self.process.wait()
            self.start(probe=False)
            pid = self.process.pid
            self.until_settled()
        return f"pid {pid}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the keeper: not to one that has no handlers yet."""
        with self.between_keepers:
            super().signal(number)

    def workers_changed(self) -> str:
        """One worker more or less (TTIN, TTOU)."""
        before, keeper = self.until_settled()["workers_wanted"], self.process
        more = before < 2 or (before < WORKERS_MAX and self.random.random() < 0.5)
        known = self.log_text().count(UNCHANGED)
        self.signal(signal.SIGTTIN if more else signal.SIGTTOU)
        after = before + (1 if more else -1)

        def over(status: dict[str, Any]) -> bool:
            refused = self.log_text().count(UNCHANGED) > known
            return bool(status["workers_wanted"] == after) or refused or self.process is not keeper

        found = self.until_settled(over)["workers_wanted"]
        if self.process is not keeper:
            return KEEPER_KILLED
        return f"{before} to {after}" if found == after else "refused: an upgrade is under way"

    # ---- upgrades

    def upgraded(self) -> str:
        """`bascule upgrade`."""
        return self._replaced(lambda: self._command("upgrade"), "upgrade")

    def upgraded_by_signal(self) -> str:
        """USR2 to the keeper."""
        return self._replaced(self._by_signal, "upgrade")

    def switched_back(self) -> str:
        """`bascule upgrade --back`, when there is somebody to go back to."""
        if self._state()["resting"] is None:
            return "nobody rests"
        return self._replaced(lambda: self._command("upgrade", "--back", "--reason", ASKED), "back")

    def finished(self) -> str:
        """`bascule upgrade --finish`: the old generation leaves; how long that takes is noted."""
        if self._state()["resting"] is None:
            return "nobody rests"
        before, keeper = self.members().items(), self.process
        wrong = self._command("upgrade", "--finish")
        if self.process is not keeper or (wrong and not self._alive()):
            return KEEPER_KILLED
        assert not wrong, wrong
        return self.old_leaves(before, time.monotonic())

    def old_leaves(self, before: Iterable[tuple[int, str]], begun_s: float) -> str:
        """Wait until of the processes there were before only the generation in force is left."""
        status = self.until_settled()
        kept = {status["keeper"]["pid"], status["master"]["pid"], *(worker["pid"] for worker in status["workers"])}
        old = {process for process in before if process[0] not in kept}
        until(lambda: not old & set(self.members().items()), f"the old generation ends: {old}", PATIENCE_S, 0.02)
        self.old_gone_s.append(time.monotonic() - begun_s)
        return f"old gone after {self.old_gone_s[-1]:.2f} s"

    def _command(self, *words: str) -> str:
        """Run a command; return what went wrong."""
        done = self.run(*words, check=False, deadline_s=PATIENCE_S)
        return "" if done.returncode == 0 else f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-1500:]}"

    def _by_signal(self) -> str:
        self.signal(signal.SIGUSR2)
        return ""

    def _state(self) -> dict[str, Any]:
        def told() -> dict[str, Any] | None:
            done = self.run("upgrade", "--status", "--json", check=False)
            return json.loads(done.stdout) if done.returncode == 0 else None

        found = until(told, "a keeper", PATIENCE_S, 0.05)
        assert found is not None
        return found

    def _receipts(self) -> list[dict[str, Any]]:
        path = self.state / "upgrades.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _replaced(self, begin: Callable[[], str], kind: str) -> str:
        """Replace a generation and wait for the receipt. What fails because a process was killed meanwhile changes nothing
        and is tried again; that counts as an attempt."""
        attempt = 0
        while attempt < ATTEMPTS_MAX:
            begun_s, keeper = time.time(), self.process
            failed = begin() or self._new_receipt(kind, begun_s, keeper)
            self.until_settled()
            if not failed:
                return f"attempt {attempt + 1}"
            self.attempts_failed.append(failed)
            attempt += self.process is keeper  # one that was killed takes what it was about with it
            if kind == "back" and self._state()["resting"] is None:
                return f"failed: {failed}"
        raise AssertionError(f"not in {ATTEMPTS_MAX} attempts: {self.attempts_failed[-1]}")

    def _new_receipt(self, kind: str, since_s: float, keeper: object) -> str:
        """Wait for a receipt of something that was begun since then; return why it says that it failed."""

        def told() -> dict[str, Any] | None:
            found = [receipt for receipt in self._receipts() if receipt["at"] >= since_s and receipt["kind"] == kind]
            if not found and self.process is not keeper:
                return {"ok": False, "failed": KEEPER_KILLED}
            return found[-1] if found else None

        receipt = until(told, f"a receipt; log:\n{self.log_text()[-3000:]}", PATIENCE_S)
        assert receipt is not None
        return "" if receipt["ok"] else str(receipt["failed"])

    def note_receipts(self) -> None:
        """Collect the receipts that are new: the history on disk keeps only so many. Those of backs that nobody asked for
        are among them."""
        last_s = self.receipts[-1]["at"] if self.receipts else 0.0
        self.receipts += [receipt for receipt in self._receipts() if receipt["at"] > last_s]

    # ---- what a run asks for

    def members(self) -> dict[int, str]:
        """Return all its processes with their start times."""
        return members(self.sessions)

    def upgrades(self) -> dict[str, Action]:
        """Return everything that replaces a generation."""
        return {
            "upgrade": self.upgraded, "upgrade by signal": self.upgraded_by_signal,
            "switch back": self.switched_back, "finish": self.finished,
        }  # fmt: skip

    def upgrade_plan(self, count: int, seed: int, *, plain: bool = False) -> list[str]:
        """Return so many upgrades in an order that the seed decides; a quarter are switched back from, a quarter finished.
        Plain ones: each by command, and finished."""
        if plain:
            return ["upgrade", "finish"] * count
        groups = []
        for number in range(count):
            upgrade = "upgrade by signal" if number % 3 == 2 else "upgrade"
            groups.append([upgrade, *(["switch back"], ["finish"], [], [])[number % 4]])
        random.Random(seed).shuffle(groups)
        return [name for group in groups for name in group]

    def changes(self) -> dict[str, Action]:
        """Return the changes of the configuration."""
        return {
            "route added": self.route_added, "route removed": self.route_removed,
            "server added": self.server_added, "server drained": self.server_drained,
            "server removed": self.server_removed, "listener changed": self.listener_changed,
            "wrong configuration": self.reload_wrong, "reload": self.reload_same,
        }  # fmt: skip

    def disturbances(self) -> dict[str, Action]:
        """Return what happens to its processes without cost to anybody."""
        return {
            "worker terminated": self.worker_terminated,
            "master killed": self.master_killed,
            "workers changed": self.workers_changed,
        }


def _serving(status: dict[str, Any]) -> list[int]:
    return [worker["pid"] for worker in status["workers"] if worker["state"] == "serving"]
