"""A live configuration over upgrades: what was changed before, and in the probation, is in force whichever generation serves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import serves, tree
from process.live import LiveBalancer
from process.upgrading import order


@pytest.fixture
def live(tmp_path: Path, origin: ScriptedOrigin, port: int) -> Iterator[LiveBalancer]:
    """A live balancer whose workers have had several snapshots from their master."""
    with LiveBalancer(tmp_path / "live") as balancer:
        balancer.apply(tree({"web": f"127.0.0.1:{port}"}, origin.address))
        for weight in range(1, 6):
            balancer.put("backends/app/servers/a1", {"url": f"http://{origin.address}", "weight": weight})
        yield balancer


def test_a_switch_back_may_come_before_the_new_master_has_changed_anything(live: LiveBalancer, port: int) -> None:
    with Load(("127.0.0.1", port), clients=4, pause_s=0.01) as load:
        for _ in range(2):
            assert order(live, probation_ms=600_000)["receipt"]["ok"]
            answer = order(live, "back")
            assert answer["receipt"]["ok"], answer
            until(live.ready, "the master before", 20.0)
    assert not load.result.failures
    assert live.ask("GET", "/v1/upgrades")[1]["state"]["generation"] == 1


def test_a_change_in_the_probation_outlives_the_switch_back(live: LiveBalancer, port: int) -> None:
    assert order(live, probation_ms=600_000)["receipt"]["ok"]
    until(live.ready, "the new master", 20.0)
    other = free_port()
    live.put("listeners/other", {"address": f"127.0.0.1:{other}"})
    assert serves(other)
    assert order(live, "back")["receipt"]["ok"]
    assert serves(other)
    until(live.ready, "the master before", 20.0)
    live.remove("listeners/other")
    assert not serves(other)
    assert serves(port)
