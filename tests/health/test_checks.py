"""When servers are asked, and what several answers in a row mean. The answers are made up, the loop and time are real."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from bascule.health import checks as module
from bascule.health.checks import HealthChecks
from bascule.health.probe import Lookup, NotKnownError
from bascule.model.tree import HealthCheck

CHECK = HealthCheck(interval="100ms", healthy=2, unhealthy=3)


class World:
    """Servers that answer what a test says."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.turns: dict[str, Iterator[str]] = {}
        """Of a server that answers each time as the next of these says."""
        self.asked: Counter[str] = Counter()
        self.changed: list[tuple[str, str]] = []
        self.now = self.most = 0
        self.checks = HealthChecks(
            lambda backend, server: self.changed.append((backend, server)), {}.get, asking=self.ask
        )

    async def ask(self, url: str, check: HealthCheck, lookup: Lookup) -> str:
        self.asked[url] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        answer = next(self.turns[url]) if url in self.turns else self.answers.get(url, "")
        if answer == "unknown":
            raise NotKnownError(url)
        if answer == "broken":
            raise RuntimeError(url)
        return answer

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


def run(test: Callable[[World], object]) -> None:
    async def main() -> None:
        world = World()
        asking = asyncio.create_task(world.checks.run())
        try:
            result = test(world)
            assert asyncio.iscoroutine(result)
            await result
        finally:
            asking.cancel()

    asyncio.run(main())


def test_several_answers_in_a_row_decide() -> None:
    async def test(world: World) -> None:
        checks = world.checks
        assert checks.passing("app", "a"), "nobody asks it"
        assert not checks.proven("app", "a")
        checks.watch("app", "a", "u", CHECK)
        assert checks.passing("app", "a"), "not known yet"
        assert not checks.proven("app", "a")
        await world.until(lambda: checks.proven("app", "a"))
        assert world.asked["u"] >= 2
        world.answers["u"] = "answered 503"
        before = world.asked["u"]
        await world.until(lambda: not checks.passing("app", "a"))
        assert world.asked["u"] >= before + 3
        health = checks.health("app", "a")
        assert health is not None
        assert health.reason == "answered 503"
        world.answers["u"] = ""
        await world.until(lambda: checks.proven("app", "a"))
        assert world.changed == [("app", "a")] * 3
        checks.forget("app", "a")
        assert checks.health("app", "a") is None
        asked = world.asked["u"]
        await asyncio.sleep(0.3)
        assert world.asked["u"] <= asked + 1

    run(test)


def test_an_answer_that_alternates_changes_nothing() -> None:
    async def test(world: World) -> None:
        world.checks.watch("app", "a", "u", CHECK)
        await world.until(lambda: world.checks.proven("app", "a"))
        world.turns["u"] = itertools.cycle(["answered 500", ""])
        asked = world.asked["u"]
        await world.until(lambda: world.asked["u"] > asked + 6)
        assert world.changed == [("app", "a")]

    run(test)


def test_what_a_predecessor_knew_counts_until_asked() -> None:
    async def test(world: World) -> None:
        world.checks.watch("app", "a", "u", HealthCheck(interval="1h"), known=False)
        assert not world.checks.passing("app", "a")
        await world.until(lambda: world.asked["u"] == 1)
        assert not world.checks.passing("app", "a")

    run(test)


def test_a_name_without_address_and_a_broken_probe_are_asked_again() -> None:
    async def test(world: World) -> None:
        world.answers = {"u": "unknown", "v": "broken"}
        world.checks.watch("app", "a", "u", CHECK)
        world.checks.watch("app", "b", "v", CHECK)
        await world.until(lambda: world.asked["u"] >= 4 and not world.checks.passing("app", "b"))
        assert world.checks.passing("app", "a"), "nothing is known against it"
        world.answers = {}
        await world.until(lambda: world.checks.proven("app", "a") and world.checks.proven("app", "b"))

    run(test)


def test_another_url_is_another_server() -> None:
    async def test(world: World) -> None:
        world.checks.watch("app", "a", "u", CHECK)
        await world.until(lambda: world.checks.proven("app", "a"))
        world.checks.watch("app", "a", "u", CHECK)
        assert world.checks.proven("app", "a")
        world.checks.watch("app", "a", "v", CHECK)
        assert not world.checks.proven("app", "a")
        asked = world.asked["u"]
        await world.until(lambda: world.checks.proven("app", "a"))
        assert world.asked["u"] == asked

    run(test)


def test_many_servers_are_asked_a_few_at_a_time() -> None:
    async def test(world: World) -> None:
        for number in range(1000):
            world.checks.watch("app", f"s{number}", f"u{number}", HealthCheck(interval="1h", healthy=1))
        await world.until(lambda: len(world.asked) == 1000)
        assert world.most <= module.CONCURRENCY

    run(test)
