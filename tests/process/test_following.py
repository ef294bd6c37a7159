"""Following a store: whatever goes wrong on the way, it is followed again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bascule.process import following
from bascule.process.following import Following
from bascule.store.interface import Batch, Reading, UnavailableError

DEADLINE_S = 20.0


class _Store:
    """Gives a reading, and then one batch a watch; `fail` is called before each of them."""

    kind, place = "embedded", "nowhere"

    def __init__(self, fail: Callable[[str], None]) -> None:
        self.fail = fail
        self.revision = 1

    async def read(self, at: int = 0) -> Reading:
        self.fail("read")
        return Reading("one", self.revision, {})

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        while True:
            await asyncio.sleep(0)
            self.fail("watch")
            self.revision += 1
            yield Batch("one", self.revision)


@pytest.mark.parametrize("where", ["read", "watch", "reading", "batch"])
@pytest.mark.parametrize("error", [RuntimeError("never thought of"), OverflowError(), UnavailableError("gone")])
def test_no_error_ends_it(where: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.01)
    failures = {where: 3}
    logged: list[Any] = []

    def fail(what: str) -> None:
        if failures.get(what, 0):
            failures[what] -= 1
            raise error

    async def go() -> None:
        came = asyncio.Event()

        async def on_reading(_: Reading) -> None:
            fail("reading")

        def on_batch(_: Batch) -> None:
            fail("batch")
            if not any(failures.values()):
                came.set()

        log: Any = SimpleNamespace(info=lambda *a, **k: None, error=lambda *a, **k: logged.append(k))
        store: Any = _Store(fail)
        task = asyncio.create_task(Following(store, log, on_reading, on_batch, lambda _: None).run())
        await asyncio.wait_for(came.wait(), DEADLINE_S)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert not failures[where]
    assert logged
    assert all(entry["reason"] and "remedy" in entry for entry in logged)
