"""Listeners that change in every way while clients connect all the time: played in a network of its own."""

import contextlib
import signal
from pathlib import Path
from typing import Any

from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load, tree
from process.private_network import counters, since

PAUSE_S = 0.004


class Site:
    """A balancer whose settings and listeners a test changes, each by one reload."""

    def __init__(self, directory: Path, origin: ScriptedOrigin, listeners: dict[str, str]) -> None:
        self.origin = origin
        self.listeners = listeners
        self.settings: dict[str, Any] = {"workers": 1}
        self.balancer = Balancer(directory, self._tree(), workers=0)

    def _tree(self) -> dict[str, Any]:
        return {**tree(self.listeners, self.origin.address), "settings": self.settings}

    def change(self, listeners: dict[str, str] | None = None, **settings: int) -> None:
        """Bring other listeners or settings into force."""
        self.listeners = listeners or self.listeners
        self.settings |= settings
        self.balancer.write(self._tree())
        code, outcome = self.balancer.reload()
        assert code == 200, outcome

    def until_slots(self, count: int) -> None:
        """Wait until the workers hold so many slots of all listeners together, and no slot is on its way out."""
        until(
            lambda: sum(worker["slots"] for worker in self.balancer.status()["workers"]) == count,
            lambda: (
                f"{count} slots, {[w['slots'] for w in self.balancer.status()['workers']]}; {self.balancer.log()[-2000:]}"
            ),  # type: ignore[arg-type]
            30,
        )


def play_what_stays(site: Site, load: Load, one: str, two: str) -> None:
    """Change everything but the addresses."""
    site.change(slots=4)  # 24 -> 4
    site.until_slots(8)
    load.more(100)
    site.change(workers=6, slots=6)
    site.balancer.until_workers(6)
    site.until_slots(12)
    load.more(100)
    site.change(slots=0)  # 24 again, as an operator who says nothing has
    site.until_slots(48)
    site.change(slots=7)
    site.change(slots=30)  # before the 17 slots have left
    site.until_slots(60)
    site.change(workers=2)
    site.balancer.until_workers(2)
    site.change(slots=2)
    site.until_slots(4)
    load.more(100)
    site.change({"www": one, "api": two})  # renamed
    site.change({"www": two, "api": one})  # each has the other's address
    site.change({"www": one, "api": two}, slots=5)  # and back at once, with other slots
    site.until_slots(10)
    load.more(100)
    site.change(slots=2)
    site.until_slots(4)
    site.balancer.signal(signal.SIGTTIN)  # more workers than slots: every worker has one
    site.balancer.until_workers(3)
    site.until_slots(6)
    site.balancer.signal(signal.SIGTTOU)
    site.balancer.until_workers(2)
    site.until_slots(4)
    load.more(100)


def play_what_goes(site: Site, load: Load, one: str, two: str) -> None:
    """Add, rename, move and remove a listener, and bring it back while it closes: nobody is refused but in between."""
    port = free_port()
    more = f"127.0.0.1:{port}"
    both = {"www": one, "api": two}
    for _ in range(3):
        site.change({**both, "more": more})
        with Load(port, clients=2, pause_s=0.001) as others:
            served_more(others, 30)
            site.change(both)
            site.change({**both, "more": more})  # its queues may still be full
            served_more(others, 30)
            site.change({**both, "last": more})
            served_more(others, 30)
        assert [failure for failure in others.failures if "refused" not in failure] == []
        site.change({**both, "last": f"127.0.0.1:{free_port()}"})
        site.change(both)
        load.more(20)
    site.until_slots(4)


def served_more(load: Load, count: int) -> None:
    """Wait until so many more requests have been served, whatever else happened."""
    target = load.served + count
    until(lambda: load.served >= target, f"{count} more requests served: {load.failures[-3:]}", 20)


def main(directory: Path) -> dict[str, Any]:
    """Play, and return what clients and kernel say."""
    ports = free_port(), free_port()
    one, two = (f"127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(ScriptedOrigin())
        site = Site(directory, origin, {"web": one, "api": two})
        stack.enter_context(site.balancer)
        loads = [stack.enter_context(Load(port, clients=3, pause_s=PAUSE_S)) for port in ports]
        loads.append(stack.enter_context(Load(ports[0], clients=1, pause_s=PAUSE_S, keep_alive=True)))
        loads[0].more(50)
        before = counters()
        play_what_stays(site, loads[0], one, two)
        stays = since(before)
        before = counters()
        play_what_goes(site, loads[0], one, two)
        goes = since(before)
        log = site.balancer.log()
    failures = [failure for load in loads for failure in load.failures]
    return {
        "failures": failures,
        "served": sum(load.served for load in loads),
        "stays": stays,
        "goes": goes,
        "log": log,
    }
