"""The service manager's file descriptor store (sd_notify(3): FDSTORE): it holds the listening sockets beside the keeper.

A socket lives as long as anybody has it, and with it the clients in its queue: they survive a keeper that is killed and a
`systemctl restart`. The next keeper gets the sockets back as descriptors (LISTEN_FDS), by the names they were stored
under: "slot.NUMBER.LISTENER".
"""

from __future__ import annotations

import os
import time

from bascule.process import addresses, listeners, steering, systemd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bascule.process.listeners import Listener
    from bascule.process.log import Log
    from bascule.process.poller import Poller
    from bascule.process.systemd import Notifier

PREFIX = "slot."
NAMES_BYTES_MAX = 96 * 1024
"""All names together. The next keeper gets them in one variable of its environment, which the kernel bounds to 128 KiB:
with a longer one it could not be started."""

RESTART = "restart"
"""The type of the manager's job while it stops a service in order to start it again."""

SETTLED_MAX_S = 5.0
_AGAIN_S = 0.02


class Storage:
    """What the manager holds for this keeper. Without a manager, or where its store is closed, all of it does nothing."""

    def __init__(
        self, notifier: Notifier, poller: Poller, log: Log, inherited: Mapping[int, str], directory: str = ""
    ) -> None:
        """`inherited` are the descriptors the manager gave us, and their names: those of other names are left alone.
        `directory` is that of the state."""
        self._notifier = notifier
        self._poller = poller
        self._log = log
        self._directory = directory
        places = os.environ.pop("FDSTORE", "")  # systemd 254 says how many; with older ones the unit has to
        self._places = int(places) if places.isdigit() and notifier.listens else 0
        self._found = {name: descriptor for descriptor, name in inherited.items() if is_stored(name)}
        self._kept = set(self._found)
        self._names_bytes = sum(len(name) + 1 for name in self._kept)
        self._outbox: list[tuple[tuple[str, ...], list[int]]] = []
        self._barriers: list[tuple[int, float]] = []
        self._full = False

    def describe(self) -> dict[str, Any]:
        """Return what the program that takes this process's place needs to go on. `is_quiet` has to be true."""
        return {"kept": sorted(self._kept), "places": self._places}

    def restore(self, before: dict[str, Any]) -> None:
        """Go on from what `describe` returned before an execve."""
        self._kept, self._places = set(before["kept"]), before["places"]
        self._names_bytes = sum(len(name) + 1 for name in self._kept)

    def is_quiet(self) -> bool:
        """Whether nothing is on its way to the manager, and every stored socket has its listener."""
        return not self._outbox and self.settled() and not self._found

    # ---- what there was before this keeper

    def take(self, listener_id: str, address: str, first_slot: int) -> tuple[int, list[int]] | None:
        """Return the stored sockets of an address and the number of the first, None when there are none.

        They are in the order of their numbers, which is that of the kernel's group. Stored under another id, or with
        numbers missing, they are stored anew, from `first_slot` on.
        """
        mine = sorted(
            (*parsed, name)
            for name, descriptor in self._found.items()
            if (parsed := _parsed(name)) and listeners.same_address(listeners.local_address(descriptor), address)
        )
        # Of a keeper that was killed while it closed them, or removed the file when it ended, nothing can be used.
        if not mine or _without_file(address) or any(steering.refuses(self._found[name]) for _, _, name in mine):
            return None
        descriptors = [self._found.pop(name) for _, _, name in mine]
        numbers = [number for number, _, _ in mine]
        regular = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if regular and all(name == listener_id for _, name, _ in mine):
            return numbers[0], descriptors
        for _, _, name in mine:
            self._remove(name)
        return first_slot, descriptors

    def claim(self, listener_id: str, address: str, held: dict[int, int]) -> None:
        """Add the stored sockets of a listener to those that are known by their slot numbers already."""
        for name, descriptor in list(self._found.items()):
            parsed = _parsed(name)
            if parsed is None or parsed[1] != listener_id:
                continue
            if not listeners.same_address(listeners.local_address(descriptor), address):
                continue
            del self._found[name]
            if held.setdefault(parsed[0], descriptor) != descriptor:
                os.close(descriptor)

    def close_unclaimed(self) -> None:
        """Close stored sockets of addresses that the configuration no longer has: nobody would accept there."""
        for name, descriptor in self._found.items():
            self._log.warning("a stored socket belongs to no listener any more, and is closed", name=name)
            os.close(descriptor)
            self._remove(name)
        self._found.clear()

    # ---- the end of this keeper

    def restarting(self) -> bool:
        """Tell, of a keeper that was sent TERM, whether the manager will start a next one and give it the sockets."""
        return bool(self._kept) and systemd.job_under_way(self._directory) == RESTART

    def holds(self, listener: Listener) -> bool:
        """Whether every socket of a listener outlives this keeper."""
        own = listener.slot_numbers()[listener.inherited :]
        return all(f"{PREFIX}{number}.{listener.id}" in self._kept for number in own)

    # ---- what there is

    def keep(self, listener: Listener) -> None:
        """Have the manager hold every slot that it does not hold yet."""
        if not self._places:
            return
        for number, descriptor in list(zip(listener.slot_numbers(), listener.descriptors, strict=True))[
            listener.inherited :
        ]:
            name = f"{PREFIX}{number}.{listener.id}"
            if name in self._kept:
                continue
            if len(self._kept) >= self._places or self._names_bytes + len(name) + 1 > NAMES_BYTES_MAX:
                self._say_full()
                return
            self._kept.add(name)
            self._names_bytes += len(name) + 1
            # FDPOLL=0: it stays until we say otherwise.
            self._send(("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0"), [descriptor])

    def forget(self, listener: Listener, first: int = 0) -> None:
        """Have the manager close the slots from place `first` on; `settled` tells when it has."""
        self.forget_numbers(listener.id, listener.slot_numbers()[first:])

    def forget_numbers(self, listener_id: str, numbers: Sequence[int]) -> None:
        """Have the manager close the slots of these numbers."""
        removed = [name for number in numbers if (name := f"{PREFIX}{number}.{listener_id}") in self._kept]
        for name in removed:
            self._remove(name)
        if removed:
            self._raise_barrier()

    def settled(self) -> bool:
        """Whether the manager has closed everything that was forgotten, as far as it tells."""
        now_s = time.monotonic()
        still = []
        for descriptor, since_s in self._barriers:
            if now_s - since_s < SETTLED_MAX_S and not _ended(descriptor):
                still.append((descriptor, since_s))
            else:
                os.close(descriptor)
        self._barriers = still
        return not still

    def _remove(self, name: str) -> None:
        if name in self._kept:
            self._kept.discard(name)
            self._names_bytes -= len(name) + 1
            self._full = False
            self._send(("FDSTOREREMOVE=1", f"FDNAME={name}"), [])

    def _raise_barrier(self) -> None:
        """sd_notify_barrier(3): the manager closes this pipe when it has read everything before."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._send(("BARRIER=1",), [writing])
        os.close(writing)
        self._barriers.append((reading, time.monotonic()))

    def _send(self, assignments: tuple[str, ...], descriptors: list[int]) -> None:
        if self._outbox or not self._notifier.send_now(assignments, descriptors):
            if not self._outbox:
                self._poller.call_later(_AGAIN_S, self._flush)
            self._outbox.append((assignments, [os.dup(descriptor) for descriptor in descriptors]))

    def _flush(self) -> None:
        while self._outbox:
            if not self._notifier.send_now(*self._outbox[0]):
                self._poller.call_later(_AGAIN_S, self._flush)
                return
            for descriptor in self._outbox.pop(0)[1]:
                os.close(descriptor)

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            self._log.warning(
                "the service manager holds no more sockets for us: a restart loses the queues of the rest",
                stored=len(self._kept),
                remedy="raise FileDescriptorStoreMax= (and FDSTORE= beside it) in the unit, or have fewer slots",
            )


def is_stored(name: str) -> bool:
    """Whether a descriptor of this name comes from the store, and is a slot."""
    return _parsed(name) is not None


def _parsed(name: str) -> tuple[int, str] | None:
    """Return number and listener of a name that is one of ours."""
    number, _, listener = name.removeprefix(PREFIX).partition(".")
    if not name.startswith(PREFIX) or not number.isdigit() or not listener:
        return None
    return int(number), listener


def _without_file(address: str) -> bool:
    """Whether this is a Unix address to which nobody can connect: its last keeper removed the file when it ended."""
    return address.startswith(addresses.UNIX_PREFIX) and not os.path.exists(address[len(addresses.UNIX_PREFIX) :])


def _ended(descriptor: int) -> bool:
    try:
        return not os.read(descriptor, 1)
    except BlockingIOError:
        return False
