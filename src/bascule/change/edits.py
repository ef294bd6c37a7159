"""One object's change on its way to the compiler: decoded and in order, whatever store it came from."""

from __future__ import annotations

import msgspec

from bascule.model.tree import Record


class Edit(msgspec.Struct, frozen=True, gc=False):
    """Put or remove one object. A backend comes without its servers, a frontend without its middlewares.

    Removing a backend or a frontend removes what is below it. A server or middleware whose owner is not there, and a
    frontend whose backend is not there, wait for it.
    """

    kind: str
    """listener, host, backend, server, frontend or middleware."""
    id: str
    record: Record | None
    """None: removed."""
    owner: str = ""
    """The backend of a server, the frontend of a middleware."""
