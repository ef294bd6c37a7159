"""Servers that register themselves: real processes with heartbeats, one that is killed, one that leaves politely under
load, one that grows into its share, and one whose health check fails."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.client import get
from kit.waiting import until
from process.balancer import Load
from process.live import LiveBalancer
from process.registering import RegistrantProcess

PATIENCE_S = 30.0
Register = Callable[..., "Registrant"]


class Registrant(RegistrantProcess):
    """One registered process."""

    def __init__(self, live: LiveBalancer, name: str, *, ttl_s: float = 3.0, **record: Any) -> None:
        self.name = name
        arguments = [str(live.state / "admin.sock"), "app", name, str(ttl_s), json.dumps(record)]
        super().__init__(Path(__file__).with_name("registrant.py"), arguments)


@pytest.fixture
def live(tmp_path: Path, port: int) -> Iterator[LiveBalancer]:
    balancer = LiveBalancer(tmp_path / "live")
    with balancer:
        balancer.apply(
            {
                "listeners": {"web": {"address": f"127.0.0.1:{port}"}},
                "backends": {"app": {}},
                "frontends": {"app": {"route": 'PathPrefix("/")', "backend": "app"}},
            }
        )
        yield balancer


@pytest.fixture
def register(live: LiveBalancer) -> Iterator[Register]:
    running: list[Registrant] = []

    def starter(name: str, **options: Any) -> Registrant:
        running.append(Registrant(live, name, **options))
        return running[-1]

    yield starter
    for registrant in running:
        registrant.kill()


def answers(port: int, count: int = 40) -> Counter[str]:
    """Return who answered so many requests, by id; a status stands for an answer of the balancer's own."""
    found: Counter[str] = Counter()
    for _ in range(count):
        response = get(("127.0.0.1", port), "/")
        found[response.body.decode() if response.status == 200 else str(response.status)] += 1
    return found


def assert_even(found: Counter[str], *names: str) -> None:
    """Every worker takes turns by itself, so that each may be one request off."""
    assert set(found) == set(names)
    assert max(found.values()) - min(found.values()) <= 4, found


def served_by(port: int, *names: str) -> bool:
    return set(answers(port, 20)) == set(names)


def departed(live: LiveBalancer) -> dict[str, Any]:
    return {entry["server"]: entry for entry in live.status()["servers"]["departed"]}


def standings(live: LiveBalancer) -> dict[str, Any]:
    return {entry["server"]: entry for entry in live.status()["servers"]["standings"]}


def test_a_killed_registrant_vanishes_from_rotation(live: LiveBalancer, register: Register, port: int) -> None:
    registrants = [register(f"s{number}", ttl_s=2.0) for number in range(4)]
    until(lambda: served_by(port, "s0", "s1", "s2", "s3"), "all four serve", PATIENCE_S)
    registrants[0].kill()
    until(lambda: "backends/app/servers/s0" not in keys(live), "its lease ends", PATIENCE_S)
    until(lambda: served_by(port, "s1", "s2", "s3"), "the others serve", PATIENCE_S)
    gone = until(lambda: departed(live).get("s0"), "it is seen", PATIENCE_S)
    assert (gone["how"], gone["draining"]) == ("vanished", False)
    back = register("s0", ttl_s=2.0)
    until(lambda: served_by(port, "s0", "s1", "s2", "s3"), "it is back", PATIENCE_S)
    assert "s0" not in departed(live)
    assert back.lease != registrants[0].lease


def keys(live: LiveBalancer) -> set[str]:
    status, answer = live.ask("GET", "/v1/backends/app/servers")
    assert status == 200
    return {item["key"] for item in answer["items"]}


def test_leaving_under_load_fails_no_request(live: LiveBalancer, register: Register, port: int) -> None:
    stay = register("stay")
    leaving = register("leave")
    until(lambda: served_by(port, "stay", "leave"), "both serve", PATIENCE_S)
    with Load(port, clients=6) as load:
        load.more(100)
        leaving.say("leave")
        assert leaving.process.wait(20) == 0
        load.more(100)
        again = register("leave")
        load.more(100)
        again.say("leave")
        assert again.process.wait(20) == 0
        load.more(200)
    assert load.failures == []
    assert answers(port) == {"stay": 40}
    gone = until(lambda: departed(live).get("leave"), "it is seen", PATIENCE_S)
    assert gone["how"] == "left"
    until(lambda: not departed(live)["leave"]["draining"], "nothing is in flight there", PATIENCE_S)
    assert stay.process.poll() is None


def test_starting_takes_nothing_until_ready_by_its_own_word(live: LiveBalancer, register: Register, port: int) -> None:
    register("old")
    new = register("new", state="starting")
    assert answers(port) == {"old": 40}
    new.say("ready")
    assert_even(answers(port), "old", "new")


