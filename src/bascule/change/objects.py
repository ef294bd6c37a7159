"""The object table: what the store says of every object, and what of it is in force.

The two are the same but for a few objects, and only those have a `Standing`: waiting for another object, quarantined, or
held by a gate. A batch of events costs what its keys cost, whatever else is in the table:

    events -> ledger -> examine -> settle, owners before what stands below or leads to them -> edits

    in order        stored form in force
    waiting         owner or backend is not there; a frontend that was in force keeps the backend it had, if that is there
    quarantined     stored form refused, last good form in force

What a gate holds never gets here: the ledger goes on saying that it is stored.

An edit is given only when what is in force becomes something else: order of keys, blanks, and defaults written out are no
difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bascule.change.clashes import clashes
from bascule.change.edits import Edit
from bascule.change.examine import Examined, decode_record, examine, tree_of
from bascule.change.ledger import Ledger, owner_of
from bascule.change.live import ObjectState
from bascule.change.loading import load, place
from bascule.change.standing import Standing, no_room, waits
from bascule.change.users import Users
from bascule.model import limits
from bascule.model.keys import SETTINGS, ObjectKey, parse_key
from bascule.model.problems import Problem
from bascule.model.tree import ConcurrencyLimit, Frontend, Listener, Record, Server, Settings, Tree
from bascule.store.interface import Entry, Event

_RANKS: Final = {"settings": 0, "listener": 1, "host": 2, "backend": 3, "server": 4, "frontend": 5, "middleware": 6}
_BELOW_MAX: Final = {"server": limits.SERVERS_PER_BACKEND_MAX, "middleware": limits.MIDDLEWARES_PER_FRONTEND_MAX}


class Changes(msgspec.Struct, gc=False):
    """What a batch of events does to what is in force."""

    revision: int
    edits: list[Edit]
    before: dict[str, bytes | None]
    """Of every key with an edit: the form that was in force."""
    rewritten: list[str] = []
    """Keys in force whose stored text differs now and whose meaning does not."""
    settings: Settings | None = None
    """The program's settings, when they changed."""
    listeners: bool = False
    """Whether any listener's edit is among them."""
    standing: list[str] = []
    """Keys whose state became another one."""


class _Work:
    """One batch on its way through the ranks."""

    __slots__ = ("before", "changes", "examined", "queues")

    def __init__(self, revision: int, examined: Examined) -> None:
        self.examined = examined
        self.changes = Changes(revision, [], {}, rewritten=[], standing=[])
        self.before: dict[str, bytes | None] = {}
        self.queues: list[set[str]] = [set() for _ in _RANKS]


