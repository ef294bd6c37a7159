"""Which host names the servers in force have, kept up edit by edit: what the resolver is to look up."""

from __future__ import annotations

from collections.abc import Iterable

from bascule.change.address import literal_sockaddr
from bascule.change.edits import Edit
from bascule.model.quantities import duration_ns
from bascule.model.tree import Backend, Server, Tree


class ServerNames:
    """The names by backend and server. Servers with literal addresses take no memory here."""

    def __init__(self) -> None:
        """See the class."""
        self._names: dict[str, dict[str, str]] = {}
        self._intervals: dict[str, str] = {}
        """Of the backends whose interval is not the default."""

    def load(self, tree: Tree) -> None:
        """Forget everything and take over what a tree has."""
        self._names, self._intervals = {}, {}
        for name, backend in tree.backends.items():
            self._interval(name, backend)
            for server_id, server in backend.servers.items():
                self._server(name, server_id, server)

    def apply(self, edits: Iterable[Edit]) -> bool:
        """Follow edits; return whether `wanted` may have changed."""
        changed = False
        for edit in edits:
            if edit.kind == "server":
                changed = self._server(edit.owner, edit.id, edit.record) or changed
            elif edit.kind == "backend":
                changed = self._backend(edit) or changed
        return changed

    def wanted(self) -> dict[str, float]:
        """Return the authorities ("name:port") to look up, each with its interval in seconds, the shortest if several."""
        found: dict[str, float] = {}
        default = Backend().resolve_interval
        for backend, servers in self._names.items():
            interval_s = duration_ns(self._intervals.get(backend, default)) / 1e9
            for authority in servers.values():
                found[authority] = min(found.get(authority, interval_s), interval_s)
        return found

    def _backend(self, edit: Edit) -> bool:
        if isinstance(edit.record, Backend):
            self._interval(edit.id, edit.record)
        else:
            self._intervals.pop(edit.id, None)
            self._names.pop(edit.id, None)
        return bool(self._names)

    def _interval(self, name: str, backend: Backend) -> None:
        if backend.resolve_interval != Backend().resolve_interval:
            self._intervals[name] = backend.resolve_interval
        else:
            self._intervals.pop(name, None)

    def _server(self, backend: str, name: str, record: object) -> bool:
        authority = _authority(record) if isinstance(record, Server) else ""
        servers = self._names.get(backend)
        if authority:
            self._names.setdefault(backend, {})[name] = authority
            return True
        if servers is None or servers.pop(name, None) is None:
            return False
        if not servers:
            del self._names[backend]
        return True


def _authority(server: Server) -> str:
    """Return the authority of a server whose address is a name, empty for a literal one."""
    authority = server.url.removeprefix("http://")
    return "" if literal_sockaddr(authority) is not None else authority
