"""The first filling of the object table: what is plainly in order is taken in one go.

Judging objects one after another costs 23 us each; a start with 300,000 of them has a second. So everything is decoded and
validated together. What is doubtful (a value that is refused, an object that waits for another) is left out with what depends on
it, and that alone goes the table's usual way:

    a value that does not decode, a key that no object has     itself
    a backend or a frontend that is refused                    itself, what is below it, and the frontends that lead to it
    a listener                                                 all listeners: they share the addresses
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from bascule.change.examine import place_below
from bascule.change.validate import validate
from bascule.model import limits
from bascule.model.keys import CHILDREN, KINDS, SETTINGS, ObjectKey, record_type
from bascule.model.problems import Path
from bascule.model.tree import Settings, Tree
from bascule.store.interface import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.change.edits import Edit

Decode = Callable[[bytes], Any]
_DECODE: Final[dict[str, Decode]] = {
    kind: msgspec.json.Decoder(record_type(kind)).decode
    for kind in (SETTINGS, *KINDS.values(), *(kind for _, kind in CHILDREN.values()))
}
_REFUSED: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class Loaded:
    """What is plainly in order."""

    __slots__ = ("counts", "doubtful", "tree")

    def __init__(self, tree: Tree) -> None:
        """See the class."""
        self.tree = tree
        self.counts: Counter[str] = Counter()
        """Objects by kind."""
        self.doubtful: set[str] = set()
        """Keys that are in nothing of the above."""


def load(entries: Mapping[str, Entry], settings: Settings) -> Loaded | None:
    """Return everything that is in order, None when nothing can be said of anything. `settings` hold when none are stored."""
    try:
        loaded = _decoded(entries, settings)
        blamed = {_blamed(problem.path, entries) for problem in validate(loaded.tree) if not problem.warning}
    except (
        Exception
    ):  # not only what decoding raises: a rule that cannot bear a value, too. The table finds out whose it is
        return None
    if "" in blamed:
        return None
    loaded.doubtful |= blamed
    if loaded.doubtful:
        _leave_out(loaded, settings)
    _count(loaded, entries)
    return loaded


def place(tree: Tree, edits: Iterable[Edit]) -> None:
    """Put records that were left out into a tree after all; owners come first."""
    for edit in edits:
        if edit.record is None:
            continue
        if edit.owner:
            place_below(tree, ObjectKey(edit.kind, edit.id, edit.owner), edit.record, stand_ins=False)
        else:
            plural = next(plural for plural, kind in KINDS.items() if kind == edit.kind)
            below = CHILDREN.get(plural)
            record = edit.record if below is None else msgspec.structs.replace(edit.record, **{below[0]: {}})
            getattr(tree, plural)[edit.id] = record


def _decoded(entries: Mapping[str, Entry], settings: Settings) -> Loaded:
    """Return everything that decodes and has an owner, not counted yet."""
    tops: dict[str, tuple[Decode, dict[str, Any]]] = {plural: (_DECODE[kind], {}) for plural, kind in KINDS.items()}
    fields: dict[str, Any] = {plural: records for plural, (_, records) in tops.items()}
    loaded = Loaded(Tree(**fields, settings=settings))
    doubtful = loaded.doubtful
    children: dict[str, list[tuple[str, str, str, bytes]]] = {plural: [] for plural in CHILDREN}
    for key, entry in entries.items():
        value = entry.value
        parts = key.split("/")
        if len(value) > limits.VALUE_BYTES_MAX or len(key) > limits.KEY_BYTES_MAX:
            doubtful.add(key)
        elif len(parts) == 4 and parts[0] in children and parts[2] == CHILDREN[parts[0]][0]:
            children[parts[0]].append((parts[1], parts[3], key, value))
        elif len(parts) == 2 and parts[0] in tops:
            decode, records = tops[parts[0]]
            try:
                records[parts[1]] = decode(value)
            except _REFUSED:
                doubtful.add(key)
        else:
            doubtful.add(key)
    for plural, found in children.items():
        _place(loaded, plural, tops[plural][1], found)
    if SETTINGS in entries:
        try:
            loaded.tree = msgspec.structs.replace(loaded.tree, settings=_DECODE[SETTINGS](entries[SETTINGS].value))
            doubtful.discard(SETTINGS)
        except _REFUSED:
            pass
    return loaded


def _place(loaded: Loaded, plural: str, owners: dict[str, Any], found: list[tuple[str, str, str, bytes]]) -> None:
    """Put servers into their backends, middlewares into their frontends; an owner that says it has some is doubtful itself."""
    below, kind = CHILDREN[plural]
    decode = _DECODE[kind]
    for name in [name for name, record in owners.items() if getattr(record, below)]:
        del owners[name]
        loaded.doubtful.add(f"{plural}/{name}")
    for owner, name, key, value in found:
        record = owners.get(owner)
        if record is None:
            loaded.doubtful.add(key)
            continue
        try:
            getattr(record, below)[name] = decode(value)
        except _REFUSED:
            loaded.doubtful.add(key)


def _blamed(path: Path, entries: Mapping[str, Entry]) -> str:
    """Return the key of the object that a problem is of, empty when it is of none."""
    for length in (4, 2, 1):
        key = "/".join(path[:length])
        if len(path) >= length and key in entries:
            return key
    return ""


def _leave_out(loaded: Loaded, settings: Settings) -> None:
    """Take what is doubtful out of tree and indices, and all that depends on it."""
    tree, doubtful = loaded.tree, loaded.doubtful
    if SETTINGS in doubtful:
        loaded.tree = tree = msgspec.structs.replace(tree, settings=settings)
    if any(key.startswith("listeners/") for key in doubtful):
        doubtful.update(f"listeners/{name}" for name in tree.listeners)
        tree.listeners.clear()
    for name in _names(doubtful, "backends"):
        _take_out(doubtful, "backends", name, tree.backends)
    lost = {name for name, frontend in tree.frontends.items() if frontend.backend not in tree.backends}
    doubtful.update(f"frontends/{name}" for name in lost)
    for name in _names(doubtful, "frontends"):
        _take_out(doubtful, "frontends", name, tree.frontends)
    for name in _names(doubtful, "hosts"):
        tree.hosts.pop(name, None)
    for key in doubtful:
        parts = key.split("/")
        if len(parts) == 4 and parts[0] in CHILDREN:
            owner = getattr(tree, parts[0]).get(parts[1])
            if owner is not None:
                getattr(owner, CHILDREN[parts[0]][0]).pop(parts[3], None)


def _take_out(doubtful: set[str], plural: str, name: str, owners: dict[str, Any]) -> None:
    """Take a backend or a frontend out, if it is there; what is below it is doubtful too."""
    record = owners.pop(name, None)
    if record is not None:
        below = CHILDREN[plural][0]
        doubtful.update(f"{plural}/{name}/{below}/{child}" for child in getattr(record, below))


def _names(keys: Iterable[str], plural: str) -> list[str]:
    """Return the ids of the objects right in a collection."""
    start = plural + "/"
    return [key[len(start) :] for key in keys if key.startswith(start) and key.count("/") == 1]


def _count(loaded: Loaded, entries: Mapping[str, Entry]) -> None:
    tree = loaded.tree
    loaded.counts[SETTINGS] = int(SETTINGS in entries and SETTINGS not in loaded.doubtful)
    loaded.counts.update({kind: len(getattr(tree, plural)) for plural, kind in KINDS.items()})
    for plural, (below, kind) in CHILDREN.items():
        loaded.counts[kind] = sum(len(getattr(record, below)) for record in getattr(tree, plural).values())
