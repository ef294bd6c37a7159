"""Who holds which slot: listening sockets lent to the workers of one generation, or to two of them for a moment.

A slot in use is never without a holder while any worker lives: it is lent to the new holder first, and taken back from
the old one when the new one says that it accepts. Two holders for a moment do no harm, none for a moment delays
connections.

A hot upgrade is the same thing for all slots at once. `lend_beside` lends them to the workers of another crew as well,
`commit` makes that crew the one that serves, `abandon` takes everything back from it.
"""

from __future__ import annotations

from bascule.process import link as links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bascule.process.crew import Crew
    from bascule.process.listeners import Listener
    from bascule.process.member import Worker

    Key = tuple[str, str]


class Lending:
    """All listeners of a keeper, the crews there are, and which of them serves."""

    def __init__(self) -> None:
        """See the class."""
        self.listeners: dict[Key, Listener] = {}
        self.listening: set[Key] = set()
        self.leaving: Mapping[Listener, object] = {}
        """Listeners of which slots leave, or all: the rebinding's."""
        self.crews: list[Crew] = []
        self.active: Crew | None = None
        self._beside: Crew | None = None
        self._planned: dict[Key, list[int | None]] = {}

    # ---- the crew that serves

    def rebalance(self) -> None:
        """Lend every slot in use to a serving worker of the active crew, evenly, moving as few as possible."""
        assert self.active is not None
        serving = [worker.number for worker in self.active.serving()]
        if not serving:
            return
        for listener in (*(self.listeners[key] for key in sorted(self.listening)), *self._replaced()):
            if listener.shared:
                self._lend_shared(listener, self.active)
                continue
            wanted = listener.assign(serving)
            before, listener.owners = listener.owners, wanted
            self._lend_changed(self.active, listener, before, wanted)
        for worker in self.active.retiring():
            self._relieve_shared(worker)

    def in_use(self) -> list[Key]:
        """Return id and address of every listener that is lent out and stays."""
        return [key for key in sorted(self.listening) if not self.listeners[key].closing]

    def complete(self) -> bool:
        """Whether every worker that is to serve does, and accepts on every slot it was lent."""
        crew = self.active
        if crew is None or not crew.is_complete():
            return False
        return all(self._held(crew, self.listeners[key], self.listeners[key].owners) for key in self.listening)

    def accepting(self, worker: Worker, listener_id: str, numbers: Iterable[int]) -> None:
        """A worker accepts on these slots: take them back from whoever had them, unless two crews are to have them."""
        worker.holding.update((listener_id, number) for number in numbers)
        if worker.crew is self._beside:
            return
        for other in self._workers():
            if other is worker or other.crew is self._beside:
                continue
            superseded = [
                number
                for number in numbers
                if (listener_id, number) in other.holding and self._owner(listener_id, number) == worker.number
            ]
            self._take_back(other, listener_id, superseded)
        # The slot may have been given to a third worker since it was lent to this one.
        stale = [n for n in numbers if self._owner(listener_id, n) not in {worker.number, None}]
        self._take_back(worker, listener_id, [n for n in stale if self._held_by_owner(listener_id, n)])

    def disown(self, worker: Worker) -> None:
        """A worker is dead: its slots have no owner."""
        for listener in (*self.listeners.values(), *self._replaced()):
            listener.owners = [None if owner == worker.number else owner for owner in listener.owners]

    def owns(self, worker: Worker) -> bool:
        """Whether slots are assigned to a worker."""
        return any(worker.number in listener.owners for listener in self.listeners.values())

    # ---- slots that leave

    def take_back(self, listener: Listener) -> None:
        """Take the slots of a listener that are to be given back from everybody who has them."""
        numbers = list(listener.given_back_numbers())
        for worker in self._workers():
            if worker.link.fileno() >= 0:
                worker.tell({"type": "take_back", "listener": listener.id, "slots": numbers})

    def holders(self, listener: Listener) -> int:
        """Return how many workers have not yet given back slots of a listener that they are to give back."""
        numbers = listener.given_back_numbers()
        return sum(
            any(held == listener.id and number in numbers for held, number in worker.holding)
            for worker in self._workers()
        )

    def held(self, listener: Listener) -> bool:
        """Whether every slot of a listener that is to be held is held by a worker."""
        held = {number for worker in self._workers() for name, number in worker.holding if name == listener.id}
        return held.issuperset(listener.lendable_numbers())

    @property
    def has_workers(self) -> bool:
        """Whether there is anybody who can empty a queue."""
        return any(True for _ in self._workers())

    @property
    def target(self) -> int:
        """How many workers are to share the slots."""
        return self.active.target if self.active is not None else 0

    # ---- two crews

    def lend_beside(self, crew: Crew) -> None:
        """Lend every slot in use to the serving workers of another crew too."""
        self._beside, self._planned = crew, {}
        serving = [worker.number for worker in crew.serving()]
        for key in sorted(self.listening):
            listener = self.listeners[key]
            if listener.shared:
                self._planned[key] = []
                self._lend_shared(listener, crew)
                continue
            nobody: list[int | None] = [None] * len(listener.owners)
            self._planned[key] = listener.assign(serving, nobody)
            self._lend_changed(crew, listener, nobody, self._planned[key])

    def beside_complete(self) -> bool:
        """Whether every worker of the other crew accepts on every slot it was lent."""
        crew = self._beside
        return crew is not None and all(
            self._held(crew, self.listeners[key], planned) for key, planned in self._planned.items()
        )

    def commit(self) -> None:
        """Make the other crew the one that serves, and take every slot back from all others."""
        assert self._beside is not None
        for key, planned in self._planned.items():
            if planned:
                self.listeners[key].owners = planned
        self.active, self._beside, self._planned = self._beside, None, {}
        self.rebalance()
        for worker in self._workers():
            if worker.crew is not self.active:
                self.relieve(worker)

    def abandon(self) -> None:
        """Take back what was lent to the other crew."""
        crew, self._beside, self._planned = self._beside, None, {}
        for worker in list(crew.workers.values()) if crew is not None else ():
            self.relieve(worker)

    def relieve(self, worker: Worker) -> None:
        """Take back every slot that a worker holds."""
        held: dict[str, list[int]] = {}
        for listener_id, number in sorted(worker.holding):
            held.setdefault(listener_id, []).append(number)
        for listener_id, numbers in held.items():
            self._take_back(worker, listener_id, numbers)

    # ---- parts

    def _replaced(self) -> list[Listener]:
        """Return listeners that close while another has their id and address already: their queues are to be emptied."""
        known = set(self.listeners.values())
        return [listener for listener in self.leaving if listener not in known]

    def _workers(self) -> Iterator[Worker]:
        for crew in self.crews:
            yield from list(crew.workers.values())

    def _held(self, crew: Crew, listener: Listener, owners: list[int | None]) -> bool:
        serving = crew.serving()
        for place, number in enumerate(listener.lendable_numbers()):
            holders = serving if listener.shared else [worker for worker in serving if worker.number == owners[place]]
            if not holders or any((listener.id, number) not in worker.holding for worker in holders):
                return False
        return True

    def _lend_changed(self, crew: Crew, listener: Listener, before: list[int | None], wanted: list[int | None]) -> None:
        moves: dict[int, list[tuple[int, int]]] = {}
        for place, owner in enumerate(wanted):
            if owner is not None and owner != before[place]:
                moves.setdefault(owner, []).append((listener.first_slot + place, listener.descriptors[place]))
        for number, moved in moves.items():
            _lend(crew.workers[number], listener, moved)

    def _lend_shared(self, listener: Listener, crew: Crew) -> None:
        slot = listener.first_slot
        for worker in crew.serving() if listener.lendable else ():
            if (listener.id, slot) not in worker.holding:
                _lend(worker, listener, [(slot, listener.descriptors[0])])

    def _relieve_shared(self, worker: Worker) -> None:
        for listener in self.listeners.values():
            if listener.shared and (listener.id, listener.first_slot) in worker.holding:
                self._take_back(worker, listener.id, [listener.first_slot])

    def _take_back(self, worker: Worker, listener_id: str, numbers: list[int]) -> None:
        if numbers:
            worker.tell({"type": "take_back", "listener": listener_id, "slots": numbers})

    def _held_by_owner(self, listener_id: str, number: int) -> bool:
        owner = self._owner(listener_id, number)
        return any(worker.number == owner and (listener_id, number) in worker.holding for worker in self._workers())

    def _owner(self, listener_id: str, number: int) -> int | None:
        for listener in (*self.listeners.values(), *self._replaced()):
            if listener.id == listener_id and number in listener.slot_numbers() and not listener.shared:
                return listener.owners[number - listener.first_slot]
        return None


def _lend(worker: Worker, listener: Listener, moved: list[tuple[int, int]]) -> None:
    for batch in links.batches(moved):
        numbers = [number for number, _ in batch]
        message = {"type": "lend", "listener": listener.id, "address": listener.address, "slots": numbers}
        worker.tell(message, [descriptor for _, descriptor in batch])