class ObjectTable:
    """Everything stored, and everything in force. Owner: the master's event loop."""

    def __init__(self, settings: Settings | None = None) -> None:
        """`settings` hold while the store has none."""
        self.identity = ""
        self.revision = 0
        self._settings = settings or Settings()
        self._ledger = Ledger()
        self._standings: dict[str, Standing] = {}
        self._waiters: dict[str, set[str]] = {}
        self._users = Users()
        self._listeners: dict[str, Listener] = {}
        """In force, by id."""
        self._counted: Counter[str] = Counter()
        """Objects in force, by kind."""
        self._loaded: Tree | None = None
        """The tree while it is what was loaded: a start asks for it several times."""
        self._unfilled: Mapping[str, Entry] | None = None
        """Entries that are in `_loaded` and not yet in the ledger: a start serves before it needs them there."""

    # ---- what is asked of it

    @property
    def ledger(self) -> Ledger:
        """What the store says; right after `load`, asking for it costs 1 us an entry."""
        self._fill()
        return self._ledger

    def _fill(self) -> None:
        if self._unfilled is not None:
            entries, self._unfilled = self._unfilled, None
            assert self._loaded is not None
            self._ledger.fill(entries)
            self._users.fill(self._loaded.frontends)

    def settings(self) -> Settings:
        """Return the settings in force: those stored, or those that hold while there are none."""
        if self._loaded is not None:
            return self._loaded.settings
        record = self.record(SETTINGS)
        return record if isinstance(record, Settings) else self._settings

    def in_force(self, key: str) -> bytes | None:
        """Return the form of an object that is in force, None when none is."""
        standing = self._standings.get(key)
        return self.ledger.value(key) if standing is None else standing.good

    def record(self, key: str) -> Record | None:
        """Return the decoded form of an object that is in force."""
        value = self.in_force(key)
        parsed = parse_key(key)
        return None if value is None or parsed is None else decode_record(parsed, value)

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over all objects in force (key, value)."""
        for key in self.ledger:
            value = self.in_force(key)
            if value is not None:
                yield key, value

    def tree(self) -> Tree:
        """Return what is in force as a tree."""
        if self._loaded is not None:
            return self._loaded
        records: list[tuple[str, Record]] = []
        for key, value in self.forms():
            parsed = parse_key(key)
            if parsed is not None:
                records.append((key, decode_record(parsed, value)))
        tree = tree_of(records, stand_ins=False)
        return tree if self.in_force(SETTINGS) is not None else msgspec.structs.replace(tree, settings=self._settings)

    def __contains__(self, key: object) -> bool:
        """Tell whether an object is in force."""
        return isinstance(key, str) and self.in_force(key) is not None

    def servers(self, backend: str) -> dict[str, bool]:
        """Return the servers in force of a backend, by id, and whether each takes traffic (state `up`, weight over 0)."""
        found = {}
        for key in self.ledger.below(f"backends/{backend}"):
            record = self.record(key)
            if isinstance(record, Server):
                found[key.rpartition("/")[2]] = record.state == "up" and record.weight > 0
        return found

    def count(self, kind: str) -> int:
        """Return how many objects of a kind are in force."""
        return self._counted[kind]

    def backend_of(self, frontend: str) -> str:
        """Return the id of the backend that a frontend in force leads to, empty when there is no such frontend."""
        record = self.record(f"frontends/{frontend}")
        return record.backend if isinstance(record, Frontend) else ""

    def listeners(self) -> dict[str, Listener]:
        """Return the listeners in force, by id."""
        return self._listeners

    def states(self) -> list[ObjectState]:
        """Return every object that is not plainly in force, by key."""
        return [
            ObjectState(key, standing.state, standing.revision, standing.problems)
            for key, standing in sorted(self._standings.items())
        ]

    def state(self, key: str) -> ObjectState | None:
        """Return how an object stands, None when it is plainly in force or not known."""
        standing = self._standings.get(key)
        return None if standing is None else ObjectState(key, standing.state, standing.revision, standing.problems)

    def counts(self) -> dict[str, int]:
        """Return how many objects are waiting and quarantined."""
        counts = {"waiting": 0, "quarantined": 0}
        for standing in self._standings.values():
            counts[standing.state] += 1
        return counts

    def differences(self, entries: Mapping[str, Entry]) -> list[Event]:
        """Return what a reading says differently from the ledger, as events; what lived by a lease has vanished."""
        ledger = self.ledger
        events = [Event(key, entry) for key, entry in entries.items() if not ledger.holds(key, entry.value)]
        for key in ledger:
            if key not in entries:
                entry = ledger.get(key)
                events.append(Event(key, None, expired=entry is not None and bool(entry.lease)))
        return events

    # ---- changes

    def load(self, entries: Mapping[str, Entry], identity: str, revision: int) -> None:
        """Fill an empty table. Nothing is held against the entries."""
        self.identity = identity
        loaded = load(entries, self._settings)
        if loaded is None:
            self.apply([Event(key, entry) for key, entry in entries.items()], revision)
            return
        self.revision = revision
        doubtful = {key: entries[key] for key in loaded.doubtful}
        plain = {key: entry for key, entry in entries.items() if key not in doubtful} if doubtful else entries
        self._loaded, self._unfilled = loaded.tree, plain
        self._counted, self._listeners = loaded.counts, dict(loaded.tree.listeners)
        tree = loaded.tree
        if doubtful:
            changes = self.apply([Event(key, entry) for key, entry in doubtful.items()], revision)
            place(tree, changes.edits)
            if changes.settings is not None:
                tree = msgspec.structs.replace(tree, settings=changes.settings)
        self._loaded = tree

    def apply(self, events: Iterable[Event], revision: int) -> Changes:
        """Take events in, each key once, and return what they change of what is in force."""
        self.forget_tree()
        before: dict[str, bytes | None] = {}
        fresh = []
        touched = []
        for event in events:
            key, entry = event.key, event.entry
            known = self.ledger.value(key)
            before[key] = self.in_force(key)
            if entry is None:
                self.ledger.remove(key)
            else:
                self.ledger.put(entry)
                if known == entry.value:
                    continue
                fresh.append((key, entry.value))
            touched.append(key)
        work = _Work(revision, examine(fresh))
        work.before = before
        for key, problems in work.examined.problems.items():  # so that no sibling takes them for in force
            self._stand(key, Standing("quarantined", before[key], revision, problems), work.changes)
        self._settle_all(touched, work)
        self.revision = revision
        return work.changes

    def forget_tree(self) -> None:
        """Keep the loaded tree no longer: a start is over, or something is in force that it does not have."""
        self._fill()
        self._loaded = None

    def again(self, keys: Iterable[str]) -> Changes:
        """Judge stored objects anew that were refused for a reason which may have passed."""
        fresh = [(key, value) for key in keys if (value := self.ledger.value(key)) is not None]
        work = _Work(self.revision, examine(fresh))
        work.before = {key: self.in_force(key) for key, _ in fresh}
        self._settle_all([key for key, _ in fresh], work)
        return work.changes

    def reject(self, key: str, problems: tuple[Problem, ...], changes: Changes) -> None:
        """Quarantine an object that was found in order and then refused further on; its form before stays in force."""
        good, refused = changes.before.get(key), self.in_force(key)
        self._stand(key, Standing("quarantined", good, changes.revision, problems), changes)
        self._restore(key, good, refused)

    def _restore(self, key: str, good: bytes | None, instead_of: bytes | None) -> None:
        """Set the indices right for a form that stays in force after all, or for none."""
        self.forget_tree()
        self._users.refer(key, good, instead_of)
        parsed = parse_key(key)
        if parsed is None:
            return
        self._counted[parsed.kind] += (good is not None) - (instead_of is not None)
        if parsed.kind != "listener":
            return
        if good is None:
            self._listeners.pop(parsed.id, None)
        else:
            record = decode_record(parsed, good)
            assert isinstance(record, Listener)
            self._listeners[parsed.id] = record

    # ---- settling

    def _settle_all(self, touched: Iterable[str], work: _Work) -> None:
        for key in touched:
            parsed = parse_key(key)
            work.queues[0 if parsed is None else _RANKS[parsed.kind]].add(key)
        for rank, queue in enumerate(work.queues):
            if rank == _RANKS["listener"]:
                if queue:
                    self._settle_listeners(work)
                continue
            done: set[str] = set()
            while queue - done:  # a place among siblings may become free while they are settled
                for key in sorted(queue - done, key=lambda key: (key in self.ledger, key)):
                    done.add(key)
                    self._settle(key, work)

    def _settle(self, key: str, work: _Work) -> None:
        """Decide what of one object is in force from now on."""
        before = work.before[key] if key in work.before else self.in_force(key)
        parsed = parse_key(key)
        stored = self.ledger.value(key)
        if stored is None:
            self._stand(key, None, work.changes)
            self._into_force(key, parsed, before, None, None, work)
            return
        problems = self._problems(key, stored, work)
        if parsed is None or problems:
            good = before if parsed is not None and self._owner_there(key) else None
            self._stand(key, Standing("quarantined", good, work.changes.revision, problems), work.changes)
            self._into_force(key, parsed, before, good, None, work)
            return
        record = work.examined.records.get(key) or decode_record(parsed, stored)
        missing, good = self._missing(key, parsed, record, before, stored)
        if missing:
            standing = Standing("waiting", good, work.changes.revision, (waits(key, missing),), missing)
            if missing.endswith("/room"):
                standing = msgspec.structs.replace(standing, state="quarantined", problems=(no_room(key),))
            self._stand(key, standing, work.changes)
            self._into_force(key, parsed, before, good, record if good == stored else None, work)
            return
        self._stand(key, None, work.changes)
        self._into_force(key, parsed, before, stored, record, work)

    def _problems(self, key: str, stored: bytes, work: _Work) -> tuple[Problem, ...]:
        """Return what is wrong with a stored form: just found, or known from an earlier batch."""
        problems = work.examined.problems.get(key)
        if problems is not None:
            return problems
        standing = self._standings.get(key)
        if standing is None or key in work.examined.records or standing.state != "quarantined" or standing.missing:
            return ()
        return standing.problems

    def _missing(
        self, key: str, parsed: ObjectKey, record: Record, before: bytes | None, stored: bytes
    ) -> tuple[str, bytes | None]:
        """Return what an object in order has to wait for, empty for nothing, and what is in force of it meanwhile."""
        if parsed.owner:
            owner = owner_of(key)
            if self.in_force(owner) is None:
                return owner, None
            return ("", None) if self._room(key, parsed, record, owner) else (f"{owner}/room", before)
        if isinstance(record, Frontend):
            backend = f"backends/{record.backend}"
            if self.in_force(backend) is None:
                former = None if before is None else decode_record(parsed, before)
                if isinstance(former, Frontend) and self.in_force(f"backends/{former.backend}") is not None:
                    return backend, before
                return backend, stored
        return "", None

    def _room(self, key: str, parsed: ObjectKey, record: Record, owner: str) -> bool:
        """Tell whether an object may stand beside its siblings in force: so many servers, middlewares, and so on."""
        if self.ledger.count_below(owner) <= limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX:
            return True
        siblings = [other for other in self.ledger.below(owner) if other != key and self._counts(other)]
        if len(siblings) >= _BELOW_MAX[parsed.kind]:
            return False
        if not isinstance(record, ConcurrencyLimit):
            return True
        same = sum(isinstance(self.record(other), ConcurrencyLimit) for other in siblings)
        return same < limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX

    def _counts(self, key: str) -> bool:
        return self.in_force(key) is not None

    def _owner_there(self, key: str) -> bool:
        owner = owner_of(key)
        return not owner or self.in_force(owner) is not None

    def _into_force(
        self,
        key: str,
        parsed: ObjectKey | None,
        before: bytes | None,
        after: bytes | None,
        record: Record | None,
        work: _Work,
    ) -> None:
        """Note the edit from one form to another, if they differ, and look after whoever depends on the object."""
        if parsed is None or (before is None and after is None):
            return
        if before is not None and after is not None:
            if before == after:
                return
            record = record or decode_record(parsed, after)
            if decode_record(parsed, before) == record:
                work.changes.rewritten.append(key)
                return
        self._note(key, parsed, before, record if after is not None else None, work)
        self._users.refer(key, after, before)
        if (before is None) == (after is None):
            return
        self._counted[parsed.kind] += 1 if before is None else -1
        if parsed.kind in ("backend", "frontend"):
            self._owner_changed(key, after is not None, work)
        elif parsed.owner and after is None:
            self._wake(f"{owner_of(key)}/room", work)
        if parsed.kind == "backend":
            work.queues[_RANKS["frontend"]].update(self._users.of(parsed.id))
            self._wake(key, work)

    def _note(self, key: str, parsed: ObjectKey, before: bytes | None, record: Record | None, work: _Work) -> None:
        changes = work.changes
        changes.before[key] = before
        if parsed.kind == SETTINGS:
            changes.settings = record if isinstance(record, Settings) else self._settings
            return
        if record is None and not self._owner_there(key):
            return  # it goes with its owner
        changes.edits.append(Edit(parsed.kind, parsed.id, record, parsed.owner))
        changes.listeners = changes.listeners or parsed.kind == "listener"

    def _owner_changed(self, key: str, there: bool, work: _Work) -> None:
        """What stands below an object that came or went is to be settled too."""
        for other in self.ledger.below(key):
            work.before.setdefault(other, self.in_force(other))
            parsed = parse_key(other)
            if parsed is not None:
                work.queues[_RANKS[parsed.kind]].add(other)
        if there:
            self._wake(key, work)

    def _wake(self, what: str, work: _Work) -> None:
        for key in self._waiters.get(what, ()):
            parsed = parse_key(key)
            if parsed is not None:
                work.queues[_RANKS[parsed.kind]].add(key)

    def _stand(self, key: str, standing: Standing | None, changes: Changes) -> None:
        """Set or end an object's standing, and keep the index of who waits for whom."""
        known = self._standings.pop(key, None)
        if known is not None and known.missing:
            waiters = self._waiters.get(known.missing)
            if waiters is not None:
                waiters.discard(key)
                if not waiters:
                    del self._waiters[known.missing]
        if standing is not None:
            if known is not None and known.good == standing.good:
                standing = msgspec.structs.replace(standing, revision=known.revision)
            self._standings[key] = standing
            if standing.missing:
                self._waiters.setdefault(standing.missing, set()).add(key)
        if (known and (known.state, known.problems)) != (standing and (standing.state, standing.problems)):
            changes.standing.append(key)

    # ---- listeners: few, and all of them share the addresses

    def _settle_listeners(self, work: _Work) -> None:
        """Decide about all listeners together: two cannot have one address, and two may swap theirs."""
        wanted, refused = self._wanted_listeners(work)
        clashing = clashes(wanted, self._listeners)
        revision = work.changes.revision
        names = {key.partition("/")[2] for key in work.queues[_RANKS["listener"]]} | wanted.keys() | refused.keys()
        for name in sorted(names):
            key = f"listeners/{name}"
            before = work.before[key] if key in work.before else self.in_force(key)
            known = self._listeners.get(name)
            record: Listener | None = wanted.get(name)
            standing: Standing | None = None
            if name in refused or name in clashing:
                problems = refused[name] if name in refused else (clashing[name],)
                missing = "" if name in refused else "listeners/room"
                standing = Standing("quarantined", before, revision, problems, missing)
                record = known
            self._stand(key, standing, work.changes)
            if record == known:
                continue
            self._counted["listener"] += (known is None) - (record is None)
            work.changes.before[key] = before
            work.changes.edits.append(Edit("listener", name, record))
            work.changes.listeners = True
            if record is None:
                del self._listeners[name]
            else:
                self._listeners[name] = record

    def _wanted_listeners(self, work: _Work) -> tuple[dict[str, Listener], dict[str, tuple[Problem, ...]]]:
        """Return what the stored listeners say that are in order, and the problems of the others, by id."""
        wanted: dict[str, Listener] = {}
        refused: dict[str, tuple[Problem, ...]] = {}
        for key in self.ledger.top("listeners"):
            name = key.partition("/")[2]
            stored = self.ledger.value(key)
            assert stored is not None
            problems = self._problems(key, stored, work)
            if problems:
                refused[name] = problems
                continue
            record = work.examined.records.get(key) or decode_record(ObjectKey("listener", name), stored)
            assert isinstance(record, Listener)
            wanted[name] = record
        return wanted, refused
