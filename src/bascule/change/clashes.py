"""Listeners that want one address: all but one of them have to go without."""

from __future__ import annotations

from bascule.change.address import literal_sockaddr
from bascule.model.problems import Problem
from bascule.model.tree import Listener


def clashes(wanted: dict[str, Listener], in_force: dict[str, Listener]) -> dict[str, Problem]:
    """Return who cannot have the address it wants because another one has it. Whoever has it already keeps it."""
    found: dict[str, Problem] = {}
    while True:
        claims = {name: record for name, record in wanted.items() if name not in found}
        claims.update((name, in_force[name]) for name in in_force if name not in claims and name in wanted)
        takers: dict[bytes | None, list[str]] = {}
        for name, record in claims.items():
            takers.setdefault(literal_sockaddr(record.address), []).append(name)
        more = False
        for address, names in takers.items():
            names.sort(key=lambda name: (not _has(in_force.get(name), address), name))
            for loser in names[1:]:
                if loser not in found:
                    found[loser] = _clash(loser, wanted[loser].address, names[0])
                    more = True
        if not more:
            return found


def _has(record: Listener | None, address: bytes | None) -> bool:
    return record is not None and literal_sockaddr(record.address) == address


def _clash(name: str, address: str, other: str) -> Problem:
    return Problem(
        path=("listeners", name, "address"),
        message=f"{address!r} is the address of listener {other!r} too",
        remedy="give one of them another address or remove it",
    )
