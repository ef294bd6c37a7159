"""Keys of objects: the same in every store (below its prefix), in the API's paths and in messages.

    settings | listeners/<id> | hosts/<name> | backends/<id> | backends/<id>/servers/<sid>
    frontends/<id> | frontends/<id>/middlewares/<mid>

A backend's value has no `servers`, a frontend's no `middlewares`: they are objects of their own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from bascule.model import tree

KINDS: Final[dict[str, str]] = {
    "listeners": "listener",
    "hosts": "host",
    "backends": "backend",
    "frontends": "frontend",
}
CHILDREN: Final[dict[str, tuple[str, str]]] = {
    "backends": ("servers", "server"),
    "frontends": ("middlewares", "middleware"),
}
SETTINGS: Final = "settings"
REMEMBERED: Final = 1024
REMEMBERED_BYTES: Final = 128
"""Longer keys are taken apart again every time: who writes keys must not decide how much memory they take."""


class ObjectKey(NamedTuple):
    """A key taken apart. `owner` is the backend of a server and the frontend of a middleware, else empty."""

    kind: str
    """settings, listener, host, backend, server, frontend or middleware."""
    id: str
    owner: str = ""


def parse_key(key: str) -> ObjectKey | None:
    """Take a key apart; None when no object has such a key. Whether the ids are in order is validation's question."""
    # A change asks four times for each of its keys.
    return _remembered(key) if len(key) <= REMEMBERED_BYTES else _parse(key)


def _parse(key: str) -> ObjectKey | None:
    parts = key.split("/")
    if key == SETTINGS:
        return ObjectKey(SETTINGS, SETTINGS)
    if not all(parts) or parts[0] not in KINDS:
        return None
    if len(parts) == 2:
        return ObjectKey(KINDS[parts[0]], parts[1])
    if len(parts) == 4 and parts[0] in CHILDREN and parts[2] == CHILDREN[parts[0]][0]:
        return ObjectKey(CHILDREN[parts[0]][1], parts[3], parts[1])
    return None


_remembered: Final = lru_cache(REMEMBERED)(_parse)


def format_key(kind: str, name: str, owner: str = "") -> str:
    """Put a key together."""
    if kind == SETTINGS:
        return SETTINGS
    if owner:
        collection = "backends" if kind == "server" else "frontends"
        return f"{collection}/{owner}/{CHILDREN[collection][0]}/{name}"
    return f"{next(plural for plural, singular in KINDS.items() if singular == kind)}/{name}"


def record_type(kind: str) -> object:
    """Return the type that an object's value decodes to (a union for middlewares)."""
    return {
        "settings": tree.Settings,
        "listener": tree.Listener,
        "host": tree.Host,
        "backend": tree.Backend,
        "server": tree.Server,
        "frontend": tree.Frontend,
        "middleware": tree.Middleware,
    }[kind]
