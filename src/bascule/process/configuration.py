"""From the store to a compiled snapshot: what the master does to a configuration before anybody else hears of it."""

from __future__ import annotations

import os

from bascule.model.problems import ConfigError, Problem
from bascule.model.quantities import duration_ms, size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from bascule.change.compiled import CompiledSnapshot
    from bascule.model.tree import Tree


class Configuration:
    """A tree that is in order, where it came from, and its warnings."""

    def __init__(self, tree: Tree, origin: str, *, digest: bytes = b"", warnings: tuple[Problem, ...] = ()) -> None:
        """See the class."""
        self.tree = tree
        self.origin = origin
        self.digest = digest
        self.warnings = warnings

    def listeners(self) -> list[dict[str, str]]:
        """Return id and address of every listener, by id."""
        return [{"id": name, "address": listener.address} for name, listener in sorted(self.tree.listeners.items())]

    def settings(self) -> dict[str, Any]:
        """Return what the keeper has to know of the settings; 0 where the configuration leaves it to the keeper."""
        settings = self.tree.settings
        return {"workers": settings.workers, "drain_timeout_ms": duration_ms(settings.drain_timeout)}

    def limits_bytes(self) -> int:
        """Return the size of the table that all limits share."""
        return size_bytes(self.tree.settings.limits_memory)

    def objects(self) -> list[tuple[str, str]]:
        """Return (kind, id) of everything that is counted."""
        tree = self.tree
        found = [("listener", name) for name in tree.listeners] + [("frontend", name) for name in tree.frontends]
        for name, backend in tree.backends.items():
            found.append(("backend", name))
            found += [("server", f"{name}/{server}") for server in backend.servers]
        return found

    def compile(
        self, revision: int, slot: Callable[[str, str], int], addresses: Mapping[str, bytes]
    ) -> CompiledSnapshot:
        """Compile; ConfigError with every route that cannot be."""
        from bascule.change.compile import compile_snapshot

        compiled = compile_snapshot(self.tree, revision=revision, slot=slot, addresses=addresses)
        if compiled.rejected:
            raise ConfigError(
                [
                    Problem(
                        path=("frontends", route.frontend, "route"),
                        message=f"{route.message} (at character {route.position + 1} of {route.expression!r})",
                        remedy=route.remedy,
                        file=self.origin,
                    )
                    for route in compiled.rejected
                ]
            )
        return compiled


def load(options: dict[str, Any]) -> Configuration:
    """Read the configuration that the command line names; ConfigError with everything that is wrong with it."""
    if options["command"] == "proxy":
        from bascule.store.proxy import tree_from_proxy_arguments

        routes = options.get("routes") or None
        tree = tree_from_proxy_arguments(options["listen"], options["to"], routes=routes)
        return Configuration(tree, "command line")
    from bascule.store import file

    loaded = file.load(options["config"])
    return Configuration(loaded.tree, os.fspath(options["config"]), digest=loaded.digest, warnings=loaded.warnings)
