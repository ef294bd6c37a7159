"""Listeners coming and going while the rest serves: the keeper's side of `bind`, `listen` and `unbind`."""

from __future__ import annotations

import os
import time

from bascule.process import slots
from bascule.process.listeners import EMPTYING_MAX_S, BindError, Listener, local_address, open_listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bascule.process.lending import Lending
    from bascule.process.log import Log
    from bascule.process.poller import Poller

QUIET_S = 0.3
"""A queue has to stay empty this long: handshakes under way when it was closed have then ended, or taken over a round
trip."""

_LOOK_S = 0.02


class Rebinding:
    """Opens and closes listeners that are lent out."""

    def __init__(self, lending: Lending, poller: Poller, log: Log, inherited: dict[int, str]) -> None:
        """`inherited` are the descriptors of socket activation and their names."""
        self._lending = lending
        self._poller = poller
        self._log = log
        self._inherited = {descriptor: (local_address(descriptor), name) for descriptor, name in inherited.items()}
        self._next_slot: dict[str, int] = {}
        self.exclusive = True
        """Refuse addresses somebody else listens on; False while workers of a killed predecessor still do."""

    def bind(self, wanted: list[dict[str, Any]], slot_count: int) -> list[dict[str, str]]:
        """Open the listeners that are not open yet: all, or none and a list of problems (id, address, message,
        remedy)."""
        opened: list[Listener] = []
        problems = []
        for entry in wanted:
            key = (entry["id"], entry["address"])
            known = self._lending.listeners.get(key)
            if known is not None and not known.closing:
                continue
            try:
                opened.append(self._open(*key, slot_count))
            except BindError as error:
                problem = {"id": key[0], "address": key[1], "message": str(error), "remedy": error.remedy}
                problems.append(problem)
        if problems:
            for listener in opened:
                listener.close()
            return problems
        for listener in opened:
            self._lending.listeners[listener.id, listener.address] = listener
            self._log.info("listening", listener=listener.id, address=listener.address, slots=len(listener.descriptors))
        return []

    def listen(self, wanted: list[dict[str, Any]]) -> None:
        """Lend out the slots of these listeners; the others that are open stay as they are."""
        self._lending.listening.update((entry["id"], entry["address"]) for entry in wanted)
        self._lending.rebalance()

    def unbind(self, unwanted: list[dict[str, Any]], done: Callable[[int], None]) -> None:
        """Close listeners without losing a connection in their queues, then call `done(lost)`.

        New handshakes stop, the workers go on accepting until every queue has been empty for QUIET_S, then give the
        slots back, then the keeper closes its copies. `lost` counts the connections still queued after EMPTYING_MAX_S.
        """
        keys = [(entry["id"], entry["address"]) for entry in unwanted]
        self.close([self._lending.listeners[key] for key in keys if key in self._lending.listeners], QUIET_S, done)

    def close(self, closing: list[Listener], quiet_s: float, done: Callable[[int], None]) -> None:
        """Close these listeners as `unbind` does, with another length of quiet."""
        for listener in closing:
            listener.closing = True
            if not listener.bequeathed:
                listener.stop_handshakes()
        if not closing:
            done(0)
            return
        now = time.monotonic()
        deadline_s = now + (EMPTYING_MAX_S if self._lending.has_workers else 0.0)
        self._await_empty(closing, quiet_s, now, deadline_s, done)

    def _await_empty(
        self, closing: list[Listener], quiet_s: float, since_s: float, deadline_s: float, done: Callable[[int], None]
    ) -> None:
        now = time.monotonic()
        if sum(listener.queued() for listener in closing if not listener.bequeathed):
            since_s = now
        if now - since_s < quiet_s and now < deadline_s:
            self._poller.call_later(_LOOK_S, lambda: self._await_empty(closing, quiet_s, since_s, deadline_s, done))
            return
        for listener in closing:
            self._lending.take_back(listener)
        self._await_returned(closing, deadline_s, done)

    def _await_returned(self, closing: list[Listener], deadline_s: float, done: Callable[[int], None]) -> None:
        if time.monotonic() < deadline_s and any(self._lending.holders(listener) for listener in closing):
            self._poller.call_later(_LOOK_S, lambda: self._await_returned(closing, deadline_s, done))
            return
        lost = sum(listener.queued() for listener in closing)
        for listener in closing:
            listener.close()
            key = (listener.id, listener.address)
            if self._lending.listeners.get(key) is listener:
                del self._lending.listeners[key]
                self._lending.listening.discard(key)
            self._log.info("listener closed", listener=listener.id, address=listener.address, connections_lost=lost)
        done(lost)

    def forget_unused(self) -> None:
        """Close what a master had bound but died before using: nobody would accept there."""
        for key, listener in list(self._lending.listeners.items()):
            if key not in self._lending.listening and not listener.closing:
                listener.close()
                del self._lending.listeners[key]

    def _open(self, listener_id: str, address: str, slot_count: int) -> Listener:
        first = self._next_slot.get(listener_id, 0)
        same = next((other for other in self._lending.listeners.values() if other.address == address), None)
        if same is not None and not same.closing:
            listener = same.bequeath(listener_id, first)
        else:
            matching = [fd for fd, (bound, name) in self._inherited.items() if bound == address or name == listener_id]
            listener = open_listener(
                listener_id,
                address,
                slot_count or slots.slot_count(self._lending.target),
                first_slot=first,
                # systemd's sockets stay open here, so that a listener can be removed and come back
                inherited=[os.dup(descriptor) for descriptor in matching],
                exclusive=self.exclusive,
            )
        self._next_slot[listener_id] = first + len(listener.descriptors)
        return listener
