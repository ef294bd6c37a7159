"""Steering in a real SO_REUSEPORT group: each connection goes where its place in the group says."""

import os
import socket
from collections.abc import Iterator

import pytest

from bascule.process import steering
from bascule.process.half_open import half_open
from bascule.process.listeners import Listener, open_listener, queue_length
from kit.waiting import free_port, until

SLOTS = 5


@pytest.fixture
def group() -> Iterator[Listener]:
    """A listener of SLOTS slots that nobody accepts from."""
    listener = open_listener("web", f"127.0.0.1:{free_port()}", SLOTS)
    yield listener
    listener.close()


def connect(listener: Listener) -> socket.socket:
    host, _, port = listener.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)


def places(listener: Listener, count: int) -> list[int]:
    """Connect so many times, and return how many of them each slot got; the queues are empty again then."""
    before = [queue_length(descriptor) for descriptor in listener.descriptors]
    clients = [connect(listener) for _ in range(count)]
    got = [queue_length(fd) - was for fd, was in zip(listener.descriptors, before, strict=True)]
    for descriptor in listener.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as slot:
            for _ in range(queue_length(descriptor)):
                slot.accept()[0].close()
    for client in clients:
        client.close()
    return got


@pytest.mark.parametrize("kept", range(1, SLOTS))
def test_new_connections_go_to_the_first_slots_evenly(group: Listener, kept: int) -> None:
    assert group.turn_away(kept)
    got = places(group, 60 * kept)
    assert got[kept:] == [0] * (SLOTS - kept)
    assert min(got[:kept]) > 20  # of 60 on average: 5 standard deviations


def test_a_group_that_shrinks_and_grows_at_its_end_stays_in_order(group: Listener) -> None:
    for count in (3, 4, 1, 6, 2, 5):
        if count < len(group.descriptors):
            assert group.turn_away(count)
            group.shrink()
        else:
            group.grow(count)
        for place in range(1, count):
            steering.steer(group.descriptors[0], place)
            got = places(group, 30)
            assert got[place:] == [0] * (count - place), (count, place)
        group.keep_all()
        assert min(places(group, 60 * count)) > 20


def test_slots_that_are_kept_after_all_get_connections_again(group: Listener) -> None:
    group.turn_away(2)
    group.give_back()
    group.keep_all()
    assert group.lendable_numbers() == group.slot_numbers()
    assert min(places(group, 60 * SLOTS)) > 20


def test_steering_survives_the_close_of_what_it_steers_away_from(group: Listener) -> None:
    """Between the close of the slots and the end of the steering nobody may be refused, nor go anywhere else."""
    group.turn_away(2)
    for descriptor in group.descriptors[:1:-1]:
        os.close(descriptor)
        del group.descriptors[-1]
        assert sum(places(group, 20)[:2]) == 20


def test_a_group_of_ipv6_is_steered_too() -> None:
    listener = open_listener("web", f"[::1]:{free_port()}", 3)
    assert listener.turn_away(1)
    assert places(listener, 20) == [20, 0, 0]
    listener.close()


def test_a_socket_that_refuses_goes_on_with_what_it_has(group: Listener) -> None:
    """Unprivileged too; and another group can be made on the same address meanwhile."""
    defer(group, 30)
    shaking = [connect(group) for _ in range(20)]
    defer(group, 0)
    queued = [connect(group) for _ in range(20)]
    for descriptor in group.descriptors:
        assert not steering.refuses(descriptor)
        steering.refuse(descriptor)
        assert steering.refuses(descriptor)
    with pytest.raises(ConnectionRefusedError):
        connect(group)
    for client in shaking:
        client.sendall(b"x")
    until(lambda: group.queued() == 40, "the end of the handshakes")
    other = open_listener("www", group.address, 3, exclusive=False)
    assert min(places(other, 180)) > 20
    assert group.queued() == 40
    accepted = []
    for descriptor in group.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as slot:
            accepted += [slot.accept()[0] for _ in range(queue_length(descriptor))]
    for connection in accepted:
        connection.sendall(b"served")
    assert [client.recv(100) for client in (*shaking, *queued)] == [b"served"] * 40
    for sock in (*accepted, *shaking, *queued):
        sock.close()
    other.close()


def defer(listener: Listener, wait_s: int) -> None:
    """Have handshakes take until the client's first byte, or no longer."""
    for descriptor in listener.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as slot:
            slot.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, wait_s)


def test_who_shakes_hands_is_listed_by_address(group: Listener) -> None:
    """With TCP_DEFER_ACCEPT a connection stays half-open until its first byte, however long that takes."""
    defer(group, 30)
    port = int(group.address.rpartition(":")[2])
    with connect(group) as client, connect(group):
        both = until(lambda: half_open(group.address), "half-open connections")
        assert both is not None
        assert len(both) == 2
        assert half_open(f"0.0.0.0:{port}") == both
        assert half_open(f"127.0.0.2:{port}") == half_open(f"[::1]:{port}") == frozenset()
        client.sendall(b"x")
        until(lambda: len(half_open(group.address) or ()) == 1, "one of them to be established")
        assert group.queued() == 1
