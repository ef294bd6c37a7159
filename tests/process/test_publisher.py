"""What the publisher sends to whom: the newest snapshot, with its routes base to those that do not have it, one at a time."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from bascule.process import link as links
from bascule.process.link import Link
from bascule.process.log import Log
from bascule.process.publisher import Publisher
from bascule.shared.snapshot import make_memfd


class FakeWorker:
    """The worker's end of a master link."""

    def __init__(self, publisher: Publisher, number: int) -> None:
        ours, theirs = links.pair()
        self.link = Link(theirs)
        self.number = number
        publisher.introduce({"number": number, "pid": 1, "state": "serving"}, [ours])
        publisher.workers[number].revision = 1
        publisher.workers[number].offered = 1

    def received(self) -> list[tuple[int, list[bytes]]]:
        """(revision, images) of the snapshots that have arrived."""
        found = []
        while (message := self.link.receive()) is not None:
            images = [os.pread(descriptor, 100, 0) for descriptor in message[1]]
            for descriptor in message[1]:
                os.close(descriptor)
            if message[0]["type"] == "snapshot":
                found.append((message[0]["revision"], images))
        return found

    def say(self, publisher: Publisher, **message: Any) -> None:
        publisher._handle(publisher.workers[self.number], message)


def publish(publisher: Publisher, revision: int, base: bytes = b"") -> None:
    publisher.publish(revision, make_memfd(b"records %d" % revision), make_memfd(base) if base else -1)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    found = Publisher(Log(process="master"))
    found.hold(1, make_memfd(b"records 1"), make_memfd(b"base 1"))
    yield found
    for number in list(found.workers):
        found.gone({"number": number, "deaths": 0})


def test_the_base_goes_once_to_each_worker(publisher: Publisher) -> None:
    workers = [FakeWorker(publisher, 0), FakeWorker(publisher, 1)]
    publish(publisher, 2)
    for worker in workers:
        assert worker.received() == [(2, [b"records 2", b"base 1"])]
        worker.say(publisher, type="applied", revision=2)
    publish(publisher, 3)
    assert [worker.received() for worker in workers] == [[(3, [b"records 3"])]] * 2
    for worker in workers:
        worker.say(publisher, type="applied", revision=3)
    publish(publisher, 4, b"base 4")
    late = FakeWorker(publisher, 2)
    assert workers[0].received() == [(4, [b"records 4", b"base 4"])]
    workers[0].say(publisher, type="applied", revision=4)
    late.say(publisher, type="state", revision=1)
    assert late.received() == [(4, [b"records 4", b"base 4"])]
    assert publisher.lagging() == [1, 2]


def test_a_worker_that_asks_for_the_base_gets_both(publisher: Publisher) -> None:
    worker = FakeWorker(publisher, 0)
    publish(publisher, 2)
    worker.received()
    worker.say(publisher, type="applied", revision=2)
    publish(publisher, 3)
    assert worker.received() == [(3, [b"records 3"])]
    worker.say(publisher, type="base?", revision=3)
    assert worker.received() == [(3, [b"records 3", b"base 1"])]


def test_a_slow_worker_skips_what_is_no_longer_new(publisher: Publisher) -> None:
    slow, quick = FakeWorker(publisher, 0), FakeWorker(publisher, 1)
    for revision in range(2, 50):
        publish(publisher, revision, b"base 30" if revision == 30 else b"")
        quick.say(publisher, type="applied", revision=revision)
    assert [revision for revision, _ in quick.received()] == list(range(2, 50))
    assert slow.received() == [(2, [b"records 2", b"base 1"])]
    slow.say(publisher, type="applied", revision=2)
    assert slow.received() == [(49, [b"records 49", b"base 30"])]


def test_a_refusal_does_not_keep_the_next_one_away(publisher: Publisher) -> None:
    worker = FakeWorker(publisher, 0)
    publish(publisher, 2)
    publish(publisher, 3)
    assert [revision for revision, _ in worker.received()] == [2]
    worker.say(publisher, type="refused", revision=2, reason="damaged")
    assert [revision for revision, _ in worker.received()] == [3]
    worker.say(publisher, type="refused", revision=3, reason="damaged")
    assert worker.received() == []
    publish(publisher, 4)
    assert [revision for revision, _ in worker.received()] == [4]


def test_descriptors_of_the_past_are_closed(publisher: Publisher) -> None:
    worker = FakeWorker(publisher, 0)
    gc.collect()  # what other tests left would go in between
    before = len(os.listdir("/proc/self/fd"))
    for revision in range(2, 20):
        publish(publisher, revision, b"base")
        worker.received()
        worker.say(publisher, type="applied", revision=revision)
    assert len(os.listdir("/proc/self/fd")) == before


def test_applied_waits_for_the_newest(publisher: Publisher) -> None:
    worker = FakeWorker(publisher, 0)

    async def change() -> bool:
        publisher.attach(asyncio.get_running_loop())
        publish(publisher, 2)
        publish(publisher, 3)
        waiting = asyncio.ensure_future(publisher.applied(10.0))
        for revision in (2, 3):
            await asyncio.sleep(0)
            worker.link.send({"type": "applied", "revision": revision})
        return await waiting

    assert asyncio.run(change())
    publisher._loop = None
