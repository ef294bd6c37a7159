"""Import what a master may ever need, while what is on disk is still the version that it runs.

A package may be upgraded in place: a module that was first imported after that would be of another version than the rest.
"""

from __future__ import annotations

import importlib
import pkgutil

PACKAGES = ("admin", "change", "health", "model", "process", "routing", "shared")
STORES = {
    "etcd": "bascule.store.etcd.store",
    "embedded": "bascule.store.embedded",
    "vulcand": "bascule.store.vulcand.store",
}


def preload(store: str) -> int:
    """Import every module of the packages that a master consists of, and its store's; return how many there are.

    `store` is the store's type; the libraries of the others would only take memory.
    """
    found = 0
    for package in PACKAGES:
        module = importlib.import_module(f"bascule.{package}")
        for info in pkgutil.iter_modules(module.__path__, f"bascule.{package}."):
            importlib.import_module(info.name)
            found += 1
    for name in ("bascule.store.open", "bascule.store.file", "bascule.store.proxy", STORES.get(store, "")):
        if name:
            importlib.import_module(name)
            found += 1
    return found
