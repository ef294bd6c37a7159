"""Host names of servers to socket addresses, outside the way of every request."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.model.tree import Tree


def resolve_now(tree: Tree) -> dict[str, bytes]:
    return {}
