"""Random mutations of stored values, through the table of objects, the gates and the compiler; replayed by their seed.

    PYTHONPATH=src:tests python -m fuzz.values --mutations 1000000        as many as were promised, in slices, resumable
    PYTHONPATH=src:tests python -m fuzz.values --seed 17 --mutations 500  one slice again

Half of the tree, the victims, is written over with anything; the other half, the bystanders, is not touched. What must hold
after every batch: nothing raises; the bystanders are in force as they were stored, no edit is about them, and their routes
lead where they led; what is in force of a victim is either nothing or a form that was in order.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bascule.change.compile import SnapshotCompiler
from bascule.change.compiled import CompiledSnapshot
from bascule.change.examine import examine
from bascule.change.gates import Gates
from bascule.change.objects import ObjectTable
from bascule.model.keys import format_key, parse_key
from bascule.process.compiling import refusals
from bascule.routing.match import Matcher
from bascule.store.interface import Entry, Event

SLICE = 500
"""Mutations of one seed: after them a new tree begins."""
MATCH_EVERY = 10
PAIRS = 6
TOKENS = [
    b"null", b"true", b"0", b"-1", b"1e999", b"1.5", b"9" * 400, b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff\xfe", b"\0", b"[]", b"{}",
    b"[" * 600, b'{"a":' * 600, b",", b":", b"}", b"]", b'"url"', b'"route"', b'"state":"draining"', b'"weight":0', b'"backend":"b1"',
    b"`", b"(", b")", b"&&", b"||", b"!", b"<int:x>", b"PathRegexp(`(a+)+$`)", b"Host(`", b"http://[::1]:1", b"unix:///x", b"\xe2\x80\xae",
    b"5s", b"-5s", b"99999999999h", b"16KiB", b"1" * 30 + b"B", b'"priority":-2147483648', b'"type":"rate_limit"',
]  # fmt: skip
LEAVES: list[Any] = [
    None, True, False, 0, -1, 1, 1 << 31, -(1 << 63), 1 << 63, 1 << 70, 0.5, 1e308, "", "x", "b1", "victim", "\0", "\u202e",
    "\xdf" * 300, "a" * 5000, "PathPrefix(`/`)", "Host(`*.victim.test`)", "HostRegexp(`.*`)", "draining", "down", "up", "global",
    "client.ip", "0s", "1ns", "1000h", "http://127.0.0.1:0", "http://127.0.0.1:80", "http://name.victim.test:80", "https://a:1",
    "unix:///", [], {}, [[]], {"x": {}}, ["a"] * 100,
]  # fmt: skip
KEYS = [
    "", "/", "backends", "backends/", "backends//servers/x", "nonsense", "frontends/v0/servers/x", "backends/v0/servers",
    "listeners/a/b", "settings/x", "hosts/a.test", "frontends/" + "x" * 3000, "frontends/\u202e", "frontends/v0/middlewares/m/x",
    "backends/v0/servers/../x",
]  # fmt: skip


class Violation(AssertionError):
    """What must hold did not."""


def bystanders() -> dict[str, bytes]:
    """Return what nobody touches: routes that nothing outranks, each with its backend and server."""
    found = {"listeners/web": b'{"address":"127.0.0.1:8080"}'}
    for number in range(PAIRS):
        route = f"Host(`safe{number}.test`) && Path(`/<p{number}>`)"
        value = {"route": route, "backend": f"safe{number}", "priority": 1000}
        found[f"frontends/safe{number}"] = msgspec.json.encode(value)
        found[f"backends/safe{number}"] = b"{}"
        found[f"backends/safe{number}/servers/s"] = msgspec.json.encode({"url": f"http://127.0.0.1:{9000 + number}"})
    return found


def victims() -> dict[str, bytes]:
    """Return what is written over: every kind of object."""
    found: dict[str, Any] = {
        "settings": {"drain_timeout": "30s"},
        "listeners/v": {"address": "127.0.0.1:8081", "trusted_proxies": ["10.0.0.0/8"], "max_header_bytes": "16KiB"},
    }
    for number in range(PAIRS):
        found[f"frontends/v{number}"] = {
            "route": f"Host(`v{number}.victim.test`) && PathPrefix(`/<x>`)",
            "backend": f"v{number}",
        }
        found[f"frontends/v{number}/middlewares/m"] = {
            "type": "rate_limit",
            "requests": 5,
            "period": "1s",
            "key": "client.ip",
        }
        found[f"frontends/v{number}/middlewares/c"] = {"type": "concurrency_limit", "max": 5}
        found[f"backends/v{number}"] = {"connect_timeout": "5s", "max_idle_connections": 5}
        found[f"backends/v{number}/servers/s"] = {"url": f"http://127.0.0.1:{9100 + number}", "weight": 2}
    return {key: msgspec.json.encode(value) for key, value in found.items()}


class Mutator:
    """Gives events for victims: most values nearly in order, some not at all."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.originals = victims()
        self.now = dict(self.originals)
        self.keys = list(self.originals)

    def events(self, revision: int) -> list[Event]:
        """Return one batch, each key once."""
        found: dict[str, Event] = {}
        for _ in range(self.chance.choice([1, 1, 1, 2, 5])):
            key = self._key()
            value = None if self.chance.random() < 0.08 else self._value(key)
            if value is None:
                self.now.pop(key, None)
                found[key] = Event(key, None, expired=self.chance.random() < 0.5)
            else:
                self.now[key] = value
                found[key] = Event(key, Entry(key, value, revision, revision))
        return list(found.values())

    def _key(self) -> str:
        chance = self.chance
        if chance.random() < 0.04:
            return chance.choice(KEYS)
        key = chance.choice(self.keys)
        if chance.random() < 0.1:
            key += chance.choice(["2", "\u00e9", " ", "-", "." * 70, "%2f"])
        return key

    def _value(self, key: str) -> bytes:
        chance = self.chance
        value = self.now.get(key) or self.originals.get(key) or chance.choice(list(self.originals.values()))
        kind = chance.random()
        if kind < 0.25:
            return self.originals.get(key, value)
        if kind < 0.65:
            return self._restructured(value)
        for _ in range(chance.choice([1, 1, 2, 8])):
            value = self._scrambled(value)
        return value[:20_000]

    def _scrambled(self, value: bytes) -> bytes:
        chance = self.chance
        place = chance.randint(0, len(value))
        kind = chance.randrange(5)
        if kind == 0:
            return value[:place] + chance.choice(TOKENS) + value[place:]
        if kind == 1:
            return value[:place]
        if kind == 2:
            return value[:place] + bytes([chance.randrange(256)]) + value[place + 1 :]
        if kind == 3:
            return value[:place] + value[place + chance.randint(1, 9) :]
        other = chance.choice(list(self.originals.values()))
        return value[:place] + other[chance.randint(0, len(other)) :]

    def _restructured(self, value: bytes) -> bytes:
        """Return well-formed JSON with something changed in it."""
        chance = self.chance
        try:
            plain = msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            plain = msgspec.json.decode(chance.choice(list(self.originals.values())))
        if not isinstance(plain, dict) or chance.random() < 0.05:
            plain = chance.choice(LEAVES)
        else:
            field = chance.choice(
                [*plain, "weight", "state", "route", "backend", "servers", "limits", "order", "unknown", ""]
            )
            if chance.random() < 0.2:
                plain.pop(field, None)
            else:
                plain[field] = chance.choice(LEAVES)
        try:
            return msgspec.json.encode(plain)
        except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError):
            return b"{}"


