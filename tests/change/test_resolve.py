import asyncio
import socket
import struct
import threading
from collections.abc import Sequence

from bascule.change.resolve import Resolver, names_of, system_lookup
from bascule.model.tree import Backend, Server, Tree


class Answers:
    """A name server under the test's control."""

    def __init__(self) -> None:
        self.now: dict[str, list[bytes] | OSError] = {}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[bytes]:
        assert threading.current_thread() is not threading.main_thread()
        self.asked.append(host)
        answer = self.now[host]
        if isinstance(answer, OSError):
            raise answer
        return answer


def test_names_of_a_tree() -> None:
    tree = Tree(
        backends={
            "a": Backend(
                servers={
                    "1": Server(url="http://10.0.0.1:1"),
                    "2": Server(url="http://app:1"),
                    "3": Server(url="unix:///r/a"),
                }
            ),
            "b": Backend(
                resolve_interval="2s", servers={"1": Server(url="http://app:1"), "2": Server(url="http://app:2")}
            ),
        }
    )
    assert names_of(tree) == {"app:1": 2.0, "app:2": 2.0}


def test_an_address_stays_while_it_is_in_the_answer() -> None:
    answers, clock = Answers(), [0.0]
    answers.now["app"] = [b"one", b"two"]

    async def play() -> None:
        resolver = Resolver(answers, lambda: clock[0])
        resolver.want({"app:80": 10.0})
        assert await resolver.refresh()
        assert resolver.addresses() == {"app:80": b"one"}
        assert not await resolver.refresh(), "not due yet"
        answers.now["app"] = [b"two", b"one"]
        clock[0] = 10.0
        assert not await resolver.refresh(), "another order is no change"
        answers.now["app"] = [b"three", b"two"]
        clock[0] = 20.0
        assert await resolver.refresh()
        assert resolver.addresses() == {"app:80": b"three"}
        assert answers.asked == ["app"] * 3
        resolver.close()

    asyncio.run(play())


def test_failures_keep_the_last_good_address_and_are_told() -> None:
    answers, clock = Answers(), [0.0]
    answers.now["app"] = OSError(-2, "Name or service not known")

    async def play() -> None:
        resolver = Resolver(answers, lambda: clock[0])
        resolver.want({"app:80": 1.0})
        assert not await resolver.refresh()
        assert resolver.failures() == {"app:80": "Name or service not known"}
        assert resolver.addresses() == {}
        answers.now["app"] = [b"one"]
        clock[0] = 1.0
        assert await resolver.refresh()
        assert resolver.failures() == {}
        for worse in (OSError(-3, "Temporary failure"), []):
            answers.now["app"] = worse
            clock[0] += 1.0
            assert not await resolver.refresh()
            assert resolver.addresses() == {"app:80": b"one"}
            assert resolver.failures()
        resolver.close()

    asyncio.run(play())


def test_names_that_stay_keep_what_is_known() -> None:
    answers = Answers()
    answers.now = {"a": [b"A"], "b": [b"B"]}

    async def play() -> None:
        resolver = Resolver(answers)
        resolver.want({"a:1": 60.0})
        await resolver.refresh()
        resolver.want({"a:1": 60.0, "b:1": 60.0})
        await resolver.refresh()
        assert answers.asked == ["a", "b"]
        resolver.want({"b:1": 60.0})
        assert resolver.addresses() == {"b:1": b"B"}
        resolver.close()

    asyncio.run(play())


def test_the_loop_tells_changes_and_wakes_for_new_names() -> None:
    answers = Answers()
    answers.now = {"a": [b"A"], "b": [b"B"]}

    async def play() -> None:
        resolver = Resolver(answers)
        changed = asyncio.Event()
        task = asyncio.create_task(resolver.run(changed.set))
        resolver.want({"a:1": 3600.0})
        await asyncio.wait_for(changed.wait(), 10)
        changed.clear()
        resolver.want({"a:1": 3600.0, "b:1": 3600.0})
        await asyncio.wait_for(changed.wait(), 10)
        assert resolver.addresses() == {"a:1": b"A", "b:1": b"B"}
        task.cancel()
        resolver.close()

    asyncio.run(play())


def test_a_hanging_lookup_fails_alone() -> None:
    release = threading.Event()

    def lookup(host: str, port: int) -> Sequence[bytes]:
        if host == "hangs":
            release.wait(60)
        return [host.encode()]

    async def play() -> None:
        resolver = Resolver(lookup, timeout_s=0.2)
        resolver.want({"hangs:1": 60.0, "b:1": 60.0})
        assert await resolver.refresh()
        assert resolver.addresses() == {"b:1": b"b"}
        assert "no answer" in resolver.failures()["hangs:1"]

    try:
        asyncio.run(play())
    finally:
        release.set()


def test_the_system_resolver() -> None:
    packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 81) + socket.inet_aton("127.0.0.1") + bytes(8)
    assert packed in system_lookup("localhost", 81)
