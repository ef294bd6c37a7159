"""The servers of one master: their verdicts (change/leases.py) and who goes (change/departures.py), hung into its life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from bascule.change.departures import Departures
from bascule.change.edits import Edit
from bascule.model.tree import Server
from bascule.shared.statistics import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bascule.change.leases import Lifecycles
    from bascule.change.objects import ObjectTable
    from bascule.model.tree import Backend
    from bascule.process.control import Control


_decode: Final = msgspec.json.Decoder(Server).decode


def _servers(table: ObjectTable, backend: str) -> Iterator[tuple[str, Server]]:
    for key in table.ledger.below(f"backends/{backend}"):
        record = table.record(key)
        if isinstance(record, Server):
            yield key.rpartition("/")[2], record


class InForceNow:
    """The object table as the gates look at it: a server that registered as starting and became ready by its health check
    takes traffic like any other, and a pool of such servers can vanish like any other."""

    def __init__(self, table: ObjectTable, control: Callable[[], Control | None]) -> None:
        """`control` gives None before there is one."""
        self._control = control
        self._table = table
        self.count = table.count
        self.backend_of = table.backend_of

    def __contains__(self, key: object) -> bool:
        """Tell whether an object is in force."""
        return key in self._table

    def servers(self, backend: str) -> dict[str, bool]:
        """Return the servers of a backend, by id, and whether each takes traffic."""
        found = self._table.servers(backend)
        control = self._control()
        if control is not None and not all(found.values()):
            for name in [name for name, takes in found.items() if not takes]:
                found[name] = control.servers.ready(backend, name)
        return found

    def passing(self, backend: str, server: str) -> bool:
        """Tell whether nothing speaks against a server: what the gates ask before they hold it."""
        control = self._control()
        return control is None or control.servers.passing(backend, server)


class Servers:
    """Owner: the control loop. Health checks begin with the first backend that wants any, so that others pay nothing."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control
        self._reader: Reader | None = None
        self._looked = False
        self.departures = Departures(self._in_flight)
        self.lifecycles: Lifecycles | None = None

    def load(self, backends: Mapping[str, Backend]) -> None:
        """Take over a whole tree that is about to be published, or is in force already."""
        lifecycles = self._needed(any(backend.needs_verdicts() for backend in backends.values()))
        if lifecycles is not None:
            lifecycles.load(backends)

    def soften(self, edits: Sequence[Edit], before: Mapping[str, bytes | None]) -> list[Edit]:
        """Return the edits to bring into force: what left drains first. `before`: what was in force of their keys."""

        def server(key: str) -> Server | None:
            value = before.get(key)
            return None if value is None else _decode(value)

        return self.departures.soften(edits, server)

    def apply(self, edits: Sequence[Edit], table: ObjectTable) -> None:
        """Take in edits that are about to be published, and that the table holds already."""
        records = [edit.record for edit in edits if edit.kind == "backend"] if self.lifecycles is None else []
        lifecycles = self._needed(any(record is not None and record.needs_verdicts() for record in records))  # type: ignore[attr-defined]
        if lifecycles is not None:
            lifecycles.apply(edits, lambda backend: _servers(table, backend))

    def passing(self, backend: str, server: str) -> bool:
        """Tell the gates whether nothing speaks against a server."""
        return self.lifecycles is None or self.lifecycles.checks.passing(backend, server)

    def ready(self, backend: str, server: str) -> bool:
        """Tell whether a server configured as starting takes traffic by now."""
        return self.lifecycles is not None and self.lifecycles.takes_traffic(backend, server)

    def document(self) -> dict[str, Any]:
        """Return what the status document says: servers that do not plainly serve, and those that are gone."""
        lifecycles = self.lifecycles
        return {
            "standings": lifecycles.standings() if lifecycles is not None else [],
            "ignored_checks": lifecycles.ignored() if lifecycles is not None else [],
            "departed": self.departures.departed(),
        }

    def _needed(self, wanted: bool) -> Lifecycles | None:
        """Return the lifecycles, from the first time on that a backend wants any; or that a predecessor left verdicts."""
        master = self._control.master
        if self.lifecycles is not None or (not wanted and self._looked):
            return self.lifecycles
        if len(master.regions) < 3 or master.directory is None:
            return None
        from bascule.shared.verdicts import Verdicts

        verdicts = Verdicts(master.regions[2])
        self._looked = True
        if wanted or verdicts.slots():
            from bascule.change.leases import Lifecycles

            resolver = self._control.resolver
            self.lifecycles = Lifecycles(master.directory.slot, verdicts, resolver.address, master.log)
            self._control.spawn(self.lifecycles.run())
        return self.lifecycles

    def _in_flight(self, backend: str, server: str) -> int:
        if self._reader is None:
            self._reader = Reader(self._control.master.regions[0])
        totals = self._reader.total("server", f"{backend}/{server}")
        return totals.in_flight if totals is not None else 0
