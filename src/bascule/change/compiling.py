"""Edits to snapshots, at the cost of the whole tree: what `SnapshotCompiler` promises, by `compile_snapshot`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from bascule.change.compile import compile_snapshot
from bascule.change.compiled import CompiledSnapshot
from bascule.change.edits import Edit
from bascule.model.tree import Backend, ConcurrencyLimit, Frontend, Listener, RateLimit, Server, Tree


class TreeCompiler:
    """Keeps the tree, and compiles all of it every time."""

    def __init__(self, slot: Callable[[str, str], int]) -> None:
        """See `compile_snapshot` for `slot`."""
        self._slot = slot
        self._tree = Tree()
        self._addresses: Mapping[str, bytes] = {}

    def full(self, tree: Tree, *, revision: int, addresses: Mapping[str, bytes]) -> CompiledSnapshot:
        """Compile a whole tree, whose dictionaries are the compiler's from now on."""
        self._tree = tree
        self._addresses = addresses
        compiled = self._compile(revision)
        for route in compiled.rejected:
            del tree.frontends[route.frontend]
        return compiled

    def apply(self, edits: Iterable[Edit], *, revision: int) -> CompiledSnapshot:
        """Compile what the last tree says after the edits; a rejected frontend stays as it was."""
        edits = list(edits)
        before = {edit.id: self._tree.frontends.get(edit.id) for edit in edits if edit.kind == "frontend"}
        for edit in edits:
            self._edit(edit)
        compiled = self._compile(revision)
        if compiled.rejected:
            for route in compiled.rejected:
                former = before.get(route.frontend)  # none: it waited for a backend that is here now
                if former is None:
                    del self._tree.frontends[route.frontend]
                else:
                    self._tree.frontends[route.frontend] = former
            again = self._compile(revision)
            again.rejected = compiled.rejected
            return again
        return compiled

    def set_addresses(self, addresses: Mapping[str, bytes]) -> None:
        """Take over what the resolver knows now."""
        self._addresses = addresses

    def _compile(self, revision: int) -> CompiledSnapshot:
        return compile_snapshot(self._tree, revision=revision, slot=self._slot, addresses=self._addresses)

    def _edit(self, edit: Edit) -> None:
        tree, record = self._tree, edit.record
        if record is None:
            self._remove(edit)
        elif isinstance(record, Listener):
            tree.listeners[edit.id] = record
        elif isinstance(record, Backend):
            former = tree.backends.get(edit.id)
            tree.backends[edit.id] = msgspec.structs.replace(record, servers=former.servers if former else {})
        elif isinstance(record, Frontend):
            known = tree.frontends.get(edit.id)
            tree.frontends[edit.id] = msgspec.structs.replace(record, middlewares=known.middlewares if known else {})
        elif isinstance(record, Server):
            tree.backends[edit.owner].servers[edit.id] = record
        elif isinstance(record, RateLimit | ConcurrencyLimit):
            tree.frontends[edit.owner].middlewares[edit.id] = record

    def _remove(self, edit: Edit) -> None:
        tree = self._tree
        if edit.kind == "listener":
            tree.listeners.pop(edit.id, None)
        elif edit.kind == "backend":
            tree.backends.pop(edit.id, None)
        elif edit.kind == "frontend":
            tree.frontends.pop(edit.id, None)
        elif edit.kind == "server" and edit.owner in tree.backends:
            tree.backends[edit.owner].servers.pop(edit.id, None)
        elif edit.kind == "middleware" and edit.owner in tree.frontends:
            tree.frontends[edit.owner].middlewares.pop(edit.id, None)
