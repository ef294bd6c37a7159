"""The way of a server to its full share, by the words that are written. Time and answers are the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import msgspec
import pytest

from bascule.change import leases
from bascule.change.edits import Edit
from bascule.change.leases import CLEAR_AFTER_S, Lifecycles
from bascule.model.tree import Backend, HealthCheck, Server
from bascule.process.log import Log
from bascule.shared import verdicts
from bascule.shared.verdicts import SHARE_FULL, Verdicts

CHECK = HealthCheck(healthy=1, unhealthy=1)
SLOW = Backend(slow_start="64s")
CHECKED = Backend(health_check=CHECK)


class World:
    """A table of servers, a region, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, descriptor: int | None = None) -> None:
        self.now = 1000.0
        monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.descriptor = verdicts.create(100) if descriptor is None else descriptor
        self.table = Verdicts(self.descriptor)
        self.servers: dict[str, dict[str, Server]] = {}
        self.names: dict[str, int] = {}
        self.lives = Lifecycles(self.slot, self.table, {}.get, Log(process="test"))

    def slot(self, kind: str, name: str) -> int:
        assert kind == "server"
        return self.names.setdefault(name, len(self.names) + 1)

    def word(self, server: str, backend: str = "app") -> tuple[int, bool] | None:
        return self.table.get(self.slot("server", f"{backend}/{server}"))

    def load(self, backend: Backend, **servers: Server) -> None:
        self.servers["app"] = dict(servers)
        self.lives.load({"app": msgspec.structs.replace(backend, servers=servers)})

    def edit(self, name: str, record: Server | None) -> None:
        if record is None:
            self.servers["app"].pop(name, None)
        else:
            self.servers.setdefault("app", {})[name] = record
        self.apply(Edit("server", name, record, "app"))

    def apply(self, *edits: Edit) -> None:
        def servers(backend: str) -> Iterable[tuple[str, Server]]:
            return self.servers.get(backend, {}).items()

        self.lives.apply(edits, servers)

    def answer(self, server: str, reason: str = "") -> None:
        checks = self.lives.checks
        checks._answered(checks._subjects["app", server], reason)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.lives._tick(self.now)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def server(state: str = "up", **more: object) -> Server:
    return msgspec.convert({"url": "http://127.0.0.1:1", "state": state, **more}, Server)


def test_who_is_there_at_the_start_has_its_full_share(world: World) -> None:
    world.load(SLOW, a=server(), b=server("down"))
    assert (world.word("a"), world.word("b")) == (None, None)
    assert world.lives.standings()[0].server == "b"


def test_a_new_server_grows_evenly(world: World) -> None:
    world.load(SLOW, a=server())
    world.edit("b", server())
    assert world.word("b") == (1, False), "some of it at once: nobody waits for nothing"
    for passed_s in range(4, 64, 4):
        world.later(4)
        assert world.word("b") == (passed_s, False)
    world.later(4)
    assert world.word("b") is None
    assert world.word("a") is None
    assert world.lives.standings() == []


@pytest.mark.parametrize("before", ["starting", "draining", "down"])
def test_ready_by_its_own_word_begins_to_grow(world: World, before: str) -> None:
    world.load(SLOW, a=server(), b=server(before))
    world.edit("b", server(before))
    world.later(100)
    assert world.word("b") is None, "the snapshot says that it takes nothing"
    world.edit("b", server("up"))
    assert world.word("b") == (1, False)
    world.later(32)
    world.edit("b", server("up", weight=5))
    assert world.word("b") == (32, False), "another weight is no other server"
    world.edit("b", server("up", url="http://127.0.0.1:2"))
    assert world.word("b") == (1, False), "another address is"


def test_starting_becomes_ready_by_its_check_alone(world: World) -> None:
    world.load(CHECKED, a=server(), b=server("starting"))
    assert world.word("b") is None
    assert not world.lives.takes_traffic("app", "b")
    world.answer("b", "answered 503")
    assert world.word("b") is None
    world.answer("b")
    assert world.word("b") == (SHARE_FULL, True)
    assert world.lives.takes_traffic("app", "b")
    world.answer("b", "answered 503")
    assert world.word("b") is None
    world.answer("b")
    world.edit("b", server("up"))
    assert world.word("b") is None, "full share by the snapshot"


