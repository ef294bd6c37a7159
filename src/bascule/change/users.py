"""Which frontends lead to which backend, of what is in force."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.change.examine import decode_record
from bascule.change.packed import Packed
from bascule.model.keys import ObjectKey
from bascule.model.tree import Frontend


class Users:
    """BACKEND/FRONTEND for each of them: the backend is the owner."""

    def __init__(self) -> None:
        """See the class."""
        self._pairs = Packed()

    def __len__(self) -> int:
        return len(self._pairs)

    def fill(self, frontends: Mapping[str, Frontend]) -> None:
        """Take in frontends, by id, of which none is known yet."""
        for name, frontend in frontends.items():
            self._add(frontend.backend, name)

    def of(self, backend: str) -> list[str]:
        """Return the keys of the frontends that lead to a backend."""
        start = len(backend) + 1
        return ["frontends/" + pair[start:] for pair in self._pairs.members(backend)]

    def refer(self, key: str, after: bytes | None, before: bytes | None = None) -> None:
        """Follow an object from one form in force to another; anything but a frontend is left aside."""
        if not key.startswith("frontends/") or key.count("/") != 1:
            return
        parsed = ObjectKey("frontend", key.partition("/")[2])
        if before is not None:
            former = decode_record(parsed, before)
            assert isinstance(former, Frontend)
            self._pairs.remove(f"{former.backend}/{parsed.id}")
        if after is not None:
            record = decode_record(parsed, after)
            assert isinstance(record, Frontend)
            self._add(record.backend, parsed.id)

    def _add(self, backend: str, frontend: str) -> None:
        self._pairs.put(f"{backend}/{frontend}", owner_length=len(backend.encode()))
