"""Edits one after the other mean what a compilation of the whole tree would mean."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bascule.change.compile import SnapshotCompiler, compile_snapshot
from bascule.change.compiled import CompiledSnapshot
from bascule.change.edits import Edit
from bascule.model.tree import Backend, ConcurrencyLimit, Frontend, Listener, Server, Tree
from bascule.routing.match import Matcher
from bascule.shared.snapshot import is_sealed, verify

from .edits import EDITS, GOOD_ROUTES, REQUESTS, Model, content, frontend_names
from .images import read_image
from .test_compile import Slots

patient = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
ADDRESSES = {"app:80": b"\x02\x00\x00\x50\x0a\x01\x01\x01" + bytes(8)}


class Node:
    """A compiler and, as a worker would, the newest base."""

    def __init__(self, tree: Tree, slots: Slots | None = None) -> None:
        self.slots = slots or Slots()
        self.compiler = SnapshotCompiler(self.slots)
        self.revision = 0
        self.take(self.compiler.full(tree, revision=1, addresses=ADDRESSES))

    def take(self, compiled: CompiledSnapshot) -> CompiledSnapshot:
        self.revision = compiled.revision
        assert compiled.records is not None
        self.records = compiled.records.read()
        assert verify(self.records) == compiled.revision
        if compiled.base is not None:
            self.base = compiled.base.read()
        assert compiled.full is (compiled.base is not None)
        return compiled

    def apply(self, *edits: Edit, **options: Any) -> CompiledSnapshot:
        return self.take(self.compiler.apply(edits, revision=self.revision + 1, **options))

    def fold(self) -> CompiledSnapshot:
        return self.take(self.compiler.fold(revision=self.revision + 1))

    def winners(self, requests: Sequence[dict[str, Any]] = REQUESTS) -> list[Any]:
        names = frontend_names(self.records)
        matcher = Matcher(self.records, self.base)
        found = [matcher.match(**request) for request in requests]
        return [(None if match.frontend is None else names[match.frontend], match.params) for match in found]


def whole(tree: Tree, slots: Slots, revision: int = 1) -> bytes:
    return compile_snapshot(tree, revision=revision, slot=slots, addresses=ADDRESSES).image


def winners_of(image: bytes) -> list[Any]:
    names = frontend_names(image)
    matcher = Matcher(image)
    found = [matcher.match(**request) for request in REQUESTS]
    return [(None if match.frontend is None else names[match.frontend], match.params) for match in found]


def shop(count: int = 1) -> Tree:
    return Tree(
        backends={f"b{i}": Backend(servers={"s": Server(url=f"http://10.0.0.{i}:80")}) for i in range(count)},
        frontends={f"f{i}": Frontend(route=f"PathPrefix(`/{i}`)", backend=f"b{i}") for i in range(count)},
    )


@patient
@given(st.lists(EDITS, max_size=25), st.lists(EDITS, max_size=30), st.data())
def test_edits_equal_a_whole_compilation(first: list[Edit], then: list[Edit], data: st.DataObject) -> None:
    model = Model()
    for edit in first:
        model.apply(edit)
    node = Node(model.tree())
    # what waits for its owner is not part of a tree: whoever compiles one again gives it to the compiler again
    node.apply(
        *[
            Edit(kind, name, record, owner)
            for kind, owners in model.below.items()
            for owner, records in owners.items()
            for name, record in records.items()
            if owner not in model.records["backend" if kind == "server" else "frontend"]
        ]
    )
    while then:
        count = data.draw(st.integers(1, len(then)))
        batch, then = then[:count], then[count:]
        for edit in batch:
            model.apply(edit)
        node.apply(*batch)
        if data.draw(st.integers(0, 5)) == 0:
            before = node.winners(), content(node.records)
            node.fold()
            assert (node.winners(), content(node.records)) == before
        image = whole(model.tree(), node.slots)
        assert content(node.records) == content(image)
        assert node.winners() == winners_of(image)
    expected = SnapshotCompiler(node.slots).full(model.tree(), revision=node.revision + 1, addresses=ADDRESSES)
    folded = node.fold()
    assert folded.records is not None
    assert expected.records is not None
    assert folded.base is not None
    assert expected.base is not None
    assert folded.records.read() == expected.records.read()
    assert folded.base.read() == expected.base.read()
    assert set(folded.waiting) == set(expected.waiting) == set(node.compiler.waiting)
    assert folded.unresolved == expected.unresolved == node.compiler.unresolved


@settings(patient, max_examples=30)
@given(st.lists(EDITS, max_size=20))
def test_equal_edits_give_equal_bytes(edits: list[Edit]) -> None:
    nodes = [Node(shop(3)), Node(shop(3))]
    for start in range(0, len(edits), 4):
        for node in nodes:
            node.apply(*edits[start : start + 4])
        assert nodes[0].records == nodes[1].records
        assert nodes[0].base == nodes[1].base


def test_one_image_and_two_say_the_same() -> None:
    tree = shop(20)
    node = Node(tree)
    assert node.winners() == winners_of(whole(tree, node.slots))
    assert content(node.records) == content(whole(tree, node.slots))
    assert content(node.records)["frontends"][b"f3"][0]["stat_slot"] == node.slots("frontend", "f3")


def test_images_are_sealed_and_name_store_and_base() -> None:
    compiler = SnapshotCompiler(Slots())
    compiled = compiler.full(shop(), revision=5, addresses={}, store_revision=1 << 40, store_identity=(1 << 64) - 1)
    assert compiled.records is not None
    assert compiled.base is not None
    assert is_sealed(compiled.records.fd)
    assert is_sealed(compiled.base.fd)
    header = compiled.records.read()[:512]
    numbers = [int.from_bytes(header[at : at + 8], "little") for at in range(424, 464, 8)]
    kind_and_checksum = compiled.base.checksum | 1 << 32
    assert numbers == [1 << 40, (1 << 64) - 1, 5, compiled.base.size, kind_and_checksum]
    assert compiler.apply([], revision=6).base is None


def test_a_rejected_route_leaves_the_frontend_as_it_was() -> None:
    node = Node(shop(2))
    before = node.winners([{"path": "/0"}, {"path": "/x"}])
    compiled = node.apply(
        Edit("frontend", "f0", Frontend(route="PathPrefix(`x`)", backend="b1")),
        Edit("frontend", "new", Frontend(route="Path(", backend="b1")),
        Edit("server", "s", Server(url="http://10.0.0.9:1"), "b0"),
    )
    assert [route.frontend for route in compiled.rejected] == ["f0", "new"]
    assert node.winners([{"path": "/0"}, {"path": "/x"}]) == before
    found = content(node.records)
    assert found["frontends"][b"f0"][0]["backend"] == b"b0"
    assert found["backends"][b"b0"][1][0]["authority"] == b"10.0.0.9:1"
    assert b"new" not in found["frontends"]


@pytest.mark.parametrize(
    "edit",
    [
        Edit("server", "s", Server(url="http://10.0.0.0"), "b0"),
        Edit("listener", "l", Listener(address=":1", trusted_proxies=("10.0.0.1/8",))),
        Edit("backend", "b0", Backend(connect_timeout="x")),
        Edit("middleware", "m5", ConcurrencyLimit(max=1), "f0"),
        Edit("middleware", "m", ConcurrencyLimit(max=1, key="nonsense"), "f0"),
    ],
)
def test_other_rejected_edits_change_nothing(edit: Edit) -> None:
    node = Node(shop())
    for number in range(4):
        node.apply(Edit("middleware", f"m{number}", ConcurrencyLimit(max=1), "f0"))
    before = content(node.records)
    (rejected,) = node.apply(edit).rejected_edits
    assert (rejected.kind, rejected.owner, rejected.id) == (edit.kind, edit.owner, edit.id)
    assert rejected.message
    assert rejected.remedy
    assert content(node.records) == before


def test_a_frontend_waits_and_is_linked_when_its_backend_comes() -> None:
    node = Node(Tree(frontends={"f": Frontend(route="PathPrefix(`/`)", backend="b")}))
    requests = [{"path": "/"}]
    assert node.apply(Edit("frontend", "g", Frontend(route="Path(`/g`)", backend="b"))).waiting == ("g",)
    assert node.compiler.waiting == ("f", "g")
    assert node.winners(requests) == [(None, {})]
    compiled = node.apply(Edit("backend", "b", Backend()))
    assert (compiled.waiting, compiled.conflicts) == ((), ())
    assert node.winners([*requests, {"path": "/g"}]) == [(b"f", {}), (b"g", {})]
    assert node.apply(Edit("backend", "b", None)).waiting == ("f", "g")
    assert node.winners(requests) == [(None, {})]
    assert node.compiler.waiting == ("f", "g")


def test_a_route_that_waited_may_be_rejected_when_its_backend_comes() -> None:
    node = Node(Tree(frontends={"f": Frontend(route="Path(", backend="b")}))
    compiled = node.apply(Edit("backend", "b", Backend()))
    assert [route.frontend for route in compiled.rejected] == ["f"]
    assert node.winners([{"path": "/"}]) == [(None, {})]
    node.apply(Edit("frontend", "f", Frontend(route="Path(`/`)", backend="b")))
    assert node.winners([{"path": "/"}]) == [(b"f", {})]


def test_servers_wait_for_their_backend() -> None:
    node = Node(Tree())
    node.apply(Edit("server", "s2", Server(url="http://10.0.0.2:1"), "b"), Edit("server", "s1", None, "b"))
    node.apply(Edit("server", "s1", Server(url="http://10.0.0.1:1"), "b"))
    node.apply(Edit("backend", "b", Backend()))
    assert [server["id"] for server in content(node.records)["backends"][b"b"][1]] == [b"s1", b"s2"]


def test_conflicts_are_found_between_old_and_new_routes() -> None:
    node = Node(shop(3))
    equal = Frontend(route="PathPrefix(`/1`)", backend="b0")
    (conflict,) = node.apply(Edit("frontend", "e", equal)).conflicts
    assert (conflict.winner_id, conflict.loser_id) == ("e", "f1")
    assert node.winners([{"path": "/1"}]) == [(b"e", {})]
    (conflict,) = node.apply(Edit("frontend", "f2", equal)).conflicts
    assert (conflict.winner_id, conflict.loser_id) == ("e", "f2")
    assert not node.apply(Edit("server", "s", Server(url="http://1.1.1.1:1"), "b0")).conflicts
    node.apply(Edit("frontend", "f1", None))
    node.apply(Edit("frontend", "e", None))
    assert not node.apply(Edit("frontend", "f2", Frontend(route="PathPrefix(`/1`)", backend="b1"))).conflicts
    assert node.winners([{"path": "/1"}]) == [(b"f2", {})]


@pytest.mark.parametrize("first", GOOD_ROUTES)
def test_every_kind_of_route_conflicts_with_its_like_in_the_base(first: str) -> None:
    node = Node(Tree(backends={"b": Backend()}, frontends={"f": Frontend(route=first, backend="b")}))
    for second in GOOD_ROUTES:
        together = compile_snapshot(
            Tree(
                backends={"b": Backend()},
                frontends={"f": Frontend(route=first, backend="b"), "g": Frontend(route=second, backend="b")},
            ),
            revision=1,
            slot=Slots(),
            addresses={},
        )
        edited = node.apply(Edit("frontend", "g", Frontend(route=second, backend="b")))
        pairs = [[(c.winner_id, c.loser_id) for c in compiled.conflicts] for compiled in (edited, together)]
        assert pairs[0] == pairs[1], second


def test_addresses_are_edits() -> None:
    node = Node(
        Tree(
            backends={
                "b": Backend(servers={"s": Server(url="http://app:80"), "t": Server(url="http://other:80")}),
                "c": Backend(servers={"s": Server(url="http://app:80")}),
            }
        )
    )
    moved = b"\x02\x00\x00\x50\x0a\x09\x09\x09" + bytes(8)
    assert node.compiler.unresolved == ("other:80",)
    assert node.compiler.set_addresses(dict(ADDRESSES)) == 0
    assert node.compiler.set_addresses({"app:80": moved, "other:80": moved}) == 3
    assert not node.apply().full
    assert {row["address"] for row in read_image(node.records).servers} == {moved}
    assert node.compiler.set_addresses({"app:80": moved}) == 1
    node.apply()
    assert [row["address"] for row in read_image(node.records).servers] == [moved, b"", moved]
    assert node.apply(Edit("server", "u", Server(url="http://other:80"), "c")).unresolved == ("other:80",)


def test_a_backend_that_grows_and_shrinks() -> None:
    node = Node(shop(3))
    random_ = random.Random(4)
    names: set[str] = {"s"}
    for _ in range(200):
        name = f"s{random_.randrange(40)}"
        if name in names:
            names.discard(name)
            node.apply(Edit("server", name, None, "b1"))
        else:
            names.add(name)
            node.apply(Edit("server", name, Server(url="http://10.0.0.1:1"), "b1"))
        found = [row["id"].decode() for row in content(node.records)["backends"][b"b1"][1]]
        assert found == sorted(names)
    assert len(read_image(node.records).servers) < 400


def test_garbage_and_changed_routes_are_bounded() -> None:
    node = Node(shop(50))
    folds = 0
    largest = 0
    for number in range(1500):
        compiled = node.apply(Edit("frontend", f"f{number % 50}", Frontend(route=f"Path(`/{number}`)", backend="b1")))
        folds += compiled.full
        largest = max(largest, len(node.records))
    assert 1 <= folds < 10
    assert largest < 400_000
    assert node.winners([{"path": "/1499"}, {"path": "/1449"}]) == [(b"f49", {}), (None, {})]


def test_many_new_routes_are_folded_unless_told_otherwise() -> None:
    def many(kind: str) -> list[Edit]:
        return [
            Edit("frontend", f"{kind}{i}", Frontend(route=f"Path(`/{kind}/{i}`)", backend="b1")) for i in range(300)
        ]

    node = Node(shop(50))
    assert node.apply(*many("x")).full
    assert not node.compiler.fold_due
    assert not node.apply(*many("y"), fold=False).full
    assert node.compiler.fold_due
    requests = [{"path": "/x/7"}, {"path": "/y/7"}, {"path": "/7"}]
    before = node.winners(requests)
    assert before == [(b"x7", {}), (b"y7", {}), (b"f7", {})]
    assert node.fold().full
    assert not node.compiler.fold_due
    assert node.winners(requests) == before


def test_nothing_can_be_edited_before_a_whole_tree_or_after_an_error() -> None:
    compiler = SnapshotCompiler(Slots())
    with pytest.raises(ValueError, match="compile a whole tree first"):
        compiler.apply([], revision=1)

    def failing(kind: str, name: str) -> int:
        raise RuntimeError("no slot")

    node = Node(shop())
    node.slots.__class__ = type("Failing", (Slots,), {"__call__": lambda self, kind, name: failing(kind, name)})
    with pytest.raises(RuntimeError, match="no slot"):
        node.apply(Edit("backend", "new", Backend()))
    with pytest.raises(ValueError, match="compile a whole tree first"):
        node.apply()


def test_descriptors_end_with_their_images() -> None:
    before = len(os.listdir("/proc/self/fd"))
    node = Node(shop())
    for _ in range(50):
        node.apply(Edit("server", "s", Server(url="http://10.0.0.9:1"), "b0"))
        node.fold()
    del node
    assert len(os.listdir("/proc/self/fd")) <= before + 2
