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
_RUN: Final = ("/run/", "/var/run/")


def open_store(table: StoreTable, *, config_file: str = "", state_directory: str = "") -> Store:
    """Return the store that a table describes. Nothing is read yet: what is wrong with it, its first call says.

    Imports what the kind needs and nothing else: gRPC only for etcd and vulcand.
    """
    if table.type == "embedded":
        from bascule.store.embedded import EmbeddedStore

        return EmbeddedStore(
            table.path or database_path(state_directory),
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


def database_path(state_directory: str) -> str:
    """Return where the embedded store lives when `path` does not say.

    The state directory holds it, unless that is on a file system that a reboot empties: the default one is, /run. Then it
    is systemd's StateDirectory= if there is one, else /var/lib/NAME for root and ~/.local/state/NAME for others.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return os.path.join(given, DATABASE)
    runtime = os.environ.get("XDG_RUNTIME_DIR") or ""
    state_directory = os.path.abspath(state_directory)
    if not (state_directory + "/").startswith(_RUN if not runtime else (*_RUN, runtime + "/")):
        return os.path.join(state_directory, DATABASE)
    name = os.path.basename(state_directory)
    if os.geteuid() == 0:
        return os.path.join("/var/lib", name, DATABASE)
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), name, DATABASE)
