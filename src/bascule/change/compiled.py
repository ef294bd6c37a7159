"""What compiling a tree gives, besides the image. Plain classes: msgspec would cost a start 20 ms of CPU."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RejectedRoute:
    """A frontend that the image leaves out because its route expression cannot be compiled.

    `position` is the offset in the expression, in characters from 0.
    """

    __slots__ = ("expression", "frontend", "message", "position", "remedy")

    def __init__(self, frontend: str, expression: str, message: str, position: int, remedy: str) -> None:
        """See the class."""
        self.frontend = frontend
        self.expression = expression
        self.message = message
        self.position = position
        self.remedy = remedy


class CompiledSnapshot:
    """One compiled revision. Holds no part of the tree: keep `image` only until it is in its memfd."""

    __slots__ = (
        "backends",
        "conflicts",
        "frontends",
        "image",
        "listeners",
        "rejected",
        "revision",
        "servers",
        "unresolved",
        "waiting",
    )

    def __init__(
        self,
        *,
        image: bytes,
        revision: int,
        conflicts: tuple[Any, ...],
        waiting: tuple[str, ...],
        rejected: tuple[RejectedRoute, ...],
        unresolved: tuple[str, ...],
        listeners: int,
        backends: int,
        servers: int,
        frontends: int,
    ) -> None:
        """`listeners`, `backends`, `servers` and `frontends` are counts."""
        self.image = image
        self.revision = revision
        self.conflicts = conflicts
        """What the route compiler reports: equal routes in two frontends."""
        self.waiting = waiting
        """Frontends whose backend does not exist yet; they take no requests until it does."""
        self.rejected = rejected
        self.unresolved = unresolved
        """Authorities, "name:port", of servers that have no address yet; they take no requests until they do."""
        self.listeners = listeners
        self.backends = backends
        self.servers = servers
        self.frontends = frontends
