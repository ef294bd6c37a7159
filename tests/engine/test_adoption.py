"""Snapshots of two images: the base is checked once and shared, an unknown one is asked for, a damaged one is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bascule.change.compile import SnapshotCompiler
from bascule.change.compiled import CompiledSnapshot
from bascule.change.edits import Edit
from bascule.engine.engine import EngineError, UnknownBaseError
from bascule.model.tree import Frontend, Server
from bascule.shared.snapshot import make_memfd
from tests.engine.harness import OK, Harness, tree_of
from tests.shared.images import with_checksum

ROUTES = "".join(
    f'[frontends.f{i}]\nroute = "PathPrefix(`/{i}`) && !HeaderRegexp(`X`, `a{i}`)"\nbackend = "app"\n'
    for i in range(20)
)


class Node(Harness):
    """A harness whose snapshots come from one compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.compiler = SnapshotCompiler(self.directory.slot)
        tree = tree_of(self.template.replace("{origin}", self.address) + ROUTES)
        self.revision += 1
        self.first = self.compiler.full(tree, revision=self.revision, addresses={})

    def edit(self, *edits: Edit) -> CompiledSnapshot:
        self.revision += 1
        return self.compiler.apply(edits, revision=self.revision)

    def fold(self) -> CompiledSnapshot:
        self.revision += 1
        return self.compiler.fold(revision=self.revision)

    def take(self, compiled: CompiledSnapshot) -> None:
        """As a worker does that is sent what it does not have."""
        assert compiled.records is not None
        base = compiled.base.fd if compiled.base is not None else -1
        assert self.engine.adopt(compiled.records.fd, base) == compiled.revision

    def answers(self, path: str) -> bytes:
        """The status line of a request, 200 when it reached the origin."""
        client = self.connect()
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        self.turn(3)
        if self.engine.state()["servers"]:
            server = self.accept()
            self.receive(server)
            server.send(OK.replace(b"ok", b"ok").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return self.receive(client).split(b"\r\n")[0].split(b" ", 1)[1]


@contextmanager
def memfd(data: bytes) -> Iterator[int]:
    descriptor = make_memfd(data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def route(path: str) -> Frontend:
    return Frontend(route=f"PathPrefix(`{path}`)", backend="app")


def test_edits_are_in_force_without_a_new_base() -> None:
    with Node() as h:
        h.take(h.first)
        assert h.answers("/3/x") == b"200 OK"
        assert h.answers("/new").startswith(b"404")
        h.take(h.edit(Edit("frontend", "f3", None), Edit("frontend", "new", route("/new"))))
        assert h.answers("/3/x").startswith(b"404")
        assert h.answers("/new") == b"200 OK"
        h.take(h.fold())
        assert h.answers("/3/x").startswith(b"404")
        assert h.answers("/new") == b"200 OK"


def test_an_unknown_base_is_asked_for() -> None:
    with Node() as h:
        edited = h.edit(Edit("frontend", "new", route("/new")))
        assert edited.records is not None
        assert edited.base is None
        with pytest.raises(UnknownBaseError, match="send both"):
            h.engine.adopt(edited.records.fd)
        assert h.answers("/app") == b"200 OK"
        assert h.first.base is not None
        assert h.engine.adopt(edited.records.fd, h.first.base.fd) == edited.revision
        folded = h.fold()
        assert folded.records is not None
        assert folded.base is not None
        with pytest.raises(UnknownBaseError):
            h.engine.adopt(folded.records.fd)
        with pytest.raises(EngineError, match="is not the one at hand"):
            h.engine.adopt(folded.records.fd, h.first.base.fd)
        h.take(folded)
        assert h.answers("/new") == b"200 OK"


def mappings() -> int:
    """How many snapshot images this process has mapped."""
    with open("/proc/self/maps", encoding="ascii") as file:
        return sum("memfd:bascule-snapshot" in line for line in file)


def test_an_exchange_keeps_its_base_and_gives_it_back() -> None:
    with Node() as h:
        before = mappings()
        h.take(h.first)
        client = h.connect()
        client.send(b"GET /7 HTTP/1.1\r\nHost: a\r\n\r\n")
        server = h.accept()
        h.receive(server)
        for number in range(3):
            h.take(h.edit(Edit("server", "a1", Server(url=h.address, weight=number + 2), "app")))
            h.take(h.fold())
        del h.compiler
        assert h.engine.state()["snapshots"] == 2
        server.send(OK)
        assert h.receive(client).endswith(b"ok")
        assert h.engine.state()["snapshots"] == 1
        assert mappings() <= before + 1, "records and base of the one in force, in the place of a whole image"


def test_regexps_of_changed_routes_go_from_one_snapshot_to_the_next() -> None:
    with Node() as h:
        h.take(h.first)
        for number in range(12):
            regexps = [
                Edit("frontend", f"r{i}", Frontend(route=f"PathRegexp(`^/r{i}/[0-9]+$`)", backend="app"))
                for i in range(number, number + 3)
            ]
            h.take(h.edit(*regexps))
        for number in range(14):
            assert h.answers(f"/r{number}/12") == b"200 OK"
        assert h.answers("/r3/x").startswith(b"404")


def damaged(image: bytes, random_: random.Random, *, mend: bool) -> bytes:
    at = random_.randrange(len(image))
    changed = bytearray(image)
    changed[at] ^= 1 << random_.randrange(8)
    return with_checksum(changed) if mend else bytes(changed)


def test_every_damaged_image_is_refused() -> None:
    """One bit, anywhere: header, sections, padding. What is in force goes on."""
    random_ = random.Random(7)
    with Node() as h:
        h.take(h.first)
        h.take(h.edit(Edit("frontend", "f3", route("/three")), Edit("frontend", "f4", None)))
        edited = h.edit(Edit("frontend", "f5", route("/five")))
        assert edited.records is not None
        assert h.first.base is not None
        records = edited.records.read()
        fold = h.fold()
        assert fold.records is not None
        assert fold.base is not None
        for image, is_base in [(records, False)] * 400 + [(fold.base.read(), True)] * 400:
            with memfd(damaged(image, random_, mend=False)) as descriptor:
                pair = (fold.records.fd, descriptor) if is_base else (descriptor, h.first.base.fd)
                with pytest.raises(EngineError, match="refused"):
                    h.engine.adopt(*pair)
        assert h.answers("/three") == b"200 OK"
        assert h.answers("/4").startswith(b"404")


def test_damage_with_a_right_checksum_never_leaves_the_image() -> None:
    """Refused or harmless: every index, offset and rank of the small table and of the bits beside it is looked at."""
    random_ = random.Random(8)
    with Node() as h:
        h.take(h.first)
        edited = h.edit(
            Edit("frontend", "f3", route("/three/<x>")),
            Edit("frontend", "f4", None),
            Edit("frontend", "g", route("/g")),
        )
        assert edited.records is not None
        assert h.first.base is not None
        image = edited.records.read()
        refused = 0
        for _ in range(600):
            with memfd(damaged(image, random_, mend=True)) as descriptor:
                try:
                    h.engine.adopt(descriptor, h.first.base.fd)
                except EngineError:
                    refused += 1
        assert refused > 100


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 4096])
def test_cut_images_are_refused(cut: int) -> None:
    with Node() as h:
        assert h.first.records is not None
        assert h.first.base is not None
        records, base = h.first.records.read(), h.first.base.read()
        with memfd(records[: min(cut, len(records) - 1)]) as descriptor, pytest.raises(EngineError, match="refused"):
            h.engine.adopt(descriptor, h.first.base.fd)
        with memfd(base[: min(cut, len(base) - 1)]) as descriptor, pytest.raises(EngineError, match="refused"):
            h.engine.adopt(h.first.records.fd, descriptor)
        with pytest.raises(EngineError, match="another kind"):
            h.engine.adopt(h.first.base.fd, h.first.base.fd)
        with pytest.raises(EngineError, match="another kind"):
            h.engine.adopt(h.first.records.fd, h.first.records.fd)
        h.take(h.first)


def test_a_route_to_a_frontend_without_backend_is_refused() -> None:
    """The bit that says so is all that keeps requests from it."""
    with Node() as h:
        h.take(h.first)
        edited = h.edit(Edit("frontend", "f3", None))
        assert edited.records is not None
        image = bytearray(edited.records.read())
        place = 40 + 16 * 17
        offset, size = (int.from_bytes(image[at : at + 8], "little") for at in (place, place + 8))
        assert size
        image[offset : offset + size] = bytes(size)
        with memfd(with_checksum(image)) as descriptor, pytest.raises(EngineError, match="does not hold together"):
            h.engine.adopt(descriptor)
