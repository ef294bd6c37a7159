"""What decoding cannot see in the `[store]` table: endpoints, file names, and bounds of its durations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bascule.model import limits
from bascule.model.problems import Path, Problem
from bascule.model.quantities import duration_ms
from bascule.model.tree import Store

_PATH: Final[Path] = ("store",)
ENDPOINT_REMEDY: Final = (
    'write "http://HOST:2379" or "https://HOST:2379"; user and password are no part of it (username, password_file)'
)
_BOUNDS_MS: Final = {
    "poll_interval": (1, limits.DURATION_MAX_MS),
    "history_age": (60_000, limits.HISTORY_AGE_MAX_MS),
    "timeout": (100, 600_000),
    "coalesce": (0, 10_000),
    "coalesce_max": (0, 10_000),
    "reconcile_interval": (0, limits.DURATION_MAX_MS),
    "pool_loss_window": (0, 3_600_000),
}


def store_problems(store: Store) -> Iterator[Problem]:
    """Yield everything that is wrong with the table."""
    yield from _durations(store)
    for field in ("path", "password_file", "ca_file", "cert_file", "key_file"):
        value = getattr(store, field)
        if value and (not value.startswith("/") or "\0" in value):
            yield Problem(
                path=(*_PATH, field), message=f"{value!r} is not an absolute path", remedy="begin it with a slash"
            )
    if store.type in ("etcd", "vulcand"):
        yield from _etcd(store)


def _durations(store: Store) -> Iterator[Problem]:
    for field, (least, most) in _BOUNDS_MS.items():
        text = getattr(store, field)
        if not least <= duration_ms(text) <= most:
            yield Problem(
                path=(*_PATH, field),
                message=f"{field} of {text} is outside {least}ms to {most}ms",
                remedy=f'use a duration of at least "{least}ms" and at most "{most // 1000}s"',
            )
    if duration_ms(store.coalesce_max) < duration_ms(store.coalesce):
        yield Problem(
            path=(*_PATH, "coalesce_max"),
            message=f"coalesce_max of {store.coalesce_max} is shorter than coalesce",
            remedy=f'use at least "{store.coalesce}"',
        )


def _etcd(store: Store) -> Iterator[Problem]:
    yield from endpoint_problems(store)
    if store.prefix and (not store.prefix.startswith("/") or "//" in store.prefix or not store.prefix.strip("/")):
        yield Problem(
            path=(*_PATH, "prefix"),
            message=f"{store.prefix!r} is not a prefix of keys",
            remedy='begin it with one slash: "/bascule"',
        )
    if store.password_file and not store.username:
        # The other way round the password is in the environment, which only the process that connects knows.
        yield Problem(
            path=(*_PATH, "username"),
            message="password_file is given without a username",
            remedy="give both or neither",
        )
    if bool(store.cert_file) != bool(store.key_file):
        yield Problem(
            path=(*_PATH, "cert_file" if store.key_file else "key_file"),
            message="cert_file and key_file only make sense together",
            remedy="give both or neither",
        )


def endpoint_problems(store: Store) -> Iterator[Problem]:
    """Yield what is wrong with the endpoints, without what may be a password."""
    if not store.endpoints:
        yield Problem(path=(*_PATH, "endpoints"), message="no endpoint is given", remedy='write ["http://HOST:2379"]')
    for index, endpoint in enumerate(store.endpoints):
        if not endpoint_valid(endpoint):
            yield Problem(
                path=(*_PATH, "endpoints", str(index)),
                message=f"{endpoint.rpartition('@')[2]!r} is not the address of an etcd member",
                remedy=ENDPOINT_REMEDY,
            )


def endpoint_valid(endpoint: str) -> bool:
    """Tell whether a text is `[http[s]://]HOST:PORT`."""
    authority = (
        endpoint.removeprefix("http://") if endpoint.startswith("http://") else endpoint.removeprefix("https://")
    )
    host, colon, port = authority.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) <= limits.PORT_MAX:
        return False
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return False
    return not set(host) & set("/@?# \t")
