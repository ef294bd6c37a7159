"""A vulcand tree in etcd: the acceptance suite for read-only stores, and what is of vulcand alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bascule.change.examine import examine
from bascule.store.interface import Store
from bascule.store.vulcand.store import VulcandStore
from kit.etcd import Etcd
from kit.following import Follower
from store.acceptance import Harness, ReadOnlyAcceptance


def vulcand_key(key: str) -> str:
    """Return where vulcand has what we call `key`."""
    leaf = {"backends": "/backend", "frontends": "/frontend", "hosts": "/host"}
    return key + (leaf.get(key.partition("/")[0], "") if key.count("/") == 1 else "")


def vulcand_value(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vulcand has for an object that is only as much as the acceptance suite puts."""
    if key.count("/") == 3:
        return {"Id": key.rpartition("/")[2], "URL": value["url"]}
    return {"Id": key.rpartition("/")[2], "Type": "http", "Settings": {"KeepAlive": {"Period": "30s"}}}


class VulcandHarness(Harness):
    """One etcd; every fresh store is another prefix. Somebody else is etcdctl, in vulcand's layout."""

    writable = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.etcd = Etcd().start()
        self.count = 0

    @property
    def prefix(self) -> str:
        return f"/vulcand{self.count}"

    def fresh(self) -> None:
        self.count += 1

    def open(self) -> Store:
        return VulcandStore(self.etcd.options(self.prefix))

    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        self.etcd.transact(
            {f"{self.prefix}/{vulcand_key(key)}": json.dumps(vulcand_value(key, value)) for key, value in puts.items()},
            [f"{self.prefix}/{vulcand_key(key)}" for key in removes],
        )

    def compact(self) -> None:
        self.etcd.compact()

    def stop(self) -> None:
        self.etcd.kill()


class TestVulcand(ReadOnlyAcceptance):
    harness_type = VulcandHarness
