"""Compiled images kept on disk: whoever goes on from them is where the one was who wrote them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.change import images_file
from bascule.change.compile import SnapshotCompiler
from bascule.change.compiled import KeptImages
from bascule.change.edits import Edit
from bascule.change.images_file import About, Position, read_images, write_images
from bascule.change.last_good_file import DamagedError
from bascule.shared import statistics

from .edits import EDITS, Model
from .test_incremental import ADDRESSES, Node, patient, shop

ABOUT = About([("web", "127.0.0.1:8080")], b'{"workers":2}', 10)
POSITION = Position("ab", 20, 7)


def kept_of(node: Node) -> KeptImages:
    kept = node.compiler.keep()
    assert kept is not None
    return kept


@settings(patient, max_examples=30)
@given(st.lists(EDITS, max_size=20), st.lists(EDITS, max_size=25))
def test_a_compiler_goes_on_where_the_other_was(first: list[Edit], then: list[Edit]) -> None:
    model = Model()
    for edit in first:
        model.apply(edit)
    node = Node(model.tree())
    kept = kept_of(node)
    other = SnapshotCompiler(node.slots)
    restored = other.restore(kept)
    kept.close()
    assert restored.records is not None
    assert restored.base is not None
    assert restored.records.read() == node.records
    assert restored.base.read() == node.base
    assert (restored.backends, restored.servers, restored.frontends) == (
        len(model.tree().backends),
        sum(len(backend.servers) for backend in model.tree().backends.values()),
        len(model.tree().frontends),
    )
    for revision, edit in enumerate(then, 2):
        compiled = other.apply([edit], revision=revision)
        node.apply(edit)
        assert compiled.records is not None
        assert compiled.records.read() == node.records
    folded = other.fold(revision=100)
    expected = node.compiler.fold(revision=100)
    assert folded.records is not None
    assert expected.records is not None
    assert folded.records.read() == expected.records.read()


def test_what_has_edits_aside_cannot_be_kept() -> None:
    node = Node(shop(2))
    assert node.compiler.clean
    node.apply(Edit("backend", "b0", None))
    assert not node.compiler.clean
    assert node.compiler.keep() is None
    node.fold()
    kept_of(node).close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kept = kept_of(Node(shop(50)))
    path = str(tmp_path / "images")
    assert write_images(path, kept, ABOUT, POSITION) == os.stat(path).st_size
    found = read_images(path)
    assert found is not None
    position, about, again = found
    assert (position, about, again.addresses) == (POSITION, ABOUT, ADDRESSES)
    for one, other in ((kept.records, again.records), (kept.base, again.base)):
        assert os.pread(one, 1 << 20, 0) == os.pread(other, 1 << 20, 0)
    assert bytes(again.sources) == bytes(kept.sources)
    kept.close()
    again.close()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "checksum"),
        (lambda data: data[:100], "checksum"),
        (lambda data: data[:10], "cut off"),
        (lambda data: b"X" + data[1:], "no file of images"),
        (lambda data: data + b"more", "checksum"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    kept = kept_of(Node(shop(5)))
    path = tmp_path / "images"
    write_images(str(path), kept, ABOUT, POSITION)
    kept.close()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError, match=says):
        read_images(str(path))


def test_another_build_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_of(Node(shop(5)))
    path = str(tmp_path / "images")
    write_images(path, kept, ABOUT, POSITION)
    kept.close()
    monkeypatch.setattr(images_file, "build_of", lambda: "another")
    assert read_images(path) is None


# ---- statistics slots


def test_slots_are_given_as_the_image_says() -> None:
    first = statistics.Directory(statistics.create(workers=1, objects=400))
    for number in range(7):  # so that the slots are not those that a new directory would give
        first.slot("frontend", f"gone{number}")
    compiler = SnapshotCompiler(first.slot)
    compiler.full(shop(20), revision=1, addresses={})
    for number in range(7):
        first.release("frontend", f"gone{number}")
    kept = compiler.keep()
    assert kept is not None
    region = statistics.create(workers=1, objects=400)
    second = statistics.Directory(region)
    second.seed(kept.records)
    assert second.items() == first.items()
    assert second.slot("server", "b3/s") == first.slot("server", "b3/s")
    assert statistics.Directory(region).items() == first.items(), "a successor reads the same"
    assert second.slot("frontend", "new") == first.bound, "what has been free all along rests first"
    with pytest.raises(ValueError, match="has given out slots"):
        second.seed(kept.records)
    small = statistics.Directory(statistics.create(workers=1, objects=20))
    with pytest.raises(ValueError, match="one that the region does not have"):
        small.seed(kept.records)
    assert len(small) == 0
    assert small.slot("frontend", "f0") >= 0
    kept.close()
