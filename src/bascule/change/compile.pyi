"""The snapshot compiler: a validated tree, and then one edit after another, to the images of cext/bascule/shared/snapshot.pxd."""

from collections.abc import Callable, Iterable, Mapping

from bascule.change.compiled import CompiledSnapshot, KeptImages
from bascule.change.edits import Edit
from bascule.model.tree import Tree

def compile_snapshot(
    tree: Tree,
    *,
    revision: int,
    slot: Callable[[str, str], int],
    addresses: Mapping[str, bytes],
    store_revision: int = 0,
    store_identity: int = 0,
) -> CompiledSnapshot:
    """Compile a tree that change.validate found no error in, to one image that holds everything (`image`).

    `slot(kind, id)` gives the identity number of an object: kind is "listener", "backend", "server" (its id is
    "backend/server") or "frontend". `addresses` maps "name:port" to a struct sockaddr; literal addresses need no entry,
    and a name without one is compiled as unresolved. Same arguments, same bytes. ValueError for a value that validation
    would have refused.
    """

class SnapshotCompiler:
    """Compiles one revision after another, at the cost of what has changed and one copy of the records.

    Owner: the master, one for its life; not for two threads at once. Keeps no object of the tree: routes as text, all
    else as the records of the last image. Equal calls in equal order give equal bytes.

        (empty) --full--> compiled --apply--> compiled ...       an error other than a rejection: back to (empty)
    """

    def __init__(self, slot: Callable[[str, str], int]) -> None:
        """See `compile_snapshot` for `slot`; it is asked once for every object that is new."""

    def full(
        self,
        tree: Tree,
        *,
        revision: int,
        addresses: Mapping[str, bytes],
        store_revision: int = 0,
        store_identity: int = 0,
    ) -> CompiledSnapshot:
        """Compile a whole tree: `records` and `base` are both new. Forgets whatever was compiled before."""

    def apply(
        self,
        edits: Iterable[Edit],
        *,
        revision: int,
        store_revision: int = 0,
        store_identity: int = 0,
        fold: bool = True,
    ) -> CompiledSnapshot:
        """Compile what the last image says after `edits`, one after the other; without edits, a new address or revision.

        `records` is new; `base` only when garbage and changed routes have passed their bound and everything was folded
        together (`full`), which `fold=False` puts off, so that it may be done by `fold` at a better time. An edit that
        cannot be compiled is in `rejected`, and its object stays as it was. ValueError before `full`.
        """

    def fold(self, *, revision: int, store_revision: int = 0, store_identity: int = 0) -> CompiledSnapshot:
        """Compile the same content as a full compilation would: both images new, no garbage, no changed routes aside.

        The GIL is released again and again, so a thread may do it while others go on with other things.
        """

    @property
    def clean(self) -> bool:
        """Whether the images say everything: no edit has come since the last full compilation."""

    def keep(self) -> KeptImages | None:
        """Return what another compiler can `restore`; the caller closes it. None when it is not `clean`: `fold` first."""

    def restore(self, kept: KeptImages) -> CompiledSnapshot:
        """Go on where another compiler of the same build was when it gave `kept`, which stays the caller's. Nothing is
        compiled: the images are those. `waiting`, `unresolved` and the like are empty, and so is the count of
        listeners. ValueError when the parts do not fit their own sizes."""

    @property
    def fold_due(self) -> bool:
        """Whether garbage or changed routes have passed their bound, max(256, a sixteenth of the table)."""

    def set_addresses(self, addresses: Mapping[str, bytes]) -> int:
        """Take over what the resolver knows now; the number of servers that `apply` will publish with another address."""

    @property
    def unresolved(self) -> tuple[str, ...]:
        """Authorities, "name:port", of all servers that have no address, sorted. Looks at every server."""

    @property
    def waiting(self) -> tuple[str, ...]:
        """Ids of all frontends whose backend does not exist, sorted. Looks at every frontend."""
