"""Which store: by the `[store]` table of the file and what the command line says in its place."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Final

from bascule.model.quantities import duration_ms

if TYPE_CHECKING:
    from bascule.model.tree import Store as StoreTable
    from bascule.store.interface import Store

DATABASE: Final = "store.sqlite"


def open_store(table: StoreTable, *, config_file: str = "", state_directory: str = "") -> Store:
    """Return the store that a table describes. Nothing is read yet: what is wrong with it, its first call says.

    `state_directory` is where the embedded one lives unless its `path` says otherwise: a place that no reboot empties.

    Imports what the kind needs and nothing else: gRPC only for etcd and vulcand.
    """
    if table.type == "embedded":
        from bascule.store.embedded import EmbeddedStore

        return EmbeddedStore(
            table.path or os.path.join(state_directory, DATABASE),
            history_revisions=table.history_revisions,
            history_s=duration_ms(table.history_age) / 1000,
        )
    if table.type == "etcd":
        return _by_name("bascule.store.etcd.store", "EtcdStore", table)
    if table.type == "vulcand":
        return _by_name("bascule.store.vulcand.store", "VulcandStore", table)
    from bascule.store.file_objects import FileStore

    return FileStore(config_file, poll_interval_s=duration_ms(table.poll_interval) / 1000, follow=table.watch)


def _by_name(module: str, name: str, table: StoreTable) -> Store:
    store: Store = getattr(importlib.import_module(module), name)(table.etcd_options())
    return store
