"""A store against a plain dict: random transactions, whose every revision, event and past must be the dict's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bascule.store.interface import Compare, ConflictError, Entry, Put, Remove, Store, Transaction
from store.acceptance import DEADLINE_S, Harness

T = TypeVar("T")
KEYS = ["backends/a", "backends/a/servers/x", "backends/a/servers/y", "backends/a0", "backends/a-b", "frontends/a"]
keys = strategies.sampled_from(KEYS)
values = strategies.integers(0, 9).map(lambda number: str(number).encode())


class Machine(RuleBasedStateMachine):
    """`model` is the dict, `past` what it was at every revision that was committed."""

    harness: Harness

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.harness.fresh()
        self.store = self.do(_open(self.harness))
        first = self.do(self.store.read())
        self.model: dict[str, Entry] = {}
        self.past: dict[int, dict[str, Entry]] = {first.revision: {}}
        self.first = self.revision = first.revision
        self.leases: list[int] = []

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE_S))

    def teardown(self) -> None:
        self.do(self.check_events())
        self.do(self.store.close())
        self.loop.close()

    def commit(self, operations: tuple[Put | Remove, ...], compares: tuple[Compare, ...] = ()) -> None:
        modified = {key: entry.modified for key, entry in self.model.items()}
        expected = all(modified.get(compare.key, 0) == compare.modified for compare in compares)
        try:
            revision = self.do(self.store.commit(Transaction(operations, compares)))
        except ConflictError as error:
            assert not expected
            assert error.modified in (modified.get(error.key, 0), -1)
            return
        assert expected
        after = dict(self.model)
        for operation in operations:
            if isinstance(operation, Put):
                old = self.model.get(operation.key)
                created = old.created if old else revision
                after[operation.key] = Entry(operation.key, operation.value, created, revision, operation.lease)
            else:
                after.pop(operation.key, None)
                for key in [key for key in after if operation.below and key.startswith(operation.key + "/")]:
                    del after[key]
        self.record(revision, after)

    def record(self, revision: int, after: dict[str, Entry]) -> None:
        assert revision > self.revision if after != self.model else revision >= self.revision
        self.model = after
        self.revision = revision
        self.past[revision] = dict(after)

    @rule(key=keys, value=values)
    def put(self, key: str, value: bytes) -> None:
        self.commit((Put(key, value),))

    @rule(chosen=strategies.dictionaries(keys, values, min_size=2))
    def put_several(self, chosen: dict[str, bytes]) -> None:
        self.commit(tuple(Put(key, value) for key, value in chosen.items()))

    @rule(key=keys, below=strategies.booleans())
    def remove(self, key: str, below: bool) -> None:
        self.commit((Remove(key, below=below),))

    @rule(key=keys, other=keys, value=values, stale=strategies.booleans())
    def compare_and_set(self, key: str, other: str, value: bytes, stale: bool) -> None:
        modified = self.model[other].modified if other in self.model else 0
        self.commit((Put(key, value),), (Compare(other, modified + (1 if stale else 0)),))

    @rule(key=keys, other=keys, value=values)
    def replace(self, key: str, other: str, value: bytes) -> None:
        if key != other and not key.startswith(other + "/"):
            self.commit((Remove(other), Put(key, value)))

    @rule()
    def grant(self) -> None:
        if len(self.leases) < 3:
            self.leases.append(self.do(self.store.grant(600_000)))

    @precondition(lambda self: self.leases)
    @rule(key=keys, value=values, number=strategies.integers(0, 2))
    def put_leased(self, key: str, value: bytes, number: int) -> None:
        self.commit((Put(key, value, self.leases[number % len(self.leases)]),))

    @precondition(lambda self: self.leases)
    @rule()
    def revoke(self) -> None:
        lease = self.leases.pop()
        self.do(self.store.revoke(lease))
        after = {key: entry for key, entry in self.model.items() if entry.lease != lease}
        self.record(self.do(self.store.read()).revision, after)

    @precondition(lambda self: self.harness.past)
    @rule(data=strategies.data())
    def read_past(self, data: strategies.DataObject) -> None:
        at = data.draw(strategies.sampled_from(sorted(self.past)))
        reading = self.do(self.store.read(at))
        assert dict(reading.entries) == self.past[at]

    @invariant()
    def present_is_the_model(self) -> None:
        reading = self.do(self.store.read())
        assert dict(reading.entries) == self.model

    async def check_events(self) -> None:
        """Every event since the beginning, applied in order, passes through every past and ends at the model."""
        state: dict[str, Entry] = {}
        if not self.model and len(self.past) == 1:
            return
        await self.store.commit(Transaction((Put("backends/end", b"{}"),)))
        async with aclosing(self.store.watch(self.first)) as watch:  # type: ignore[type-var]
            async for batch in watch:
                for event in batch.events:
                    if event.key == "backends/end":
                        assert state == self.model
                        return
                    if event.entry is None:
                        del state[event.key]
                    else:
                        state[event.key] = event.entry
                if batch.revision in self.past and batch.events:
                    assert state == self.past[batch.revision]


async def _open(harness: Harness) -> Store:
    return harness.open()


def run_machine(harness: Harness, examples: int = 15, steps: int = 25) -> None:
    """Run it against a store."""
    machine = type("StoreMachine", (Machine,), {"harness": harness})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))
