"""The plain way through the routes file of `bascule proxy`. Whatever is not plainly in order is left to store.proxy."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, final

_Pool = TypeVar("_Pool")

@final
class PlainFrontend:
    """model.tree.Frontend with the defaults of all fields but `route` and `backend`."""

    priority: ClassVar[int]
    max_body_bytes: ClassVar[int]
    middlewares: ClassVar[dict[str, Any]]
    def __init__(self, route: str, backend: str) -> None:
        """See the class."""
    @property
    def route(self) -> str:
        """The route's expression."""
    @property
    def backend(self) -> str:
        """The id of the backend."""

def read_plain_routes(
    text: bytes, pool_of: Callable[[list[str]], _Pool], prefix_id: Callable[[str], str]
) -> tuple[dict[str, _Pool], dict[str, PlainFrontend]] | None:
    """Return backends and frontends of `PREFIX HOST:PORT ...` lines by id; None when a line is unusual or wrong.

    `pool_of` makes a backend of the addresses of a line; lines with the same addresses share it. `prefix_id` names the
    prefixes whose id is not just their text with dots for slashes.
    """