def test_an_unhealthy_server_gets_nothing(world: World) -> None:
    world.load(CHECKED, a=server(), b=server())
    assert world.lives.checks.passing("app", "a")
    world.answer("a", "answered 500")
    assert world.word("a") == (0, False)
    (standing,) = world.lives.standings()
    assert (standing.server, standing.state, standing.share, standing.reason) == ("a", "unhealthy", 0.0, "answered 500")
    world.answer("a")
    assert world.word("a") is None
    assert world.lives.standings() == []


def test_recovery_grows_too(world: World) -> None:
    world.load(Backend(health_check=CHECK, slow_start="64s"), a=server(), b=server())
    world.answer("a", "answered 500")
    world.answer("a")
    assert world.word("a") == (1, False)
    assert world.lives.standings()[0].state == "ramping"


def test_a_check_that_all_fail_is_ignored(world: World) -> None:
    world.load(CHECKED, a=server(), b=server(), c=server("starting"), d=server(weight=0))
    world.answer("a", "answered 404")
    assert world.word("a") == (0, False)
    world.answer("b", "answered 404")
    assert (world.word("a"), world.word("b"), world.word("c")) == (None, None, None)
    assert world.lives.ignored() == ["app"]
    assert {standing.server for standing in world.lives.standings()} == {"a", "b", "c"}
    world.answer("b")
    assert (world.word("a"), world.word("b")) == ((0, False), None)
    assert world.lives.ignored() == []


def test_what_goes_leaves_no_word_behind(world: World) -> None:
    world.load(CHECKED, a=server(), b=server())
    world.answer("a", "answered 500")
    world.edit("a", None)
    assert world.word("a") == (0, False), "workers may still be at the snapshot that knows it"
    world.later(CLEAR_AFTER_S)
    assert world.word("a") is None
    world.answer("b")
    world.apply(Edit("backend", "app", None))
    world.later(CLEAR_AFTER_S)
    assert world.table.slots() == []
    assert len(world.lives.checks) == 0


def test_who_comes_back_at_once_is_judged_anew(world: World) -> None:
    world.load(CHECKED, a=server(), b=server())
    world.answer("a", "answered 500")
    world.edit("a", None)
    world.edit("a", server())
    assert world.word("a") is None
    world.answer("a", "answered 500")
    world.later(10 * CLEAR_AFTER_S)
    assert world.word("a") == (0, False), "the clearing of its predecessor must not hit it"


def test_a_backend_that_wants_no_verdicts_any_more_has_none(world: World) -> None:
    world.load(CHECKED, a=server(), b=server())
    world.answer("a", "answered 500")
    world.apply(Edit("backend", "app", Backend()))
    assert world.table.slots() == []
    world.apply(Edit("backend", "app", CHECKED))
    assert {backend for backend, _ in world.lives.checks._subjects} == {"app"}
    assert len(world.lives.checks) == 2, "the servers that were there already are asked"


def test_backends_without_need_cost_nothing(world: World) -> None:
    world.load(Backend(), a=server(), b=server())
    world.edit("c", server())
    assert world.table.slots() == []
    assert world.names == {}


def test_a_successor_goes_on(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    both = Backend(health_check=CHECK, slow_start="64s")
    world.load(both, a=server(), b=server(), c=server("starting"), gone=server())
    world.answer("a", "answered 500")
    world.edit("d", server())
    world.answer("c")
    world.answer("gone", "answered 500")
    world.later(16)
    assert [world.word(name) for name in "abcd"] == [(0, False), None, (16, True), (16, False)]
    after = World(monkeypatch, world.descriptor)
    after.names = dict(world.names)
    after.load(both, a=server(), b=server(), c=server("starting"), d=server())
    assert [after.word(name) for name in "abcd"] == [(0, False), None, (16, True), (16, False)]
    assert after.word("gone") is None, "its slot may be another one's"
    after.later(16)
    assert after.word("d") == (32, False)
    after.answer("a")
    assert after.word("a") == (1, False)


def test_the_loop_ticks_while_something_grows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TICK_S", 0.001)

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def main() -> None:
        running = asyncio.create_task(world.lives.run())
        world.load(SLOW, a=server())
        world.edit("b", server())
        world.now += 32
        await until(lambda: world.word("b") == (32, False))
        world.now += 32
        await until(lambda: world.word("b") is None)
        running.cancel()

    asyncio.run(main())
