"""Where things stand in etcd.

    <prefix>/<key>                    an object, as `model/keys.py` names them
    <prefix>/.mark                    put by a transaction that only removes, so that nobody takes it for an expiry
    <prefix>.history/<time>-<random>  one record of what a transaction changed

`.` sorts before `/`, so the history is outside of the range that is watched.
"""

from __future__ import annotations

import secrets
from typing import Final

MARK: Final = b".mark"


class Layout:
    """One prefix. `/bascule` and `/bascule/` are the same; the leading slash is taken as it is written."""

    def __init__(self, prefix: str) -> None:
        """See the class."""
        bare = prefix.rstrip("/").encode()
        self.start = bare + b"/"
        self.end = bare + b"0"
        self.mark = self.start + MARK
        self.history_start = bare + b".history/"
        self.history_end = bare + b".history0"

    def key(self, name: str) -> bytes:
        """Return where an object is."""
        return self.start + name.encode()

    def below(self, name: str) -> tuple[bytes, bytes]:
        """Return the range of what is below an object: `<key>/` to `<key>0`, which `<key>0` itself is not in."""
        return self.key(name) + b"/", self.key(name) + b"0"

    def holds(self, key: bytes) -> bool:
        """Tell whether a place is in the range that is read and watched."""
        return self.start <= key < self.end

    def name(self, key: bytes) -> str | None:
        """Return which object is at a place; None for what is none."""
        if key == self.mark or not key.startswith(self.start):
            return None
        return key[len(self.start) :].decode("utf-8", "backslashreplace")

    def record(self, at_s: float) -> bytes:
        """Return a place for a history record that is no other's. Their order is that of time."""
        return self.history_start + f"{int(at_s * 1000):015d}-{secrets.token_hex(6)}".encode()
