"""Listeners coming, going and changing while the rest serves: the keeper's side of `bind`, `listen` and `unbind`, and the
number of slots, which follows settings and workers."""

from __future__ import annotations

import os

from bascule.process import slots, steering
from bascule.process.leaving import Leaving
from bascule.process.listeners import (
    BindError,
    Listener,
    adopt_listener,
    local_address,
    open_listener,
    same_address,
)
from bascule.process.storage import is_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from bascule.process.lending import Lending
    from bascule.process.log import Log
    from bascule.process.poller import Poller
    from bascule.process.storage import Storage
    from bascule.process.succession import Document

EMPTYING_MAX_S = 5.0
"""How long a listener that closes may take to empty its queue; what is left then is reset."""


class Rebinding:
    """Opens, changes and closes listeners that are lent out."""

    def __init__(
        self, lending: Lending, poller: Poller, log: Log, inherited: Mapping[int, str], storage: Storage
    ) -> None:
        """`inherited` are the descriptors that the service manager gave us, and their names; those of its store are
        `storage`'s, the others are of socket activation."""
        self._lending = lending
        self._poller = poller
        self._log = log
        self._inherited = {
            descriptor: (local_address(descriptor), name)
            for descriptor, name in inherited.items()
            if not is_stored(name)
        }
        self._storage = storage
        self._next_slot: dict[str, int] = {}
        self._slots = 0
        self._leaving: dict[Listener, Leaving] = {}
        lending.leaving = self._leaving
        self._immovable: set[Listener] = set()
        self.exclusive = True
        """Refuse addresses somebody else listens on; False while workers of a killed predecessor still do."""
        self.on_closed: Callable[[Listener, int], None] = lambda listener, lost: None
        """A listener has been closed, and so many connections in its queue were lost."""

    # ---- another keeper

    def take_over(self, listener_id: str, address: str, held: dict[int, int]) -> None:
        """Go on with a listener that workers of a killed keeper gave back: descriptors by slot number.

        A slot that they do not have was held by one that is dead too; the service manager may have it. Closed sockets of a
        group have let others take their places, unless they were the last. One that was closing goes on closing: it is
        theirs alone.
        """
        self._storage.claim(listener_id, address, held)
        numbers = sorted(held)
        descriptors = [held[number] for number in numbers]
        regular = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if any(steering.refuses(descriptor) for descriptor in descriptors):
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if not regular:
            self._storage.forget_numbers(listener_id, numbers)
        first = numbers[0] if regular else numbers[-1] + 1
        listener = adopt_listener(listener_id, address, descriptors, first)
        listener.ordered = regular and not numbers[0]
        self._reserve(listener)
        self._lending.listeners[listener.id, listener.address] = listener
        self._lending.listening.add((listener.id, listener.address))

    def is_quiet(self) -> bool:
        """Whether no listener is closing or changing."""
        return (
            not self._leaving
            and self._storage.is_quiet()
            and set(self._lending.listeners) == self._lending.listening
            and not any(listener.closing for listener in self._lending.listeners.values())
        )

    def describe(self, document: Document) -> dict[str, Any]:
        """Return what the program that takes this process's place needs to go on. `is_quiet` has to be true."""
        return {
            "next_slot": self._next_slot,
            "slots": self._slots,
            "inherited": [[document.keep(fd), address, name] for fd, (address, name) in self._inherited.items()],
            "storage": self._storage.describe(),
        }

    def restore(self, before: dict[str, Any]) -> None:
        """Go on from what `describe` returned before an execve."""
        self._next_slot, self._slots = before["next_slot"], before["slots"]
        self._inherited = {fd: (address, name) for fd, address, name in before["inherited"]}
        for descriptor in self._inherited:
            os.set_inheritable(descriptor, False)
        self._storage.restore(before["storage"])

    # ---- what the master asks for

    def bind(self, wanted: list[dict[str, Any]], slot_count: int) -> list[dict[str, str]]:
        """Open the listeners that are not open yet: all, or none and a list of problems (id, address, message,
        remedy)."""
        self._slots = slot_count
        opened: list[Listener] = []
        problems = []
        for entry in wanted:
            key = (entry["id"], entry["address"])
            known = self._lending.listeners.get(key)
            if known is not None and not known.closing:
                continue
            try:
                opened.append(self._open(*key))
            except BindError as error:
                problem = {"id": key[0], "address": key[1], "message": str(error), "remedy": error.remedy}
                problems.append(problem)
        if problems:
            for listener in opened:
                self._abandon(listener)
            return problems
        for listener in opened:
            self._lending.listeners[listener.id, listener.address] = listener
            self._log.info("listening", listener=listener.id, address=listener.address, slots=len(listener.descriptors))
        return []

    def listen(self, wanted: list[dict[str, Any]]) -> None:
        """Lend out the slots of these listeners; the others that are open stay as they are."""
        keys = [(entry["id"], entry["address"]) for entry in wanted]
        self._lending.listening.update(keys)
        self._lending.rebalance()
        for before in (*self._lending.listeners.values(), *self._leaving):
            if before.heir is not None:
                self._storage.forget(before)  # the same sockets come under another name
        self._storage.close_unclaimed()
        for key in keys:
            self._storage.keep(self._lending.listeners[key])
        self.fit()

    def unbind(self, unwanted: list[dict[str, Any]]) -> None:
        """Close listeners without losing a connection in their queues, beside everything else; `on_closed` tells of each.

        New connections are refused, the workers go on accepting until the queues are proven empty, then give the slots
        back, then the keeper closes its copies. What is still queued after EMPTYING_MAX_S is lost.
        """
        keys = [(entry["id"], entry["address"]) for entry in unwanted]
        for key in keys:
            listener = self._lending.listeners.get(key)
            if listener is not None and not listener.closing:
                self._close(listener, self._closed)

    def close_all(self, done: Callable[[], None]) -> None:
        """Close every listener as `unbind` does, then call `done`. Where the service manager holds the sockets for a
        keeper that follows at once, their queues are left to it."""
        remaining = {listener for listener in self._lending.listeners.values() if not listener.closing}
        for listener in list(remaining) if self._storage.restarting() else ():
            if self._storage.holds(listener):
                self._log.info("its clients wait for the restart", listener=listener.id, address=listener.address)
                listener.leave_file()
                remaining.discard(listener)

        def closed(leaving: Leaving) -> None:
            self._closed(leaving)
            remaining.discard(leaving.listener)
            if not remaining:
                done()

        if not remaining:
            done()
        for listener in list(remaining):
            self._close(listener, closed)

    def forget_unused(self) -> None:
        """Close what a master had bound but died before using: nobody would accept there."""
        for key, listener in list(self._lending.listeners.items()):
            if key not in self._lending.listening and not listener.closing:
                self._abandon(listener)
                del self._lending.listeners[key]

    # ---- the number of slots

    def resize(self, slot_count: int) -> None:
        """Take over how many slots the settings want for each listener (0: as many as are good)."""
        self._slots = slot_count
        self.fit()

    def fit(self) -> None:
        """Give every listener in use the number of slots that settings and workers ask for. One that is to have more has
        them at once; slots that are too many leave when their queues are empty."""
        newest: dict[str, int] = {}
        for listener in self._lending.listeners.values():
            newest[listener.id] = max(newest.get(listener.id, 0), listener.first_slot)
        for key in sorted(self._lending.listening):
            listener = self._lending.listeners[key]
            # One that moves to another address is two for a moment: the numbers after the older one's are not free.
            moving = listener.first_slot < newest[listener.id]
            if not (listener.closing or listener.shared or listener.heir is not None or moving):
                wanted = max(slots.slot_count(self._lending.target, self._slots), listener.inherited)
                if wanted != listener.kept:
                    self._fit(listener, wanted)

    def _fit(self, listener: Listener, wanted: int) -> None:
        leaving = self._leaving.pop(listener, None)
        if leaving is not None:
            leaving.stop()
            if wanted > listener.kept:
                listener.keep_all()
        if wanted > len(listener.descriptors):
            self._grow(listener, wanted)
        elif wanted < len(listener.descriptors):
            self._shrink(listener, wanted)
        self._lending.rebalance()

    def _grow(self, listener: Listener, wanted: int) -> None:
        try:
            listener.grow(wanted)
        except BindError as error:
            self._log.error(
                "a listener cannot have more slots; it goes on with those it has",
                listener=listener.id,
                slots=len(listener.descriptors),
                problem=str(error),
                remedy=error.remedy,
            )
            return
        self._reserve(listener)
        self._storage.keep(listener)
        self._log.info("slots opened", listener=listener.id, address=listener.address, slots=wanted)

    def _shrink(self, listener: Listener, wanted: int) -> None:
        """A group with a stranger in it is not in the order of our slots, nor is it when he has left."""
        if not (listener.ordered and self.exclusive):
            if listener not in self._immovable:
                self._immovable.add(listener)
                self._log.warning(
                    "a listener cannot have fewer slots while it shares its address with sockets of others",
                    listener=listener.id,
                    slots=len(listener.descriptors),
                )
            return
        leaving = Leaving(listener, wanted, self._lending, self._poller, self._storage)
        if leaving.begin(self._shrunk):
            self._leaving[listener] = leaving

    def _shrunk(self, leaving: Leaving) -> None:
        listener = leaving.listener
        del self._leaving[listener]
        listener.shrink()
        count = len(listener.descriptors)
        self._log.info("slots closed", listener=listener.id, address=listener.address, slots=count)
        self.fit()

    # ---- parts

    def _close(self, listener: Listener, done: Callable[[Leaving], None]) -> None:
        shrinking = self._leaving.pop(listener, None)
        if shrinking is not None:
            shrinking.stop()
        listener.closing = True
        # What the service manager listens on goes on accepting: its clients wait for a listener to come.
        leaving = Leaving(listener, listener.inherited, self._lending, self._poller, self._storage)
        self._leaving[listener] = leaving
        leaving.begin(done, EMPTYING_MAX_S if self._lending.has_workers else 0.0)
        self._lending.rebalance()  # a queue whose worker is dead has to be emptied by another

    def _closed(self, leaving: Leaving) -> None:
        listener, lost = leaving.listener, leaving.lost()
        self._leaving.pop(listener, None)
        self._immovable.discard(listener)
        key = (listener.id, listener.address)
        listener.close()
        if self._lending.listeners.get(key) is listener:
            del self._lending.listeners[key]
            self._lending.listening.discard(key)
        self._log.info("listener closed", listener=listener.id, address=listener.address, connections_lost=lost)
        self.on_closed(listener, lost)

    def _abandon(self, listener: Listener) -> None:
        """Give up a listener that was never lent. Its predecessor goes on, or closes after all."""
        before = self._predecessor(listener)
        if before is None:
            listener.close()
            return
        before.disinherit()
        leaving = self._leaving.get(before)
        if leaving is not None:
            leaving.again()
        else:
            before.keep_all()
            self.fit()

    def _predecessor(self, listener: Listener) -> Listener | None:
        known = [*self._lending.listeners.values(), *self._leaving]
        return next((other for other in known if other.heir is listener), None)

    def _open(self, listener_id: str, address: str) -> Listener:
        first = self._next_slot.get(listener_id, 0)
        known = [*self._lending.listeners.values(), *self._leaving]
        ours = [one for one in known if same_address(one.address, address)]
        same = next((one for one in ours if one.heir is None and not one.closing), None)
        if same is None:
            listener = self._bind(listener_id, address, first, ours)
        else:
            if same in self._leaving:
                self._leaving.pop(same).stop()
            listener = same.bequeath(listener_id, address, first)
        self._reserve(listener)
        return listener

    def _bind(self, listener_id: str, address: str, first: int, closing: list[Listener]) -> Listener:
        """Bind an address, which listeners of ours may have that are closing: those refuse connections."""
        stored = self._storage.take(listener_id, address, first)
        if stored is not None:
            return adopt_listener(listener_id, address, stored[1], stored[0])
        matching = [
            descriptor
            for descriptor, (bound, name) in self._inherited.items()
            if same_address(bound, address) or name == listener_id
        ]
        return open_listener(
            listener_id,
            address,
            slots.slot_count(self._lending.target, self._slots),
            first_slot=first,
            # systemd's sockets stay open here, so that a listener can be removed and come back
            inherited=[os.dup(descriptor) for descriptor in matching],
            exclusive=self.exclusive and not closing,
            ordered=self.exclusive and not any(listener.inherited for listener in closing),
        )

    def _reserve(self, listener: Listener) -> None:
        numbers = listener.slot_numbers()
        self._next_slot[listener.id] = max(self._next_slot.get(listener.id, 0), numbers.stop)
