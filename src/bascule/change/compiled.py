"""What compiling gives, besides the images. Plain classes: msgspec would cost a start 20 ms of CPU."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.shared.snapshot import SealedImage


class RejectedRoute:
    """A frontend that the image leaves out (or keeps as it was) because its route expression cannot be compiled.

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


class RejectedEdit:
    """An edit of anything but a route that cannot be compiled; its object stays as it was."""

    __slots__ = ("id", "kind", "message", "owner", "remedy")

    def __init__(self, kind: str, owner: str, id: str, message: str, remedy: str) -> None:
        """See change.edits.Edit for kind, owner and id."""
        self.kind = kind
        self.owner = owner
        self.id = id
        self.message = message
        self.remedy = remedy


class KeptImages:
    """What a compiler goes on from without compiling: two descriptors of sealed memfds, the holder's until `close`, the
    routes' texts and places as the compiler packs them, and the addresses that the records were compiled with."""

    __slots__ = ("addresses", "base", "records", "sources")

    def __init__(self, records: int, base: int, sources: bytes | memoryview, addresses: dict[str, bytes]) -> None:
        """See the class."""
        self.records = records
        self.base = base
        self.sources = sources
        self.addresses = addresses

    def close(self) -> None:
        """Close the descriptors."""
        import os

        os.close(self.records)
        os.close(self.base)


class CompiledSnapshot:
    """One compiled revision. Holds no part of the tree: keep the images only until they are published.

    Of a whole tree `rejected`, `conflicts`, `waiting` and `unresolved` are of everything in it; of edits they are of what
    was edited, and of the frontends whose backend came with the edits.
    """

    __slots__ = (
        "backends",
        "base",
        "conflicts",
        "frontends",
        "full",
        "image",
        "listeners",
        "records",
        "rejected",
        "rejected_edits",
        "revision",
        "servers",
        "unresolved",
        "waiting",
    )

    def __init__(
        self,
        *,
        revision: int,
        conflicts: tuple[Any, ...],
        waiting: tuple[str, ...],
        rejected: tuple[RejectedRoute, ...],
        unresolved: tuple[str, ...],
        listeners: int,
        backends: int,
        servers: int,
        frontends: int,
        image: bytes = b"",
        records: SealedImage | None = None,
        base: SealedImage | None = None,
        rejected_edits: tuple[RejectedEdit, ...] = (),
        full: bool = True,
    ) -> None:
        """`listeners`, `backends`, `servers` and `frontends` are counts."""
        self.image = image
        """Everything in one image: what `compile_snapshot` gives, and only that."""
        self.records = records
        """What SnapshotCompiler gives: records and changed routes, in a sealed memfd, ..."""
        self.base = base
        """... and the routes that `records` refers to, when they are new."""
        self.full = full
        """Whether everything was compiled, so that `base` is new."""
        self.revision = revision
        self.conflicts = conflicts
        """What the route compiler reports: equal routes in two frontends."""
        self.waiting = waiting
        """Frontends whose backend does not exist yet; they take no requests until it does."""
        self.rejected = rejected
        self.rejected_edits = rejected_edits
        self.unresolved = unresolved
        """Authorities, "name:port", of servers that have no address yet; they take no requests until they do."""
        self.listeners = listeners
        self.backends = backends
        self.servers = servers
        self.frontends = frontends
