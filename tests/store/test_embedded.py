"""The embedded store: the acceptance suite, and what only a database on disk can go through."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Store
from store.acceptance import Harness
from store.acceptance_writable import WritableAcceptance

WRITER = """
import asyncio, json, sys
from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Put, Remove, Transaction

async def main():
    store = EmbeddedStore(sys.argv[1])
    for line in sys.stdin:
        puts, removes = json.loads(line)
        operations = [Put(key, json.dumps(value).encode()) for key, value in puts.items()]
        await store.commit(Transaction((*operations, *(Remove(key, below=False) for key in removes))))
        print("done", flush=True)

asyncio.run(main())
"""


class EmbeddedHarness(Harness):
    """A database file; somebody else is a process of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.count = 0
        self.writer: subprocess.Popen[str] | None = None

    @property
    def path(self) -> str:
        return str(self.folder / f"{self.count}" / "store.sqlite")

    def fresh(self) -> None:
        self.stop()
        self.count += 1

    def open(self) -> Store:
        return EmbeddedStore(self.path)

    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        if self.writer is None:
            command = [sys.executable, "-c", WRITER, self.path]
            self.writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.writer.stdin is not None
        assert self.writer.stdout is not None
        self.writer.stdin.write(json.dumps([puts, list(removes)]) + "\n")
        self.writer.stdin.flush()
        assert self.writer.stdout.readline() == "done\n"

    def compact(self) -> None:
        from bascule.store.embedded_database import Database

        database = Database(self.path)
        database.compact(0, 1e9, 1 << 30)
        database.close()

    def stop(self) -> None:
        if self.writer is not None:
            self.writer.communicate()
            self.writer = None


class TestEmbedded(WritableAcceptance):
    harness_type = EmbeddedHarness
