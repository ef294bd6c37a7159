"""What compiling a tree gives, besides the image."""

from typing import Any

import msgspec


class RejectedRoute(msgspec.Struct, frozen=True):
    """A frontend that the image leaves out because its route expression cannot be compiled.

    `position` is the offset in the expression, in characters from 0.
    """

    frontend: str
    expression: str
    message: str
    position: int
    remedy: str


class CompiledSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One compiled revision. Holds no part of the tree: keep `image` only until it is in its memfd."""

    image: bytes
    revision: int
    conflicts: tuple[Any, ...]
    """What the route compiler reports: equal routes in two frontends."""
    waiting: tuple[str, ...]
    """Frontends whose backend does not exist yet; they take no requests until it does."""
    rejected: tuple[RejectedRoute, ...]
    unresolved: tuple[str, ...]
    """Authorities, "name:port", of servers that have no address yet; they take no requests until they do."""
    listeners: int
    backends: int
    servers: int
    frontends: int