class Round:
    """One tree under mutation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.safe = bystanders()
        self.mutator = Mutator(self.chance)
        self.table = ObjectTable()
        self.gates = Gates(
            self.table, passing=lambda *_: self.chance.random() < 0.8, monotonic=lambda: self.revision / 10
        )
        self.numbers: dict[tuple[str, str], int] = {}
        self.compiler = SnapshotCompiler(lambda kind, name: self.numbers.setdefault((kind, name), len(self.numbers)))
        self.revision = 1
        self.mutations = 0
        everything = self.safe | self.mutator.now
        self.table.load({key: Entry(key, value, 1, 1) for key, value in everything.items()}, "id", 1)
        tree = self.table.tree()
        self.images = [b"", b""]
        self._take(self.compiler.full(tree, revision=1, addresses={}))

    def run(self, mutations: int) -> None:
        """Mutate so many times; Violation, or whatever is raised, with a note of the seed."""
        try:
            while self.mutations < mutations:
                self._step()
        except Exception as error:
            error.add_note(f"seed {self.seed}, after {self.mutations} mutations, revision {self.revision}")
            raise

    def _step(self) -> None:
        self.revision += 1
        events = self.mutator.events(self.revision)
        self.mutations += len(events)
        self._apply(self.gates.judge(events, reading=self.chance.random() < 0.05).events)
        if self.gates.held and self.chance.random() < 0.1:
            self._apply((self.gates.review() if self.chance.random() < 0.7 else self.gates.adopt()).events)
        if self.revision % MATCH_EVERY == 0:
            self._routes()

    def _apply(self, events: Sequence[Event]) -> None:
        changes = self.table.apply(events, self.revision)
        about = {format_key(edit.kind, edit.id, edit.owner) for edit in changes.edits}
        if about & self.safe.keys():
            raise Violation(f"edits of objects that nobody touched: {about & self.safe.keys()}")
        compiled = self.compiler.apply(changes.edits, revision=self.revision)
        for key, problem in refusals(compiled):
            if key in self.safe:
                raise Violation(f"an object that nobody touched is refused: {problem.message}")
            self.table.reject(key, (problem,), changes)
        self._take(compiled)
        for key, value in self.safe.items():
            if self.table.in_force(key) != value:
                raise Violation(f"{key} is in force as {self.table.in_force(key)!r}, stored as {value!r}")
        for event in events:
            self._in_order(event.key)

    def _take(self, compiled: CompiledSnapshot) -> None:
        assert compiled.records is not None
        self.images[0] = compiled.records.read()
        if compiled.base is not None:
            self.images[1] = compiled.base.read()

    def _in_order(self, key: str) -> None:
        form = self.table.in_force(key)
        if form is not None and (parse_key(key) is None or examine([(key, form)]).problems):
            raise Violation(f"{key} is in force in a form that is not in order: {form!r}")

    def _routes(self) -> None:
        matcher = Matcher(*self.images)
        for number in range(PAIRS):
            found = matcher.match(host=f"safe{number}.test", path="/only")
            if found.params != {f"p{number}": b"only"}:
                raise Violation(f"the route of safe{number} leads to {found}")


def run(seed: int, mutations: int) -> int:
    """Run one slice and return how many mutations it made."""
    one = Round(seed)
    one.run(mutations)
    return one.mutations


def main() -> None:
    """Run slices until there are enough mutations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first slice")
    arguments = parser.parse_args()
    seed, done, begin_s = arguments.seed, 0, time.monotonic()
    while done < arguments.mutations:
        done += run(seed, min(SLICE, arguments.mutations - done))
        seed += 1
        if seed % 50 == 0:
            sys.stderr.write(f"{done} mutations, next seed {seed}, {time.monotonic() - begin_s:.0f} s\n")
    sys.stderr.write(f"{done} mutations in {seed - arguments.seed} slices, nothing found\n")


if __name__ == "__main__":
    main()
