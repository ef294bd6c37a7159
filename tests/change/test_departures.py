"""Servers that go: who drains first, who is gone at once, and what stays to be seen."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bascule.change import departures as module
from bascule.change.departures import LINGER_MIN_S, LINGER_S, Departures
from bascule.change.edits import Edit
from bascule.model.tree import Backend, Server
from bascule.store.interface import Entry, Event

A = "backends/app/servers/a"
SERVER = Server(url="http://127.0.0.1:1")
GONE = Edit("server", "a", None, "app")


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.in_flight = 0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now))
        self.departures = Departures(lambda backend, server: self.in_flight)

    def soften(self, *edits: Edit, old: Server | None = SERVER) -> list[Edit]:
        before: Callable[[str], Server | None] = {A: old}.get
        return self.departures.soften(edits, before)

    def seen(self) -> list[tuple[str, str, bool]]:
        return [(found.server, found.how, found.draining) for found in self.departures.departed()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_one_that_left_drains_until_nothing_is_in_flight(world: World) -> None:
    (edit,) = world.soften(GONE)
    assert edit.record == Server(url=SERVER.url, state="draining")
    assert world.seen() == [("a", "left", True)]
    world.in_flight = 1
    world.now += LINGER_MIN_S
    assert world.departures.due() == []
    world.in_flight = 0
    assert world.departures.due() == [GONE]
    assert world.departures.due() == []
    assert world.seen() == [("a", "left", False)]


def test_not_for_ever(world: World) -> None:
    world.soften(GONE)
    world.in_flight = 1
    world.now += LINGER_S
    assert world.departures.due() == [GONE]


def test_not_before_the_workers_know(world: World) -> None:
    world.soften(GONE)
    assert world.departures.due() == []


def test_one_that_vanished_is_gone_at_once(world: World) -> None:
    world.departures.saw([Event(A, None, expired=True)])
    assert world.soften(GONE) == [GONE]
    assert world.departures.due() == []
    assert world.seen() == [("a", "vanished", False)]


def test_one_that_is_held_first_has_vanished_all_the_same(world: World) -> None:
    world.departures.saw([Event(A, None, expired=True)])
    world.now += 100  # held by a gate; then it fails its health check, and the gate lets it go
    assert world.soften(GONE) == [GONE]


def test_who_never_was_in_force_is_forgotten_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bascule.change.departures.VANISHED_MAX", 10)
    world.departures.saw([Event(f"backends/none/servers/{number}", None, expired=True) for number in range(1000)])
    world.departures.saw([Event(A, None, expired=True)])
    assert len(world.departures._vanished) == 10
    assert world.soften(GONE) == [GONE]


def test_one_that_came_back_in_between_has_not(world: World) -> None:
    world.departures.saw([Event(A, None, expired=True)])
    world.departures.saw([Event(A, Entry(A, b"{}", 1, 1))])
    (edit,) = world.soften(GONE)
    assert edit.record is not None


def test_coming_back_ends_it(world: World) -> None:
    world.soften(GONE)
    back = Edit("server", "a", SERVER, "app")
    assert world.soften(back) == [back]
    world.now += LINGER_S
    assert world.departures.due() == []
    assert world.seen() == []


@pytest.mark.parametrize("state", ["draining", "down"])
def test_one_that_took_nothing_goes_at_once(world: World, state: str) -> None:
    old = Server(url=SERVER.url, state="draining" if state == "draining" else "down")
    assert world.soften(GONE, old=old) == [GONE]


def test_with_its_backend_it_goes_at_once(world: World) -> None:
    backend = Edit("backend", "app", None)
    assert world.soften(GONE, backend) == [GONE, backend]


def test_a_backend_takes_those_that_drain_with_it(world: World) -> None:
    world.soften(GONE)
    backend = Edit("backend", "app", None)
    assert world.soften(backend) == [GONE, backend], "so that its counters are let go"
    world.now += LINGER_S
    assert world.departures.due() == []


def test_other_edits_pass(world: World) -> None:
    edits = [Edit("backend", "app", Backend()), Edit("server", "b", SERVER, "app")]
    assert world.soften(*edits) == edits
    assert world.soften(GONE, old=None) == [GONE], "it was never in force"


def test_they_are_seen_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VISIBLE_MAX", 3)
    for number in range(5):
        name = f"s{number}"
        world.departures.soften([Edit("server", name, None, "app")], lambda key: SERVER)
        world.now += LINGER_MIN_S
        world.departures.due()
    assert [name for name, _, _ in world.seen()] == ["s4", "s3", "s2"]
    world.now += module.VISIBLE_S
    assert world.seen() == []
