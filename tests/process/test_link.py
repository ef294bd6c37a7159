"""Links over real socket pairs: messages, descriptors, slow peers, dead peers."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from bascule.process import link, wire
from bascule.process.link import DESCRIPTORS_MAX, Link, LinkClosedError


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    one, two = (Link(descriptor) for descriptor in link.pair())
    yield one, two
    one.close()
    two.close()


def ends_open(pipe: int) -> int:
    """Count the descriptors of this process that are an end of a pipe; others may come and go meanwhile."""
    name = os.readlink(f"/proc/self/fd/{pipe}")
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{descriptor}") == name
    return found


def test_a_message_and_its_descriptors_arrive(ends: tuple[Link, Link], tmp_path: object) -> None:
    one, two = ends
    read, write = os.pipe()
    one.send({"type": "lend", "slots": [3], "text": 'é "\\ \n'}, [read])
    received = two.receive()
    assert received is not None
    message, descriptors = received
    assert message == {"type": "lend", "slots": [3], "text": 'é "\\ \n'}
    os.write(write, b"through")
    assert os.read(descriptors[0], 10) == b"through"
    assert not os.get_inheritable(descriptors[0])
    for descriptor in (read, write, descriptors[0]):
        os.close(descriptor)


def test_more_descriptors_than_one_message_can_carry_go_in_batches(ends: tuple[Link, Link]) -> None:
    one, two = ends
    read, write = os.pipe()
    items = [(number, read) for number in range(600)]
    for batch in link.batches(items):
        one.send({"type": "lend", "slots": [number for number, _ in batch]}, [fd for _, fd in batch])
    arrived: list[int] = []
    while (received := two.receive()) is not None:
        message, descriptors = received
        assert len(descriptors) == len(message["slots"]) <= DESCRIPTORS_MAX
        arrived += message["slots"]
        for descriptor in descriptors:
            os.close(descriptor)
    assert arrived == list(range(600))
    os.close(read)
    os.close(write)


def test_one_message_refuses_254_descriptors(ends: tuple[Link, Link]) -> None:
    with pytest.raises(ValueError, match="254 descriptors"):
        ends[0].send({"type": "lend"}, [0] * (DESCRIPTORS_MAX + 1))


def test_a_peer_that_does_not_read_blocks_nobody_and_loses_nothing(ends: tuple[Link, Link]) -> None:
    one, two = ends
    read, write = os.pipe()
    for number in range(3000):
        one.send({"type": "n", "number": number, "filling": "x" * 1000}, [read] if number % 100 == 0 else [])
    assert one.wants_write
    assert ends_open(write) > 2
    os.close(read)  # what waits has its own duplicates
    numbers = []
    while len(numbers) < 3000:
        received = two.receive()
        if received is None:
            one.flush()
            continue
        numbers.append(received[0]["number"])
        for descriptor in received[1]:
            os.close(descriptor)
    assert numbers == list(range(3000))
    assert not one.wants_write
    assert ends_open(write) == 1
    os.close(write)


def test_a_dead_peer_is_an_error_after_its_last_message(ends: tuple[Link, Link]) -> None:
    one, two = ends
    two.send({"type": "failed", "reason": "why"})
    two.close()
    received = one.receive()
    assert received is not None
    assert received[0]["reason"] == "why"
    with pytest.raises(LinkClosedError):
        one.receive()
    with pytest.raises(LinkClosedError):
        one.send({"type": "x"})


def test_the_last_message_of_a_peer_that_had_not_read_everything_arrives(ends: tuple[Link, Link]) -> None:
    one, two = ends
    one.send({"type": "unread"})
    two.send({"type": "failed", "reason": "why"})
    two.close()
    received = one.receive()
    assert received is not None
    assert received[0]["reason"] == "why"
    with pytest.raises(LinkClosedError):
        one.receive()


def test_bytes_that_are_no_message_are_refused() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver = Link(right.detach())
    for packet in (b"[]", b"{}", b'{"type": 1}', b"{", b'{"type": "x"} more', b"\xff"):
        left.send(packet)
        with pytest.raises(ValueError):
            receiver.receive()
    receiver.close()
    left.close()


def test_the_light_json_agrees_with_the_package() -> None:
    import json

    for value in ([], {"a": [1, -1, 1.5, None, True, "é\n\x00\U0001f600"]}, "x", {"k": {"n": [[]]}}, 1 << 62):
        assert json.loads(wire.dumps(value)) == value
        assert wire.loads(json.dumps(value, separators=(",", ":"))) == value
