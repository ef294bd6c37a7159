"""A table of objects as simple as can be, for the tests of the gates: keys, and which of them are in force."""

from collections.abc import Iterable

from bascule.model.keys import parse_key
from bascule.store.interface import Entry, Event

UP = b'{"url":"http://127.0.0.1:1"}'
DRAINING = b'{"url":"http://127.0.0.1:1","state":"draining"}'


class Table:
    """Fulfils bascule.change.holds.InForce."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.values: dict[str, bytes] = dict.fromkeys(keys, UP)
        self.leads: dict[str, str] = {}

    def apply(self, events: Iterable[Event]) -> None:
        """Bring events into force; removing an owner removes what is below it."""
        for event in events:
            if event.entry is not None:
                self.values[event.key] = event.entry.value
                continue
            for key in [key for key in self.values if key == event.key or key.startswith(event.key + "/")]:
                del self.values[key]

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def servers(self, backend: str) -> dict[str, bool]:
        start = f"backends/{backend}/servers/"
        found = {key: value for key, value in self.values.items() if key.startswith(start)}
        return {key.removeprefix(start): b"draining" not in value for key, value in found.items()}

    def count(self, kind: str) -> int:
        parsed = [parse_key(key) for key in self.values]
        return sum(one is not None and one.kind == kind for one in parsed)

    def backend_of(self, frontend: str) -> str:
        return self.leads.get(frontend, "")


def put(key: str, value: bytes = UP, revision: int = 9) -> Event:
    return Event(key, Entry(key, value, revision, revision))


def left(key: str) -> Event:
    return Event(key, None)


def gone(key: str) -> Event:
    """Return the removal of a key whose lease ended."""
    return Event(key, None, expired=True)


def server(number: int, backend: str = "app") -> str:
    return f"backends/{backend}/servers/s{number}"


def pool(size: int, backend: str = "app") -> list[str]:
    return [f"backends/{backend}", *(server(number, backend) for number in range(size))]


def site(count: int) -> list[str]:
    """Return the keys of a tree with a listener and so many frontends, each with a backend of one server."""
    keys = ["listeners/web"]
    for number in range(count):
        keys += [f"frontends/f{number}", f"backends/b{number}", f"backends/b{number}/servers/s0"]
    return keys
