"""Do no harm: what the store says comes into force only if it can be meant (docs/do-no-harm.md).

The gates stand between the store and the table of objects and look at keys, not at configuration: an event that is held
never reaches the table, so what it would have removed simply stays. Nothing here does any I/O or knows the time by itself.

    pass      the event goes on
    hold      a removal is kept back, visibly, until what it removes is in the store again or an operator adopts it
    freeze    nothing comes into force: another history (the store's identity, a lower revision), or an operator's word

A master asks `position` about every reading and batch, then `judge` about its events, and `review` every second while
something is held. While `freeze_state` is not None it applies nothing, and afterwards reads the store anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from bascule.change.holds import Bounds, GateState, Hold, InForce, Verdict, too_many
from bascule.change.live import Freeze
from bascule.change.pool_gate import Passing, Pool, PoolChange, PoolGate
from bascule.model.keys import ObjectKey, format_key, parse_key
from bascule.store.interface import Event

STORE: Final = "store"
OPERATOR: Final = "operator"
COUNTED: Final = ("listener", "frontend", "server")
"""The kinds whose loss is an outage."""
SERVING: Final = ("listener", "frontend")
"""Without any of these nothing is served."""


def _always(_backend: str, _server: str) -> bool:
    return True


class Gates:
    """The gates of one master. Not thread-safe: it belongs to the loop that applies changes."""

    def __init__(
        self,
        in_force: InForce,
        *,
        passing: Passing = _always,
        bounds: Bounds | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`bounds` say what is too much, `passing` what health checks think of a server."""
        self._in_force = in_force
        self._bounds = bounds or Bounds()
        self._pool_gate = PoolGate(in_force, passing, self._bounds)
        self._monotonic = monotonic
        self._wall = wall
        self._held: dict[str, Hold] = {}
        self._below: dict[str, set[str]] = {}
        self._freezes: dict[str, Freeze] = {}
        self._went_back = False
        """Whether a freeze by the store has to be adopted: its history is not the one we know."""

    # ---- what there is to see

    @property
    def held(self) -> Mapping[str, Hold]:
        """What is held, by key."""
        return self._held

    def freeze_state(self) -> Freeze | None:
        """Return why nothing comes into force; an operator's word before a gate's."""
        return self._freezes.get(OPERATOR) or self._freezes.get(STORE)

    def freezes(self) -> tuple[Freeze, ...]:
        """Return every freeze there is, an operator's and a gate's."""
        return tuple(self._freezes.values())

    def reasons(self) -> tuple[str, ...]:
        """Return why (part of) what the store says is not in force, each reason once."""
        freezes = [freeze.reason for freeze in self.freezes()]
        return tuple(dict.fromkeys([*freezes, *(hold.reason for hold in self._held.values())]))

    # ---- the store as a whole

    def position(self, identity: str, revision: int, in_force_identity: str, in_force_revision: int) -> Freeze | None:
        """Judge where a reading or batch comes from against what is in force; return the freeze that it causes.

        A freeze because of another identity ends by itself when the store is again the one it was. One because the store
        went back does not: once it has reached our revision again it still is another history, with other objects.
        With nothing in force (an empty identity) every store is right.
        """
        frozen = self._freezes.get(STORE)
        if not in_force_identity:
            self._freezes.pop(STORE, None)
            return None
        if identity != in_force_identity:
            reason = (
                f"the store is another one: its identity is {identity}, what is in force came from {in_force_identity}"
            )
        elif revision < in_force_revision and not self._went_back:
            reason = f"the store went back: it is at revision {revision}, revision {in_force_revision} is in force"
            self._went_back = True
        elif self._went_back and frozen is not None:
            return frozen
        else:
            self._freezes.pop(STORE, None)
            return None
        if frozen is None or frozen.reason != reason:
            remedy = "if the store is right (restored, moved, made anew), `bascule adopt` takes over what it says"
            since_s = frozen.since_s if frozen else self._wall()
            self._freezes[STORE] = Freeze(by=STORE, reason=reason, since_s=since_s, remedy=remedy)
        return self._freezes[STORE]

    def freeze(self, reason: str, by: str) -> Freeze:
        """Keep everything out of force by an operator's word; `by` is the operator."""
        text = f"frozen by {by}: {reason}" if reason else f"frozen by {by}"
        remedy = "`bascule unfreeze` brings into force what the store says then"
        self._freezes[OPERATOR] = Freeze(by=OPERATOR, reason=text, since_s=self._wall(), remedy=remedy)
        return self._freezes[OPERATOR]

    def unfreeze(self) -> bool:
        """Take an operator's freeze back; False when there was none. A freeze by the store needs `adopt`."""
        return self._freezes.pop(OPERATOR, None) is not None

    # ---- events

    def judge(self, events: Sequence[Event], *, reading: bool = False) -> Verdict:
        """Judge the events of a batch, each key once.

        `reading`: they are the difference between the state in force and a whole reading, so a loss of over a third of
        the listeners, frontends or servers is held too. A removal counts as *vanished* when it is marked `expired`.
        """
        returned = tuple(event.key for event in events if event.entry is not None and event.key in self._held)
        for key in returned:
            self._let_go(key)
        if all(event.entry is not None for event in events):
            return Verdict(tuple(events), returned=returned)
        batch = _Batch([event for event in events if event.key not in self._held], self._in_force)
        held = self._hold_pools(batch)
        held += self._hold_with_pools(batch, held)
        held += self._hold_tree(batch, held, reading=reading)
        keys = {hold.key for hold in held}
        passing = [event for event in events if event.key not in keys and event.key not in self._held]
        for hold in held:
            self._keep(hold)
        released = self._orphaned(passing)
        return Verdict((*passing, *_removals(released)), tuple(held), returned, released)

    def review(self) -> Verdict:
        """Let go of what needs holding no longer: pools that are back, servers that fail their health checks."""
        found = [
            format_key("server", name, backend)
            for backend, names in self._pool_gate.recovered().items()
            for name in names
        ]
        return self._release(found)

    def adopt(self) -> Verdict:
        """Accept every loss that is held, and the store as it is. After a freeze by the store the caller reads it anew and
        applies the difference unjudged."""
        self._freezes.pop(STORE, None)
        self._went_back = False
        return self._release(list(self._held))

    # ---- for a successor

    def state(self) -> GateState:
        """Return what `restore` needs."""
        baselines = {backend: pool.baseline for backend, pool in self._pool_gate.pools.items()}
        return GateState(self.freezes(), tuple(self._held.values()), baselines, self._went_back)

    def restore(self, state: GateState) -> None:
        """Go on where a predecessor ended. What it held must be in force already."""
        self._freezes = {freeze.by: freeze for freeze in state.freezes}
        self._went_back = state.went_back
        for backend, baseline in state.baselines.items():
            self._pool_gate.pools[backend] = Pool(baseline, "")
        for hold in state.holds:
            key = parse_key(hold.key)
            if key is not None and hold.gate == "pool" and key.owner in state.baselines:
                pool = self._pool_gate.pools[key.owner]
                pool.held.add(key.id)
                pool.reason = hold.reason
            self._keep(hold)

    # ---- the rules

    def _hold_pools(self, batch: _Batch) -> list[Hold]:
        """Hold the servers of pools that vanish, unless their backend is removed by somebody's word."""
        found: list[Hold] = []
        now_s = self._monotonic()
        self._pool_gate.forget(now_s)
        for backend, change in batch.pools.items():
            if format_key("backend", backend) in batch.left:
                continue
            names = self._pool_gate.judge(backend, change, now_s)
            if names:
                reason = self._pool_gate.pools[backend].reason
                found += [self._hold(format_key("server", name, backend), "pool", reason) for name in names]
        return found

    def _hold_with_pools(self, batch: _Batch, held: list[Hold]) -> list[Hold]:
        """Hold what vanishes together with a held pool: its backend, the frontends that lead to it, their middlewares."""
        pools = self._pool_gate.pools
        if not pools or not batch.vanished:
            return []
        found: list[Hold] = []
        known = {hold.key for hold in held}
        for key, parsed in batch.vanished.items():
            backend = self._pool_of(parsed)
            if parsed.kind != "server" and backend in pools and key not in known:
                found.append(self._hold(key, "pool", pools[backend].reason))
        return found

    def _pool_of(self, key: ObjectKey) -> str:
        if key.kind == "backend":
            return key.id
        if key.kind in ("frontend", "middleware"):
            return self._in_force.backend_of(key.owner or key.id)
        return ""

    def _hold_tree(self, batch: _Batch, held: list[Hold], *, reading: bool) -> list[Hold]:
        """Hold all other removals when they would take too large a part of a tree."""
        known = {hold.key for hold in held}
        going = {key: parsed for key, parsed in batch.removed.items() if key not in known and key not in self._held}
        reason = self._shrinks(Counter(parsed.kind for parsed in going.values()), batch, reading=reading)
        if not reason:
            vanishing = {key: parsed for key, parsed in batch.vanished.items() if key in going}
            going = {key: parsed for key, parsed in vanishing.items() if parsed.kind != "server"}
            reason = self._shrinks(Counter(parsed.kind for parsed in going.values()), batch, reading=True)
        return [self._hold(key, "tree", reason) for key in going] if reason else []

    def _shrinks(self, lost: Counter[str], batch: _Batch, *, reading: bool) -> str:
        """Return why so many removals are too many, empty when they are not."""
        if not lost:
            return ""
        for kind in COUNTED if reading else SERVING:
            whole, net = self._in_force.count(kind), lost[kind] - batch.added[kind]
            many = net > self._bounds.tree_min
            if many and (net >= whole or (reading and too_many(net, whole, self._bounds.tree_percent))):
                return f"{lost[kind]} of {whole} {kind}s would go at once"
            if reading and lost[kind] and net >= whole:
                return f"the last {kind} would go" if whole == 1 else f"all {whole} {kind}s would go at once"
        empty = all(lost[kind] and lost[kind] - batch.added[kind] >= self._in_force.count(kind) for kind in SERVING)
        return "everything would go at once" if empty else ""

    # ---- bookkeeping

    def _hold(self, key: str, gate: str, reason: str) -> Hold:
        return Hold(key=key, gate="pool" if gate == "pool" else "tree", reason=reason, since_s=self._wall())

    def _keep(self, hold: Hold) -> None:
        self._held[hold.key] = hold
        owner = _owner(hold.key)
        if owner:
            self._below.setdefault(owner, set()).add(hold.key)

    def _let_go(self, key: str) -> None:
        del self._held[key]
        owner = _owner(key)
        if owner:
            below = self._below[owner]
            below.discard(key)
            if not below:
                del self._below[owner]
        parsed = parse_key(key)
        if parsed is not None and parsed.kind == "server":
            self._pool_gate.returned(parsed.owner, parsed.id)

    def _release(self, keys: Iterable[str]) -> Verdict:
        released = tuple(keys)
        for key in released:
            self._let_go(key)
        return Verdict(_removals(released), released=released)

    def _orphaned(self, passing: Sequence[Event]) -> tuple[str, ...]:
        """Let go of what is held below an object that is removed."""
        if not self._below:
            return ()
        found = [key for event in passing if event.entry is None for key in self._below.get(event.key, ())]
        for key in found:
            self._let_go(key)
        return tuple(found)


