"""Host names of servers at a cold start: a moment's patience before the first snapshot, so that it has addresses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from bascule.change.resolve import Resolver, names_of
from bascule.model.tree import Tree

PATIENCE_S = 2.0
"""A name server that takes longer holds up nobody else: its servers come with a later snapshot."""


def resolve_now(tree: Tree) -> dict[str, bytes]:
    """Return the socket addresses of the server names that can be resolved at once, by authority."""
    return asyncio.run(resolve_in_loop(names_of(tree)))


async def resolve_in_loop(names: Mapping[str, float]) -> dict[str, bytes]:
    """Return the same for names (authority to interval in seconds), in a running loop."""
    resolver = Resolver()
    resolver.want(names)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(resolver.refresh(), PATIENCE_S)
    try:
        return resolver.addresses()
    finally:
        resolver.close()
