"""Slots that leave, on real sockets: nothing is closed before it is proven that nobody waits there."""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bascule.process import steering
from bascule.process.leaving import LOOK_S, Leaving
from bascule.process.listeners import Listener, open_listener
from bascule.process.log import Log
from bascule.process.poller import Poller
from bascule.process.storage import Storage
from bascule.process.systemd import Notifier
from kit.waiting import free_port, until

SLOTS = 6


class Lender:
    """The workers of this test: they accept when they are told to, and give back when they are asked to."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.asked = 0
        self.returning = True
        self.lent_again = 0
        self.heir_held = False
        self.accepted: list[socket.socket] = []

    def take_back(self, _: Listener) -> None:
        self.asked += 1

    def holders(self, _: Listener) -> int:
        return int(not self.returning)

    def held(self, _: Listener) -> bool:
        return self.heir_held

    def rebalance(self) -> None:
        self.lent_again += 1

    def accept(self) -> None:
        for descriptor in self.listener.descriptors[: self.listener.lendable]:
            with socket.socket(fileno=os.dup(descriptor)) as slot:
                while True:
                    try:
                        self.accepted.append(slot.accept()[0])
                    except BlockingIOError:
                        break


class Scene:
    """A listener of SLOTS slots, its clients, and a keeper's loop that turns when the test says so."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.listener = open_listener("web", f"127.0.0.1:{free_port()}", SLOTS)
        self.lender = Lender(self.listener)
        self.clients: list[socket.socket] = []
        self.done: list[Leaving] = []

    def connect(self, count: int) -> None:
        where = ("127.0.0.1", int(self.listener.address.rpartition(":")[2]))
        self.clients += [socket.create_connection(where, timeout=10) for _ in range(count)]

    def leave(self, kept: int, **patience: float) -> Leaving:
        lender: Any = self.lender
        leaving = Leaving(self.listener, kept, lender, self.poller, Storage(Notifier(), self.poller, Log(), {}))
        assert leaving.begin(self.done.append, **patience)
        return leaving

    def turn(self, looks: int) -> None:
        """Let the loop look so many times at least."""
        for _ in range(looks):
            time.sleep(LOOK_S)
            self.poller.turn()

    def turn_until_done(self) -> None:
        def done() -> bool:
            self.poller.turn()
            return bool(self.done)

        until(done, "the slots to have left", pause_s=0.001)

    def all_served(self) -> bool:
        """Answer every connection that was accepted, and tell whether that is every client's."""
        for connection in self.lender.accepted:
            connection.sendall(b"served")
        return [client.recv(100) for client in self.clients] == [b"served"] * len(self.lender.accepted)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    for sock in (*made.clients, *made.lender.accepted):
        sock.close()
    made.listener.close()


@pytest.mark.parametrize("kept", [0, 2])
def test_a_queue_is_emptied_before_its_slot_is_given_back(scene: Scene, kept: int) -> None:
    scene.connect(60)
    scene.leave(kept)
    scene.turn(10)
    assert not scene.lender.asked
    scene.lender.accept()
    scene.turn_until_done()
    scene.listener.shrink() if kept else scene.listener.close()
    assert scene.all_served()


@pytest.mark.parametrize("kept", [0, 2])
def test_a_handshake_under_way_is_waited_for(scene: Scene, kept: int) -> None:
    """TCP_DEFER_ACCEPT keeps it under way until the client sends something."""
    for descriptor in scene.listener.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as slot:
            slot.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    scene.connect(30)
    assert not scene.listener.queued()
    scene.leave(kept)
    scene.turn(10)
    assert not scene.lender.asked
    for client in scene.clients:
        client.sendall(b"x")
    until(lambda: scene.listener.queued() == 30, "the end of the handshakes")
    scene.turn(5)
    assert not scene.lender.asked
    scene.lender.accept()
    scene.turn_until_done()
    scene.listener.shrink() if kept else scene.listener.close()
    assert scene.all_served()


def test_new_connections_do_not_delay_the_slots_that_leave(scene: Scene) -> None:
    scene.leave(2)
    scene.connect(40)
    scene.turn_until_done()
    scene.listener.shrink()
    assert scene.listener.queued() == 40
    scene.lender.accept()
    assert scene.all_served()


def test_who_comes_in_after_the_proof_is_accepted_after_all(scene: Scene) -> None:
    scene.lender.returning = False
    scene.leave(2)
    until(lambda: scene.poller.turn() or scene.lender.asked, "the slots to be taken back")  # type: ignore[func-returns-value]
    steering.stop_steering(scene.listener.descriptors[0])
    scene.connect(60)
    scene.lender.returning = True
    until(lambda: scene.poller.turn() or scene.lender.lent_again, "the slots to be lent again")  # type: ignore[func-returns-value]
    assert scene.listener.lendable == SLOTS
    scene.lender.accept()
    scene.turn_until_done()
    scene.listener.shrink()
    assert scene.all_served()


def test_what_is_queued_at_the_deadline_is_counted(scene: Scene) -> None:
    scene.connect(30)
    leaving = scene.leave(0, patience_s=0.1)
    scene.turn_until_done()
    assert leaving.lost() == 30


def test_a_renamed_listener_gives_back_when_its_heir_is_held(scene: Scene) -> None:
    heir = scene.listener.bequeath("www", scene.listener.address, SLOTS)
    scene.connect(30)
    scene.leave(0)
    scene.turn(5)
    assert not scene.lender.asked
    scene.lender.heir_held = True
    scene.turn_until_done()
    scene.listener.close()
    scene.lender.listener = heir
    scene.lender.accept()
    assert scene.all_served()
    heir.close()


def test_a_renamed_listener_whose_heir_is_given_up_empties_its_queues(scene: Scene) -> None:
    scene.listener.bequeath("www", scene.listener.address, SLOTS)
    leaving = scene.leave(0)
    scene.connect(30)
    scene.turn(5)
    scene.listener.disinherit()
    leaving.again()
    scene.turn(5)
    assert not scene.lender.asked
    scene.lender.accept()
    scene.turn_until_done()
    scene.listener.close()
    assert scene.all_served()
