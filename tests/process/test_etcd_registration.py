"""Servers that register themselves in etcd, with etcdctl: ready by their own word, drained, gone politely, and killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault.live import PREFIX, Site
from kit.client import get
from kit.etcd import Etcd
from kit.origin import ScriptedOrigin
from kit.waiting import until
from process.registering import RegistrantProcess

PATIENCE_S = 30.0
TESTS = Path(__file__).parent.parent
Register = Callable[[str], "Registrant"]


class Pool(Site):
    """A site whose servers register themselves."""

    def tree(self) -> dict[str, Any]:
        tree = super().tree()
        tree["frontends/pool"] = {"route": "Path(`/pool`)", "backend": "pool"}
        tree["backends/pool"] = {}
        return tree

    def served_by(self, *names: str) -> bool:
        """Tell whether these servers share the requests, and nobody else; a status is an answer of the balancer's own."""
        found = set()
        for _ in range(20):
            response = get(("127.0.0.1", self.port), "/pool")
            found.add(response.body.decode() if response.status == 200 else str(response.status))
        return found == set(names)

    def until_served_by(self, *names: str) -> None:
        until(
            lambda: self.served_by(*names), f"served by {names}; log:\n{self.balancer.log()[-3000:]}", PATIENCE_S, 0.05
        )

    def departed(self, name: str) -> Any:
        """Return what is known of a server that has gone, None when it has not."""
        return next((entry for entry in self.status()["servers"]["departed"] if entry["server"] == name), None)


class Registrant(RegistrantProcess):
    """One registered process."""

    def __init__(self, etcd: Etcd, name: str) -> None:
        self.key = f"backends/pool/servers/{name}"
        super().__init__(
            Path(__file__).with_name("etcd_registrant.py"),
            [etcd.member.endpoint, f"{PREFIX}/{self.key}", name, "3"],
            os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        )


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with Etcd() as etcd, ScriptedOrigin() as origin, Pool(etcd, tmp_path / "node", origin) as running:
        yield running


@pytest.fixture
def register(pool: Pool) -> Iterator[Register]:
    running: list[Registrant] = []

    def starter(name: str) -> Registrant:
        running.append(Registrant(pool.etcd, name))
        return running[-1]

    yield starter
    for registrant in running:
        registrant.kill()


def test_the_life_of_a_server_that_lives_in_etcd(pool: Pool, register: Register) -> None:
    first, second = register("s1"), register("s2")
    pool.until_served_by("503")  # both are starting: nobody takes anything
    first.say("ready")
    pool.until_served_by("s1")
    second.say("ready")
    pool.until_served_by("s1", "s2")
    third = register("s3")
    third.say("ready")
    pool.until_served_by("s1", "s2", "s3")

    second.say("drain")
    pool.until_served_by("s1", "s3")
    assert pool.departed("s2") is None, "it has not gone"
    second.say("leave")
    assert second.process.wait(20) == 0
    left = until(lambda: pool.departed("s2"), "that it left is seen", PATIENCE_S, 0.05)
    assert left["how"] == "left"

    revision = pool.etcd.revision()
    pool.more(100)
    assert pool.etcd.revision() == revision, "heartbeats are no revisions"
    assert {f"{PREFIX}/{one.key}" for one in (first, third)} <= set(pool.etcd.keys(PREFIX)), "they outlive their ttl"

    fourth = register("s4")
    fourth.say("ready")
    pool.until_served_by("s1", "s3", "s4")
    third.kill()
    gone = until(lambda: pool.departed("s3"), "that it vanished is seen", PATIENCE_S, 0.05)
    assert gone["how"] == "vanished"
    pool.until_served_by("s1", "s4")
    assert pool.held() == []


def test_a_pool_whose_leases_end_is_held_until_adopted(pool: Pool, register: Register) -> None:
    registrants = [register(name) for name in ("s1", "s2")]
    for one in registrants:
        one.say("ready")
    pool.until_served_by("s1", "s2")
    for lease in pool.etcd.run("lease", "list").stdout.split("\n")[1:]:
        if lease:  # what another program revokes looks like what has ended
            pool.etcd.run("lease", "revoke", lease)
    until(lambda: sorted(pool.held()) == [one.key for one in registrants], "both are held", PATIENCE_S, 0.05)
    assert pool.served_by("s1", "s2")
    pool.adopt()
    pool.until_served_by("503")
