"""The compiler of a pipeline: which snapshot comes next, when everything is folded together, who is refused.

(nothing) --first--> incremental --apply, fold--> incremental ...       an error: back to (nothing)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bascule.change.compile import SnapshotCompiler
from bascule.change.edits import Edit
from bascule.change.examine import path_of
from bascule.model.keys import format_key
from bascule.model.problems import Problem
from bascule.process.configuration import return_freed_memory

if TYPE_CHECKING:
    from bascule.change.compiled import CompiledSnapshot, KeptImages, RejectedRoute
    from bascule.model.tree import Tree
    from bascule.process.publisher import Publisher

IN_THREAD: Final = 500
"""Edits from which on a compilation is left to a thread: 500 take a few milliseconds."""
FOLD_AFTER: Final = 64
"""Snapshots that a fold which is due is put off for while changes keep coming."""


class Compiling:
    """A SnapshotCompiler and what is known of it. The caller sees to it that only one call is under way."""

    def __init__(self, slot: Callable[[str, str], int], publisher: Publisher) -> None:
        """See `compile_snapshot` for `slot`."""
        self._compiler = SnapshotCompiler(slot)
        self._publisher = publisher
        self._put_off = 0
        self.ready = False
        """Whether edits can be applied: everything has been compiled before, and nothing went wrong since."""
        self.identity = ""
        self.folds = 0

    def first(self, tree: Tree, addresses: Mapping[str, bytes], revision: int, store_revision: int) -> CompiledSnapshot:
        """Compile everything."""
        compiled = self._compiler.full(
            tree,
            revision=revision,
            addresses=addresses,
            store_revision=store_revision,
            store_identity=number_of(self.identity),
        )
        self.ready = True
        return compiled

    async def again(
        self, tree: Tree, addresses: Mapping[str, bytes], store_revision: int
    ) -> tuple[CompiledSnapshot, bool]:
        """Compile everything in a master that others have snapshots of; tell whether the workers run this very one."""
        publisher = self._publisher
        compiled = await asyncio.to_thread(self.first, tree, addresses, publisher.revision, store_revision)
        assert compiled.records is not None
        if compiled.records.read() == publisher.image():
            return compiled, True
        rejected, base = compiled.rejected, compiled.base
        compiled = self._apply((), store_revision)
        compiled.rejected, compiled.base = rejected, compiled.base or base
        return compiled, False

    async def apply(self, edits: Sequence[Edit], store_revision: int) -> CompiledSnapshot:
        """Compile what changed; what grows with the table is done by a thread."""
        base = None
        if self.fold_due:
            self._put_off += 1
            if self._put_off > FOLD_AFTER:
                base = (await self.fold(store_revision)).base
        if len(edits) < IN_THREAD:
            compiled = self._apply(edits, store_revision)
        else:
            compiled = await asyncio.to_thread(self._apply, edits, store_revision)
        compiled.base = compiled.base or base
        return compiled

    def _apply(self, edits: Sequence[Edit], store_revision: int) -> CompiledSnapshot:
        try:
            return self._compiler.apply(
                edits,
                revision=self._publisher.revision + 1,
                store_revision=store_revision,
                store_identity=number_of(self.identity),
                fold=False,
            )
        except BaseException:
            self.ready = False
            raise

    @property
    def clean(self) -> bool:
        """Whether no edit has come since everything was compiled, so that `keep` gives something."""
        return self.ready and self._compiler.clean

    def keep(self) -> KeptImages | None:
        """Return what another master can `restore`, None when it is not `clean`: `fold` first."""
        return self._compiler.keep() if self.ready else None

    def restore(self, kept: KeptImages, edits: Sequence[Edit], store_revision: int) -> CompiledSnapshot | None:
        """Go on from kept images and edits after them; None, and nothing, when an edit is refused."""
        compiled = self._compiler.restore(kept)
        base = compiled.base
        self._publisher.revision = compiled.revision
        self.ready = True
        if edits:
            compiled = self._apply(edits, store_revision)
            compiled.base = compiled.base or base
        self.ready = not compiled.rejected and not compiled.rejected_edits
        return compiled if self.ready else None

    @property
    def fold_due(self) -> bool:
        """Whether changed routes and garbage have become so many that everything should be folded together."""
        return self.ready and self._compiler.fold_due

    async def fold(self, store_revision: int) -> CompiledSnapshot:
        """Fold everything together, in a thread."""
        self._put_off = 0
        self.folds += 1
        compiled: CompiledSnapshot = await asyncio.to_thread(
            self._compiler.fold,
            revision=self._publisher.revision + 1,
            store_revision=store_revision,
            store_identity=number_of(self.identity),
        )
        return_freed_memory()
        return compiled

    def set_addresses(self, addresses: Mapping[str, bytes]) -> bool:
        """Take over what the resolver knows now; tell whether any server has another address."""
        return self._compiler.set_addresses(addresses) > 0


def images_of(compiled: CompiledSnapshot) -> list[int]:
    """Return descriptors of a snapshot's images, the caller's: the records and, when that is new, the routes base."""
    assert compiled.records is not None
    return [image.duplicate() for image in (compiled.records, compiled.base) if image is not None]


def refusals(compiled: CompiledSnapshot) -> list[tuple[str, Problem]]:
    """Return the keys of the objects that were refused, and why."""
    found = [(f"frontends/{route.frontend}", _route_problem(route)) for route in compiled.rejected]
    for edit in compiled.rejected_edits:
        key = format_key(edit.kind, edit.id, edit.owner)
        found.append((key, Problem(path=path_of(key), message=edit.message, remedy=edit.remedy)))
    return found


def number_of(identity: str) -> int:
    """Return a store's identity as the image has it: a number of 64 bits."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little") if identity else 0


def _route_problem(route: RejectedRoute) -> Problem:
    return Problem(
        path=("frontends", route.frontend, "route"),
        message=f"{route.message}, at character {route.position + 1} of the route",
        remedy=route.remedy,
    )
