"""The store in etcd: the acceptance suite, and what is of etcd alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Store
from kit.etcd import Etcd
from store.acceptance import Harness
from store.acceptance_writable import WritableAcceptance


class EtcdHarness(Harness):
    """One etcd; every fresh store is another prefix of it. Somebody else is etcdctl."""

    lease_ms = 2000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.etcd = Etcd().start()
        self.count = 0

    @property
    def prefix(self) -> str:
        return f"/fresh{self.count}"

    def fresh(self) -> None:
        self.count += 1

    def open(self) -> Store:
        return EtcdStore(self.etcd.options(self.prefix))

    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        self.etcd.transact(
            {f"{self.prefix}/{key}": json.dumps(value) for key, value in puts.items()},
            [f"{self.prefix}/{key}" for key in removes],
        )

    def compact(self) -> None:
        self.etcd.compact()

    def stop(self) -> None:
        self.etcd.kill()


class TestEtcd(WritableAcceptance):
    harness_type = EtcdHarness
