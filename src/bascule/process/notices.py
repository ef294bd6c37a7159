"""What happens in a master, told to whoever listens: the event stream of the admin API."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from bascule.change.live import Notice

BEHIND_MAX: Final = 1000
"""Notices that a reader may be behind; then it gets an error and has to start again."""


class ReaderTooSlowError(Exception):
    """A reader of notices was too far behind, and has missed some."""


class _Reader:
    def __init__(self) -> None:
        self.notices: deque[Notice] = deque()
        self.wake = asyncio.Event()
        self.lost = False


class Notices:
    """Hands every notice to every reader there is; keeps none for later ones."""

    def __init__(self) -> None:
        """See the class."""
        self._readers: set[_Reader] = set()

    def tell(self, kind: Any, revision: int, data: Mapping[str, Any]) -> None:
        """Say that something happened."""
        if not self._readers:
            return
        notice = Notice(kind, revision, time.time(), data)
        for reader in self._readers:
            if len(reader.notices) >= BEHIND_MAX:
                reader.lost = True
                reader.notices.clear()
            if not reader.lost:
                reader.notices.append(notice)
            reader.wake.set()

    @property
    def heard(self) -> bool:
        """Whether anybody listens: what is costly to say need not be said otherwise."""
        return bool(self._readers)

    async def read(self) -> AsyncIterator[Notice]:
        """Yield what is told from now on; ReaderTooSlowError when the caller is too far behind."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while True:
                while reader.notices:
                    yield reader.notices.popleft()
                if reader.lost:
                    raise ReaderTooSlowError(f"{BEHIND_MAX} notices behind: start again")
                reader.wake.clear()
                await reader.wake.wait()
        finally:
            self._readers.discard(reader)
