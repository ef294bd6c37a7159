"""Coalescing: what comes closely together is taken together, and nothing waits longer than the maximum."""

import asyncio
from collections.abc import Awaitable, Callable

from bascule.change.gather import Gather
from bascule.store.interface import Batch, Entry, Event


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def batch(revision: int, **values: str | None) -> Batch:
    events = []
    for name, value in values.items():
        key = name.replace("__", "/")
        events.append(Event(key, None if value is None else Entry(key, value.encode(), revision, revision)))
    return Batch("store", revision, tuple(events))


def run(function: Callable[[Gather, Clock], Awaitable[None]], *, quiet_s: float = 0.02, known: bytes = b"{}") -> None:
    async def main() -> None:
        clock = Clock()
        await function(Gather(lambda _: known, quiet_s, 0.25, clock), clock)

    asyncio.run(main())


async def is_due(gather: Gather) -> bool:
    """Tell whether it is due at the moment that the clock stands at."""
    waiting = asyncio.ensure_future(gather.due())
    await asyncio.sleep(0.001)
    if waiting.done():
        return True
    waiting.cancel()
    return False


def test_the_last_word_on_a_key_counts() -> None:
    async def check(gather: Gather, clock: Clock) -> None:
        gather.add(batch(5, a="1", b="1"))
        gather.add(batch(6, a="2"))
        gather.add(batch(7, b=None))
        taken = gather.take()
        assert taken is not None
        assert (taken.revision, taken.batches) == (7, 3)
        assert {event.key: event.entry and event.entry.value for event in taken.events} == {"a": b"2", "b": None}
        assert gather.take() is None

    run(check)


def test_quiet_ends_the_waiting_and_the_maximum_does() -> None:
    async def check(gather: Gather, clock: Clock) -> None:
        gather.add(batch(1, a="1"))
        assert not await is_due(gather)
        clock.now_s += 0.021
        assert await is_due(gather)
        gather.take()
        for revision in range(2, 27):
            gather.add(batch(revision, a=str(revision)))
            clock.now_s += 0.01
            assert await is_due(gather) == (revision >= 26), "250 ms after the first"

    run(check)


def test_without_coalescing_every_revision_is_due_at_once() -> None:
    async def check(gather: Gather, clock: Clock) -> None:
        gather.add(batch(1, a="1"))
        assert await is_due(gather)

    run(check, quiet_s=0.0)


def test_a_drained_server_does_not_wait() -> None:
    async def check(gather: Gather, clock: Clock) -> None:
        gather.add(batch(1, backends__b__servers__s='{"url": "http://a:1", "weight": 2}'))
        assert not await is_due(gather)
        gather.add(batch(2, backends__b__servers__s='{"url": "http://a:1", "state": "draining"}'))
        assert await is_due(gather)
        gather.take()
        gather.add(batch(3, backends__b__servers__s='{"state": [[[['))
        assert not await is_due(gather), "what is no server has no state"

    run(check, known=b'{"url": "http://a:1"}')


def test_an_empty_revision_and_a_hurried_one_are_due_at_once() -> None:
    async def check(gather: Gather, clock: Clock) -> None:
        gather.add(batch(1))
        assert await is_due(gather)
        gather.take()
        gather.add(batch(2, a="1"))
        gather.hurry()
        assert await is_due(gather)

    run(check)
