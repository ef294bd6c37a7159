"""The region of verdicts, and what a worker makes of its words."""

from __future__ import annotations

import os
import select
import socket
from collections import Counter

import pytest

from bascule.engine.engine import Engine, EngineError
from bascule.shared import statistics, verdicts
from bascule.shared.region import RegionError
from bascule.shared.verdicts import SHARE_FULL, Verdicts
from engine.harness import Harness

POOL = """
[listeners.web]
address = "127.0.0.1:1"
[backends.app]
[backends.app.servers.a]
url = "{origin}"
weight = 3
[backends.app.servers.b]
url = "http://127.0.0.1:{second}"
state = "STATE"
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""


@pytest.fixture
def table() -> Verdicts:
    return Verdicts(verdicts.create(1000))


def test_words_are_set_and_cleared(table: Verdicts) -> None:
    assert len(table) == 1000
    assert table.get(7) is None
    table.set(7, 0)
    table.set(8, SHARE_FULL, ready=True)
    assert (table.get(7), table.get(8), table.slots()) == ((0, False), (SHARE_FULL, True), [7, 8])
    table.clear(7)
    assert (table.get(7), table.slots()) == (None, [8])
    for slot in (1000, 1 << 31):
        with pytest.raises(IndexError):
            table.set(slot, 1)
    with pytest.raises(ValueError, match="share"):
        table.set(0, SHARE_FULL + 1)


def test_two_masters_see_the_same_words() -> None:
    descriptor = verdicts.create(10)
    Verdicts(descriptor).set(3, 5)
    assert Verdicts(descriptor).get(3) == (5, False)


@pytest.mark.parametrize("offset", [0, 8, 12, 16])
def test_another_layout_is_refused(offset: int) -> None:
    descriptor = verdicts.create(10)
    os.pwrite(descriptor, b"\xff\xff\xff\x7f", offset)  # magic, version, count of words, size
    with pytest.raises(RegionError):
        Verdicts(descriptor)
    with pytest.raises(EngineError, match="verdicts"):
        Engine(worker=0, statistics_fd=statistics.create(workers=1, objects=16), verdicts_fd=descriptor)


class Pool:
    """One engine, two servers played by the test: `a` of weight 3, and `b` of weight 1."""

    def __init__(self, state: str = "up") -> None:
        self.descriptor = verdicts.create(64)
        self.table = Verdicts(self.descriptor)
        self.second = socket.create_server(("127.0.0.1", 0))
        self.second.setblocking(False)
        config = POOL.replace("{second}", str(self.second.getsockname()[1])).replace("STATE", state)
        self.harness = Harness(config=config, verdicts_fd=self.descriptor)
        self.slots = {name: self.harness.directory.slot("server", f"app/{name}") for name in "ab"}

    def __enter__(self) -> Pool:
        self.harness.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.harness.__exit__(None, None, None)
        self.second.close()
        os.close(self.descriptor)

    def picks(self, count: int) -> Counter[str]:
        """Return how many of so many requests went to each server, or to none."""
        found: Counter[str] = Counter()
        harness, names = self.harness, {self.harness.origin: "a", self.second: "b"}
        for _ in range(count):
            client = harness.connect()
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            ready: list[socket.socket] = []

            def moved(ready: list[socket.socket] = ready, client: socket.socket = client) -> bool:
                ready[:] = select.select([*names, client], [], [], 0)[0]
                return bool(ready)

            harness.until(moved, "a pick")
            if ready[0] is client:
                assert harness.head(client).startswith(b"HTTP/1.1 503")
                found["none"] += 1
            else:
                found[names[ready[0]]] += 1
                server = harness.accept(ready[0])
                harness.head(server)
                server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                assert harness.head(client).startswith(b"HTTP/1.1 200")
            client.close()
        harness.turn(5)
        return found


def test_a_share_is_a_part_of_the_weight() -> None:
    with Pool() as pool:
        table, a, b = pool.table, pool.slots["a"], pool.slots["b"]
        assert pool.picks(16) == {"a": 12, "b": 4}
        table.set(a, SHARE_FULL // 3)
        assert abs(pool.picks(40)["a"] - 20) <= 1
        table.set(a, 0)
        assert pool.picks(8) == {"b": 8}
        table.set(b, 1)
        assert pool.picks(8) == {"b": 8}, "a small share of what there is"
        table.set(b, 0)
        assert pool.picks(2) == {"none": 2}
        table.clear(a)
        table.clear(b)
        assert sorted(pool.picks(16).values()) == [4, 12]


def test_starting_waits_for_the_word_ready() -> None:
    with Pool("starting") as pool:
        table, b = pool.table, pool.slots["b"]
        assert pool.picks(6) == {"a": 6}
        table.set(b, SHARE_FULL)
        assert pool.picks(6) == {"a": 6}
        table.set(b, SHARE_FULL, ready=True)
        assert pool.picks(16) == {"a": 12, "b": 4}


@pytest.mark.parametrize("state", ["draining", "down"])
def test_no_verdict_overrules_the_configuration(state: str) -> None:
    with Pool(state) as pool:
        pool.table.set(pool.slots["b"], SHARE_FULL, ready=True)
        assert pool.picks(6) == {"a": 6}
