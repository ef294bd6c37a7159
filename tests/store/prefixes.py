"""One etcd for the acceptance suite: every fresh store is another prefix of it, and somebody else is etcdctl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Store
from bascule.store.vulcand.store import VulcandStore
from kit.etcd import Etcd
from store.acceptance import Harness


class PrefixHarness(Harness):
    """Subclasses say which store it is, and where and how that has what the suite puts."""

    store: ClassVar[type[EtcdStore] | type[VulcandStore]]
    root: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.etcd = Etcd().start()
        self.count = 0

    @property
    def prefix(self) -> str:
        return f"{self.root}{self.count}"

    def place(self, key: str) -> str:
        """Return where the store has an object, below its prefix."""
        return key

    def stored(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the store has for an object."""
        del key
        return value

    def fresh(self) -> None:
        self.count += 1

    def open(self) -> Store:
        return self.store(self.etcd.options(self.prefix))

    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        self.etcd.transact(
            {f"{self.prefix}/{self.place(key)}": json.dumps(self.stored(key, value)) for key, value in puts.items()},
            [f"{self.prefix}/{self.place(key)}" for key in removes],
        )

    def compact(self) -> None:
        self.etcd.compact()

    def stop(self) -> None:
        self.etcd.kill()