class _Batch:
    """The events of a batch, sorted by what they mean. Removing what is not in force means nothing."""

    def __init__(self, events: Sequence[Event], in_force: InForce) -> None:
        self.removed: dict[str, ObjectKey] = {}
        self.vanished: dict[str, ObjectKey] = {}
        self.left: set[str] = set()
        self.pools: dict[str, PoolChange] = {}
        self.added: Counter[str] = Counter()
        """New objects, by kind."""
        for event in events:
            if event.entry is None and event.key in in_force:
                parsed = parse_key(event.key)
                if parsed is not None:
                    self._removal(event, parsed)
        for event in events:
            if event.entry is not None:
                self._put(event.key, event.entry.value, new=event.key not in in_force)

    def _removal(self, event: Event, parsed: ObjectKey) -> None:
        self.removed[event.key] = parsed
        if event.expired:
            self.vanished[event.key] = parsed
        else:
            self.left.add(event.key)
        if parsed.kind == "server":
            change = self.pools.setdefault(parsed.owner, PoolChange())
            (change.vanished if event.expired else change.left).append(parsed.id)

    def _put(self, key: str, value: bytes, *, new: bool) -> None:
        parsed = parse_key(key)
        if parsed is None:
            return
        self.added[parsed.kind] += new
        if parsed.kind == "server" and parsed.owner in self.pools:
            self.pools[parsed.owner].put[parsed.id] = value


def _owner(key: str) -> str:
    """Return the key of the backend or frontend that an object is below, empty when it is below none."""
    parts = key.split("/")
    return "/".join(parts[:2]) if len(parts) == 4 else ""


def _removals(keys: Iterable[str]) -> tuple[Event, ...]:
    return tuple(Event(key, None) for key in keys)
