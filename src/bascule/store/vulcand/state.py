"""The vulcand tree as it stands, and what it is in our words: kept object by object, so that a change costs what it touches.

A frontend and its middlewares are one group: a middleware that we have no match for decides whether its frontend is served. All
other objects are groups of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from bascule.model.problems import Problem
from bascule.store.interface import Entry, Event
from bascule.store.vulcand.objects import harmless_without, safe_id, translate

DEFAULT_LISTENER: Final = "listeners/DefaultListener"
_DEFAULT_VALUE: Final = b'{"address":"0.0.0.0:8181"}'
_DEFAULT_PROBLEM: Final = Problem(
    path=("listeners", "DefaultListener"),
    message="the tree has no listener: this is the one that vulcand has by itself, on port 8181",
    remedy="put a listener into the tree",
    warning=True,
)
_FIRST_LAYOUT: Final = "upstreams/"


class Place(NamedTuple):
    """What a key of vulcand's is: `P/backends/<id>/backend` and so on, relative to the prefix."""

    kind: str
    key: str
    """Our key of it."""
    group: str
    """Our key of the object that decides with it what is served."""


def place_of(key: str) -> Place | None:
    """Return what a key of vulcand's is, None for what is nothing of its configuration."""
    match key.split("/"):
        case ["hosts", name, "host"] if name:
            return _alone("host", f"hosts/{name.lower()}")
        case ["listeners", name] if name:
            return _alone("listener", f"listeners/{safe_id(name)}")
        case ["backends", name, "backend"] if name:
            return _alone("backend", f"backends/{safe_id(name)}")
        case ["backends", owner, "servers", name] if owner and name:
            return _alone("server", f"backends/{safe_id(owner)}/servers/{safe_id(name)}")
        case ["frontends", name, "frontend"] if name:
            return _alone("frontend", f"frontends/{safe_id(name)}")
        case ["frontends", owner, "middlewares", name] if owner and name:
            group = f"frontends/{safe_id(owner)}"
            return Place("middleware", f"{group}/middlewares/{safe_id(name)}", group)
    return None


def _alone(kind: str, key: str) -> Place:
    return Place(kind, key, key)


class VulcandState:
    """One reading of vulcand's tree and every change since. Made and used by one watch at a time."""

    def __init__(self, revision: int, entries: Iterable[Entry]) -> None:
        """`entries` have vulcand's keys, relative to the prefix."""
        self.revision = revision
        self._raw: dict[str, dict[str, Entry]] = {}
        """Group to our key to what vulcand's tree has there."""
        self._ours: dict[str, dict[str, Entry]] = {}
        """Group to our key to what it is in our words."""
        self._groups: Counter[str] = Counter()
        """Number of groups by collection: frontends, listeners, ..."""
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._strange: set[str] = set()
        """Keys of vulcand's first layout."""
        self._default: Entry | None = None
        for entry in entries:
            self._take(entry.key, entry)
        for group in self._raw:
            self._ours[group] = dict(self._translate(group))
        self._settle_default()

    @property
    def size(self) -> int:
        """Return how many objects (a frontend with its middlewares is one) the tree has."""
        return len(self._raw)

    def entries(self) -> dict[str, Entry]:
        """Return everything in our words, by our keys."""
        found = {key: entry for group in self._ours.values() for key, entry in group.items()}
        if self._default is not None:
            found[DEFAULT_LISTENER] = self._default
        return found

    def problems(self) -> list[Problem]:
        """Return what could not be translated (errors) and what was left out (warnings), by key."""
        found = [problem for key in sorted(self._problems) for problem in self._problems[key]]
        if self._default is not None:
            found.append(_DEFAULT_PROBLEM)
        if self._strange:
            message = f"{len(self._strange)} keys are of vulcand's first layout, from before 2015, and are not read"
            found.append(Problem(message=message, remedy="move them to backends and frontends", warning=True))
        return found

    def apply(self, revision: int, events: Iterable[Event]) -> tuple[Event, ...]:
        """Take in what one revision did to vulcand's tree, and return what it did to ours."""
        self.revision = revision
        expired: dict[str, bool] = {}
        groups: dict[str, None] = {}
        for event in events:
            place = self._take(event.key, event.entry)
            if place is not None:
                groups[place.group] = None
                expired[place.key] = event.expired
        found: list[Event] = []
        for group in groups:
            before = self._ours.pop(group, {})
            after = dict(self._translate(group))
            found += [Event(key, None, expired.get(key, False)) for key in before if key not in after]
            for key, entry in after.items():
                known = before.get(key)
                if known is not None and known.value == entry.value:
                    after[key] = known  # a heartbeat puts the same value again
                    continue
                after[key] = msgspec.structs.replace(entry, modified=revision)
                found.append(Event(key, after[key]))
            if after:
                self._ours[group] = after
        return (*found, *self._settle_default())

    def _take(self, raw_key: str, entry: Entry | None) -> Place | None:
        place = place_of(raw_key)
        if place is None:
            if raw_key.startswith(_FIRST_LAYOUT):
                (self._strange.discard if entry is None else self._strange.add)(raw_key)
            return None
        collection = place.group.partition("/")[0]
        group = self._raw.get(place.group)
        if entry is not None:
            if group is None:
                group = self._raw[place.group] = {}
                self._groups[collection] += 1
            group[place.key] = msgspec.structs.replace(entry, key=place.key)
        elif group is not None:
            group.pop(place.key, None)
            if not group:
                del self._raw[place.group]
                self._groups[collection] -= 1
        if entry is None:
            self._problems.pop(place.key, None)
        return place

    def _translate(self, group: str) -> Iterator[tuple[str, Entry]]:
        """Yield what a group is in our words. A frontend that needs a middleware which has no match is not among it."""
        members = self._raw.get(group, {})
        needed = []
        for key, entry in members.items():
            if key == group:
                continue
            translation = translate("middleware", key, entry.value)
            if translation.refused and harmless_without(entry.value):
                self._note(key, tuple(msgspec.structs.replace(it, warning=True) for it in translation.problems))
                continue
            if translation.refused:
                needed.append(key.rpartition("/")[2])
            self._note(key, translation.problems)
            yield key, msgspec.structs.replace(entry, value=translation.value)
        if group not in members:
            return
        if needed:
            self._note(group, (_not_served(group, sorted(needed)),))
            return
        translation = translate(_kind_of(group), group, members[group].value)
        self._note(group, translation.problems)
        yield group, msgspec.structs.replace(members[group], value=translation.value)

    def _note(self, key: str, problems: tuple[Problem, ...]) -> None:
        if problems:
            self._problems[key] = problems
        else:
            self._problems.pop(key, None)

    def _settle_default(self) -> list[Event]:
        """vulcand listens on :8181 without being told to; so do we while its tree has frontends and no listener."""
        wanted = self._groups["frontends"] > 0 and self._groups["listeners"] == 0
        if wanted == (self._default is not None):
            return []
        if wanted:
            self._default = Entry(DEFAULT_LISTENER, _DEFAULT_VALUE, self.revision, self.revision)
            return [Event(DEFAULT_LISTENER, self._default)]
        self._default = None
        return [] if DEFAULT_LISTENER in self._ours else [Event(DEFAULT_LISTENER, None)]


def _kind_of(key: str) -> str:
    first, *rest = key.split("/")
    return "server" if len(rest) == 3 else first[:-1]


def _not_served(key: str, middlewares: list[str]) -> Problem:
    return Problem(
        path=tuple(key.split("/")),
        message=f"it is not served, because there is no match for its middleware {', '.join(middlewares)}",
        remedy="see what is said of the middleware",
    )