def test_starting_becomes_ready_by_its_health_check(live: LiveBalancer, register: Register, port: int) -> None:
    live.put("backends/app", {"health_check": {"path": "/health", "interval": "200ms", "healthy": 2, "unhealthy": 2}})
    new = register("new", state="starting")
    other = register("other", state="starting")
    until(lambda: served_by(port, "new", "other"), "both are ready", PATIENCE_S)
    before = live.status()["revision"]
    new.say("healthy 503")
    until(lambda: served_by(port, "other"), "the unhealthy one gets nothing", PATIENCE_S)
    assert standings(live)["new"]["reason"] == "answered 503"
    text = live.request("GET", "/metrics")[1].decode()
    assert 'bascule_server_healthy{backend="app",server="new"} 0\n' in text
    assert 'bascule_server_share{backend="app",server="new"} 0\n' in text
    assert 'bascule_server_healthy{backend="app",server="other"} 1\n' in text
    assert 'bascule_server_share{backend="app",server="other"} 1\n' in text
    new.say("healthy 200")
    until(lambda: served_by(port, "new", "other"), "it is healthy again", PATIENCE_S)
    assert live.status()["revision"] == before, "health is no revision"
    other.say("ready")
    assert "other" not in standings(live)


def test_a_check_that_every_server_fails_is_ignored(live: LiveBalancer, register: Register, port: int) -> None:
    registrants = [register(name) for name in ("a", "b")]
    live.put("backends/app", {"health_check": {"path": "/health", "interval": "200ms"}})
    registrants[0].say("healthy 404")
    until(lambda: served_by(port, "b"), "one of two is taken out", PATIENCE_S)
    registrants[1].say("healthy 404")
    until(lambda: live.status()["servers"]["ignored_checks"] == ["app"], "the check is ignored", PATIENCE_S)
    assert b'bascule_backend_health_ignored{backend="app"} 1\n' in live.request("GET", "/metrics")[1]
    until(lambda: served_by(port, "a", "b"), "both serve", PATIENCE_S)
    registrants[0].say("healthy 200")
    until(lambda: served_by(port, "a"), "the check counts again", PATIENCE_S)
    live.put("backends/app", {})
    assert served_by(port, "a", "b"), "without a check there is no verdict"


def test_a_ready_server_grows_into_its_share(live: LiveBalancer, register: Register, port: int) -> None:
    register("old")
    live.put("backends/app", {"slow_start": "10m"})
    register("new")
    early = answers(port, 40)
    standing = standings(live)["new"]
    assert standing["state"] == "ramping"
    assert early["new"] < early["old"], early
    assert early["new"] + early["old"] == 40
    live.put("backends/app", {"slow_start": "2s"})
    until(lambda: "new" not in standings(live), "it has its full share", PATIENCE_S)
    assert_even(answers(port), "old", "new")


def test_verdicts_outlive_the_master(live: LiveBalancer, register: Register, port: int) -> None:
    live.put("backends/app", {"health_check": {"path": "/health", "interval": "200ms", "unhealthy": 2}})
    sick, well = register("sick", ttl_s=30.0), register("well", ttl_s=30.0)
    sick.say("healthy 500")
    until(lambda: served_by(port, "well"), "the sick one is out", PATIENCE_S)
    until(lambda: "sick" in standings(live), "it is seen", PATIENCE_S)
    before = live.status()["master"]["pid"]
    os.kill(before, signal.SIGKILL)
    for _ in range(20):
        assert answers(port, 4) == {"well": 4}
    until(lambda: live.ready() and live.status()["master"]["pid"] != before, "another master", PATIENCE_S)
    for _ in range(20):
        assert answers(port, 4) == {"well": 4}
    sick.say("healthy 200")
    until(lambda: served_by(port, "well", "sick"), "it is healthy again", PATIENCE_S)
    assert well.process.poll() is None


def test_a_pool_that_vanishes_is_held_while_its_health_passes(
    live: LiveBalancer, register: Register, port: int
) -> None:
    """The registrants cannot send heartbeats any more, but serve: nobody notices. The one that dies goes."""
    live.put("backends/app", {"health_check": {"path": "/health", "interval": "200ms", "unhealthy": 2}})
    registrants = [register(name, ttl_s=3.0, state="starting") for name in ("s0", "s1")]
    until(lambda: served_by(port, "s0", "s1"), "both serve", PATIENCE_S)
    for registrant in registrants:
        registrant.say("mute")
    until(lambda: len(held(live)) == 2, "both are held", PATIENCE_S)
    assert keys(live) == set()
    assert served_by(port, "s0", "s1")
    registrants[0].kill()
    until(lambda: served_by(port, "s1"), "the dead one is out", PATIENCE_S)
    until(lambda: held(live) == ["backends/app/servers/s1"], "and held no longer", PATIENCE_S)
    assert departed(live)["s0"]["how"] == "vanished"
    status, _ = live.ask("POST", "/v1/adopt")
    assert status == 200
    until(lambda: served_by(port, "503"), "an operator has adopted the loss", PATIENCE_S)


def held(live: LiveBalancer) -> list[str]:
    return [key for key, state in live.states().items() if state["state"] == "held"]
