"""The snapshot compiler: a validated tree to the image of cext/bascule/shared/snapshot.pxd."""

from collections.abc import Callable, Mapping

from bascule.change.compiled import CompiledSnapshot
from bascule.model.tree import Tree

def compile_snapshot(
    tree: Tree,
    *,
    revision: int,
    slot: Callable[[str, str], int],
    addresses: Mapping[str, bytes],
) -> CompiledSnapshot:
    """Compile a tree that change.validate found no error in.

    `slot(kind, id)` gives the identity number of an object: kind is "listener", "backend", "server" (its id is
    "backend/server") or "frontend". `addresses` maps "name:port" to a struct sockaddr; literal addresses need no entry,
    and a name without one is compiled as unresolved. Same arguments, same bytes. ValueError for a value that validation
    would have refused.
    """
