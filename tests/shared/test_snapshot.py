"""Snapshot images: what is accepted is consistent, what is damaged is refused with a reason, nothing crashes."""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.shared.checksum import crc32
from bascule.shared.snapshot import SnapshotError, assemble, is_sealed, make_memfd, verify

from . import images

IMAGE = assemble(7, images.sample_sections())


def test_sample_is_accepted_and_gives_its_revision() -> None:
    assert verify(IMAGE) == 7
    assert verify(memoryview(b"x" + IMAGE)[1:]) == 7
    images.assert_consistent(IMAGE)


def test_empty_image_is_accepted() -> None:
    image = assemble(2**64 - 1, {})
    assert len(image) == images.HEADER_SIZE
    assert verify(image) == 2**64 - 1


def test_assembly_is_deterministic_and_aligned() -> None:
    sections = images.sample_sections()
    assert assemble(7, dict(reversed(sections.items()))) == IMAGE
    for number, data in sections.items():
        offset = struct.unpack_from("<Q", IMAGE, 40 + 16 * number)[0]
        assert offset % 8 == 0
        assert images.section(IMAGE, number) == data


@pytest.mark.parametrize("number", [-1, 24])
def test_assembly_refuses_unknown_sections(number: int) -> None:
    with pytest.raises(ValueError, match="0 to 23"):
        assemble(1, {number: b"x"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: i[:511], "shorter than its header"),
        (lambda i: b"XSCLSNAP" + i[8:], "not a snapshot image"),
        (lambda i: i[:8] + b"\1" + i[9:], "another layout"),
        (lambda i: i[:-8], "sizes in the image"),
        (lambda i: i + bytes(8), "sizes in the image"),
        (lambda i: i[:511] + b"\1" + i[512:], "sizes in the image"),
        (lambda i: i[:-1] + b"\xff", "checksum"),
    ],
)
def test_damage_is_named(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SnapshotError, match=reason):
        verify(change(IMAGE))


def patched(number: int, offset: int, fmt: str, value: int) -> bytes:
    sections = {key: bytearray(data) for key, data in images.sample_sections().items()}
    struct.pack_into(fmt, sections[number], offset, value)
    return assemble(7, sections)


@pytest.mark.parametrize(
    ("number", "offset", "fmt", "value"),
    [
        (images.LISTENERS, 0, "<I", 0xFFFFFFFF),  # id beyond the strings
        (images.LISTENERS, 4, "<I", 0),  # empty id
        (images.LISTENERS, 12, "<I", 3),  # first network
        (images.LISTENERS, 16, "<I", 0xFFFFFFFF),  # network count
        (images.BACKENDS, 12, "<I", 1),  # a server of its range belongs to another
        (images.BACKENDS, 16, "<I", 4),  # server count
        (images.BACKENDS, 20, "<I", 1),  # unknown balance
        (images.SERVERS, 12, "<I", 15),  # address no sockaddr_in
        (images.SERVERS, 16, "<I", 0xFFFFFFF0),  # authority
        (images.SERVERS, 36, "<I", 2),  # backend
        (images.SERVERS, 40, "<H", 1001),  # weight
        (images.SERVERS, 42, "<B", 4),  # state
        (images.FRONTENDS, 12, "<I", 2),  # backend
        (images.FRONTENDS, 20, "<I", 3),  # middlewares
        (images.MIDDLEWARES, 16, "<I", 0),  # type
        (images.MIDDLEWARES, 32, "<I", 5),  # rate count
        (images.MIDDLEWARES, 40, "<Q", 0),  # interval
        (images.MIDDLEWARES, 48, "<Q", 2**63),  # tolerance
        (images.NETWORKS, 16, "<I", 129),  # prefix
    ],
)
def test_bad_references_are_refused_with_their_place(number: int, offset: int, fmt: str, value: int) -> None:
    with pytest.raises(SnapshotError, match=rf"section \d+, .*record {0}"):
        verify(patched(number, offset, fmt, value))


def test_partial_records_and_overlaps_are_refused() -> None:
    sections = images.sample_sections()
    with pytest.raises(SnapshotError, match="section 1, listeners"):
        verify(assemble(1, sections | {images.LISTENERS: sections[images.LISTENERS][:-1]}))
    overlapping = bytearray(IMAGE)
    overlapping[40 + 16 * 3 : 48 + 16 * 3] = overlapping[40 + 16 * 2 : 48 + 16 * 2]
    with pytest.raises(SnapshotError, match="outside the image or is misaligned"):
        verify(images.with_checksum(overlapping))


def check_mutant(image: bytes) -> bool:
    """Either refused with a SnapshotError, or every reference of it holds."""
    try:
        verify(image)
    except SnapshotError:
        return False
    images.assert_consistent(image)
    return True


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(IMAGE) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_mutated_bytes_never_pass_unseen(changes: list[tuple[int, int]], fix_checksum: bool) -> None:
    mutant = bytearray(IMAGE)
    for position, value in changes:
        mutant[position] = value
    check_mutant(images.with_checksum(mutant) if fix_checksum else bytes(mutant))


def test_every_word_of_records_replaced_by_edge_values() -> None:
    accepted = refused = 0
    for position in range(40, len(IMAGE) - 4, 4):
        for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(IMAGE)):
            mutant = bytearray(IMAGE)
            mutant[position : position + 4] = struct.pack("<I", value)
            if check_mutant(images.with_checksum(mutant)):
                accepted += 1
            else:
                refused += 1
    assert accepted > 100
    assert refused > 100


def test_cuts_at_every_byte_are_refused() -> None:
    for length in range(len(IMAGE)):
        with pytest.raises(SnapshotError):
            verify(IMAGE[:length])


def test_memfd_is_sealed_and_holds_the_image() -> None:
    fd = make_memfd(IMAGE)
    try:
        assert is_sealed(fd)
        assert not os.get_inheritable(fd)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping:
            assert verify(mapping) == 7
        with pytest.raises(PermissionError) as refused:
            os.pwrite(fd, b"x", 0)
        assert refused.value.errno == errno.EPERM
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_unsealed_descriptors_are_told_apart() -> None:
    fd = os.memfd_create("plain", os.MFD_ALLOW_SEALING)
    reader, writer = os.pipe()
    try:
        assert not is_sealed(fd)
        assert not is_sealed(reader)
    finally:
        for descriptor in (fd, reader, writer):
            os.close(descriptor)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_checksum_equals_zlib_on_both_paths(left: bytes, right: bytes) -> None:
    expected = zlib.crc32(left + right)
    assert crc32(right, crc32(left)) == expected
    assert crc32(right, crc32(left, tables_only=True), tables_only=True) == expected


def test_checksum_of_a_long_block() -> None:
    block = random.Random(1).randbytes(1_000_003)
    assert crc32(block) == crc32(block, tables_only=True) == zlib.crc32(block)
