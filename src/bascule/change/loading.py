"""The first filling of the object table, where everything that is stored is in order: at a start, in one go.

Judging objects one after another costs 23 us each; a start with 300,000 of them has a second or three. So everything is decoded and
validated together, and only when anything at all is not plain (a value that is refused, an object that waits for another) is
all of it left to the table's usual way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bascule.change.validate import validate
from bascule.model import limits
from bascule.model.keys import CHILDREN, KINDS, SETTINGS, record_type
from bascule.model.tree import Settings, Tree
from bascule.store.interface import Entry

_DECODE: Final[dict[str, Callable[[bytes], Any]]] = {
    kind: msgspec.json.Decoder(record_type(kind)).decode
    for kind in (SETTINGS, *KINDS.values(), *(kind for _, kind in CHILDREN.values()))
}


class Loaded:
    """Everything in force, and the indices of it."""

    __slots__ = ("below", "counts", "tree", "users")

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.below: dict[str, str | set[str]] = {}
        """Owner's key to the keys directly below it: a set when there are several."""
        self.users: dict[str, str | set[str]] = {}
        """Backend id to the keys of the frontends that lead to it: a set when there are several."""
        self.counts: Counter[str] = Counter()


class _NotPlainError(Exception):
    """Something needs a closer look."""


def load_plain(entries: Mapping[str, Entry], settings: Settings) -> Loaded | None:
    """Return everything decoded, None unless all of it is in order. `settings` hold when none are stored."""
    try:
        return _load(entries, settings)
    except (_NotPlainError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _load(entries: Mapping[str, Entry], settings: Settings) -> Loaded:
    tops: dict[str, list[str]] = {collection: [] for collection in KINDS}
    children: dict[str, list[tuple[str, str, str]]] = {collection: [] for collection in CHILDREN}
    for key, entry in entries.items():
        if len(entry.value) > limits.VALUE_BYTES_MAX or len(key) > limits.KEY_BYTES_MAX:
            raise _NotPlainError
        parts = key.split("/")
        if len(parts) == 2 and parts[0] in tops:
            tops[parts[0]].append(parts[1])
        elif len(parts) == 4 and parts[0] in children and parts[2] == CHILDREN[parts[0]][0]:
            children[parts[0]].append((parts[1], parts[3], key))
        elif key != SETTINGS:
            raise _NotPlainError
    if SETTINGS in entries:
        settings = _DECODE[SETTINGS](entries[SETTINGS].value)
    decoded: dict[str, Any] = {collection: _decoded(entries, collection, ids) for collection, ids in tops.items()}
    loaded = Loaded(Tree(**decoded, settings=settings))
    for collection, found in children.items():
        _place(entries, loaded, collection, decoded[collection], found)
    if any(not problem.warning for problem in validate(loaded.tree)):
        raise _NotPlainError
    _index(loaded)
    loaded.counts[SETTINGS] = int(SETTINGS in entries)
    loaded.counts.update({KINDS[collection]: len(ids) for collection, ids in tops.items()})
    loaded.counts.update({CHILDREN[collection][1]: len(found) for collection, found in children.items()})
    return loaded


def _decoded(entries: Mapping[str, Entry], collection: str, ids: list[str]) -> dict[str, Any]:
    decode = _DECODE[KINDS[collection]]
    start = collection + "/"
    records = {name: decode(entries[start + name].value) for name in ids}
    below = CHILDREN.get(collection)
    if below is not None and any(getattr(record, below[0]) for record in records.values()):
        raise _NotPlainError
    return records


def _place(
    entries: Mapping[str, Entry],
    loaded: Loaded,
    collection: str,
    owners: dict[str, Any],
    found: list[tuple[str, str, str]],
) -> None:
    """Put servers into their backends, middlewares into their frontends."""
    plural, kind = CHILDREN[collection]
    decode = _DECODE[kind]
    below = loaded.below
    for owner, name, key in found:
        record = owners.get(owner)
        if record is None:
            raise _NotPlainError
        getattr(record, plural)[name] = decode(entries[key].value)
        _add(below, f"{collection}/{owner}", key)


def _index(loaded: Loaded) -> None:
    for name, frontend in loaded.tree.frontends.items():
        _add(loaded.users, frontend.backend, f"frontends/{name}")


def _add(index: dict[str, str | set[str]], name: str, key: str) -> None:
    known = index.get(name)
    if known is None:
        index[name] = key
    elif isinstance(known, str):
        index[name] = {known, key}
    else:
        known.add(key)
