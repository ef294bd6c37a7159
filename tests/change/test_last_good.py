"""The last good configuration on disk: three generations, each intact or not used, and never in anybody's way."""

import os
import random
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bascule.change import last_good_file
from bascule.change.holds import GateState, Hold
from bascule.change.last_good import GENERATIONS, LastGood
from bascule.change.last_good_file import DamagedError, Frame, Journal, read_base, read_journal, write_base
from bascule.change.live import Freeze
from bascule.store.interface import Entry, Reading
from kit.waiting import until


def entry(key: str, value: bytes = b"{}", revision: int = 1, lease: int = 0) -> Entry:
    return Entry(key, value, revision, revision, lease)


def entries(count: int, value: bytes = b"{}") -> dict[str, Entry]:
    return {f"frontends/f{number}": entry(f"frontends/f{number}", value, number + 1) for number in range(count)}


class Bench:
    """Makes LastGoods over one directory and ends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warnings: list[str] = []
        self.made: list[LastGood] = []

    def open(self) -> LastGood:
        self.made.append(LastGood(str(self.directory), self.warnings.append, quiet_s=0.01))
        return self.made[-1]

    def generations(self) -> list[int]:
        return sorted(int(path.suffix[1:]) for path in self.directory.glob("last-good.*[0-9]"))

    def read(self) -> Reading:
        reading = self.open().load()
        assert reading is not None
        return reading

    def fill(self, generations: int, each: int = 1) -> None:
        """Make generations that differ: generation n has revisions up to 10 n, its journal the last of them."""
        for number in range(1, generations + 1):
            writer = self.open()
            writer.note("id", 10 * number - 5, {f"frontends/g{number}": entry(f"frontends/g{number}")})
            assert writer.flush()
            for step in range(each):
                writer.note(
                    "id", 10 * number + step, {f"frontends/j{number}": entry(f"frontends/j{number}", b"%d" % step)}
                )
                assert writer.flush()
            writer.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "last-good")
    yield found
    for one in found.made:
        one.close()


def damage(path: Path, place: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[place if place is not None else len(data) // 2] ^= 0x40
    path.write_bytes(data)


def test_what_is_noted_is_read_back_by_a_successor(bench: Bench) -> None:
    writer = bench.open()
    stored = {**entries(10_000), "backends/b": entry("backends/b", b'{"balance":"wrr"}', 7, lease=99)}
    writer.note("cluster", 20_000, dict(stored))
    assert writer.flush()
    writer.note("cluster", 20_001, {"frontends/f1": None, "frontends/f2": entry("frontends/f2", b"2", 20_001)})
    assert writer.flush()
    writer.close()
    del stored["frontends/f1"]
    stored["frontends/f2"] = entry("frontends/f2", b"2", 20_001)
    assert bench.read() == Reading("cluster", 20_001, stored)
    assert bench.warnings == []


def test_there_is_nothing_at_first(bench: Bench) -> None:
    assert bench.open().load() is None
    assert bench.open().load_gates() == GateState()
    assert bench.warnings == []


def test_files_are_private_and_nothing_is_left_over(bench: Bench) -> None:
    bench.fill(2)
    bench.open().note_gates(GateState())
    assert bench.made[-1].flush()
    for path in bench.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert path.suffix != ".new"
    assert stat.S_IMODE(bench.directory.stat().st_mode) == 0o700


def test_three_generations_are_kept(bench: Bench) -> None:
    bench.fill(5)
    assert bench.generations() == [3, 4, 5]
    assert len(list(bench.directory.iterdir())) == 2 * GENERATIONS
    assert bench.read().revision == 50


def test_a_small_change_is_appended_and_a_large_journal_begins_a_generation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bascule.change.last_good.JOURNAL_BYTES_MIN", 2000)
    writer = bench.open()
    writer.note("id", 1, dict(entries(100)))
    assert writer.flush()
    base = (bench.directory / "last-good.1").read_bytes()
    writer.note("id", 2, {"frontends/f1": entry("frontends/f1", b"x", 2)})
    assert writer.flush()
    assert (bench.directory / "last-good.1").read_bytes() == base
    assert bench.generations() == [1]
    for revision in range(3, 60):
        writer.note("id", revision, {"frontends/f1": entry("frontends/f1", b"y" * 100, revision)})
        assert writer.flush()
    assert bench.generations()[-1] > 1
    assert bench.read().entries["frontends/f1"].modified == 59
    assert len(bench.read().entries) == 100


@pytest.mark.parametrize("place", [0, 9, 13, 20, 40, None, -1])
def test_a_damaged_base_is_made_up_for_by_the_generation_before_and_the_journal(
    bench: Bench, place: int | None
) -> None:
    bench.fill(3)
    whole = bench.read()
    damage(bench.directory / "last-good.3", place)
    reading = bench.read()
    assert bench.warnings
    assert "last-good.3" in bench.warnings[0]
    assert set(reading.entries) == {"frontends/g1", "frontends/j1", "frontends/g2", "frontends/j2"}
    assert reading.revision == 20, "the third base was revision 25, which only it knew"
    assert whole.revision == 30


def test_a_base_made_from_a_whole_journal_loses_nothing_when_damaged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill(1)
    number, (head, found) = 2, read_base(str(bench.directory / "last-good.1"))
    assert head.revision == 5
    merged = bench.read()
    write_base(str(bench.directory / f"last-good.{number}"), merged)
    journal = Journal(str(bench.directory / f"last-good.{number}.journal"), merged.revision)
    journal.append(Frame("id", 99, [("frontends/late", b"{}", 99, 99, 0)], []))
    journal.close()
    assert found
    damage(bench.directory / "last-good.2")
    assert bench.read().revision == 99
    assert "frontends/late" in bench.read().entries


def test_a_damaged_journal_counts_up_to_the_damage(bench: Bench) -> None:
    bench.fill(1, each=5)
    path = bench.directory / "last-good.1.journal"
    damage(path, -3)
    reading = bench.read()
    assert reading.revision == 13
    assert "revision 13 only" in bench.warnings[0]
    damage(path, 3)
    assert bench.read().revision == 5


@pytest.mark.parametrize("keep", [0, 1, 20, 56])
def test_a_truncated_base_is_not_used(bench: Bench, keep: int) -> None:
    bench.fill(2)
    path = bench.directory / "last-good.2"
    path.write_bytes(path.read_bytes()[:keep])
    assert set(bench.read().entries) == {"frontends/g1", "frontends/j1"}
    path.write_bytes(b"")
    (bench.directory / "last-good.1").unlink()
    assert bench.open().load() is None


def test_after_damage_writing_goes_on_from_what_is_intact(bench: Bench) -> None:
    bench.fill(3)
    damage(bench.directory / "last-good.3")
    writer = bench.open()
    writer.note("id", 100, {"frontends/new": entry("frontends/new")})
    assert writer.flush()
    assert set(bench.read().entries) == {
        "frontends/g1",
        "frontends/j1",
        "frontends/g2",
        "frontends/j2",
        "frontends/new",
    }
    assert bench.generations() == [2, 3, 4]


def test_a_directory_that_cannot_be_written_is_a_warning_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bascule.change.last_good.RETRY_S", (0.01, 0.05))
    bench.directory.write_text("a file where the directory should be")
    writer = bench.open()
    writer.note("id", 1, {"frontends/a": entry("frontends/a")})
    writer.note_gates(GateState())
    until(lambda: writer.status().error, "an error in the status")
    assert "--state" in writer.status().error
    assert writer.status().pending == 1
    writer.note("id", 2, {"frontends/b": entry("frontends/b")})
    time.sleep(0.2)
    assert len(bench.warnings) == 1, "one failure, one warning"
    bench.directory.unlink()
    assert writer.flush()
    assert writer.status().error == ""
    assert bench.read().revision == 2
    assert set(bench.read().entries) == {"frontends/a", "frontends/b"}


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path), 1)
    journal.append(Frame("id", 2, [("frontends/a", b"{}", 2, 2, 0)], []))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size_bytes + 10, limit[1]))
    try:
        with pytest.raises(OSError):
            journal.append(Frame("id", 3, [("frontends/b", b"x" * 100, 3, 3, 0)], []))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.stat().st_size == journal.size_bytes
    journal.append(Frame("id", 4, [], ["frontends/a"]))
    journal.close()
    assert [frame.revision for frame in read_journal(str(path))[1]] == [2, 4]


def test_what_is_frozen_or_held_is_kept(bench: Bench) -> None:
    state = GateState(
        (Freeze(by="operator", reason="frozen by carl: night", since_s=5.0),),
        (Hold("backends/app/servers/a1", "pool", "gone", 6.0),),
        {"app": 3},
    )
    writer = bench.open()
    writer.note_gates(state)
    assert writer.flush()
    assert bench.open().load_gates() == state
    damage(bench.directory / "gates", 12)
    assert bench.open().load_gates() == GateState()
    assert "judged anew" in bench.warnings[0]


def test_a_flush_that_fails_says_so_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bascule.change.last_good.RETRY_S", (0.01, 0.05))
    bench.directory.write_text("a file where the directory should be")
    writer = bench.open()
    writer.note_gates(GateState((Freeze(by="operator", reason="night", since_s=5.0),)))
    began_s = time.monotonic()
    assert not writer.flush(600)
    assert time.monotonic() - began_s < 300
    bench.directory.unlink()
    until(lambda: bench.open().load_gates().freezes, "written when there is room again")
    assert writer.flush()


def test_an_error_nobody_thought_of_is_told_and_writing_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bascule.change.last_good.RETRY_S", (0.01, 0.05))
    state = GateState((Freeze(by="operator", reason="night", since_s=5.0),))
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise RuntimeError("no disk has ever said this")

        broken.setattr("bascule.change.last_good.replace_file", fail)
        writer = bench.open()
        writer.note_gates(state)
        assert not writer.flush(600)
        assert "no disk has ever" in writer.status().error
    until(lambda: bench.open().load_gates() == state, "written all the same")
    assert writer.flush()


def test_changes_close_together_are_written_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[Frame] = []
    append: Callable[[Journal, Frame], None] = Journal.append

    def spy(journal: Journal, frame: Frame) -> None:
        frames.append(frame)
        append(journal, frame)

    monkeypatch.setattr(Journal, "append", spy)
    writer = LastGood(str(bench.directory), bench.warnings.append, quiet_s=30, longest_s=60)
    bench.made.append(writer)
    writer.note("id", 1, {"frontends/a": entry("frontends/a")})
    assert writer.flush()
    for revision in range(2, 500):
        writer.note(
            "id", revision, {f"frontends/f{revision % 7}": entry(f"frontends/f{revision % 7}", b"%d" % revision)}
        )
    assert writer.status().pending == 7
    writer.close()
    assert [frame.revision for frame in frames] == [499]
    assert bench.read().revision == 499


def test_noting_never_waits_for_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    entered, noted = threading.Event(), threading.Event()
    waited: list[bool] = []

    def slow(file: int) -> None:
        entered.set()
        waited.append(not noted.wait(20))
        real(file)

    monkeypatch.setattr(last_good_file.os, "fsync", slow)
    writer = bench.open()
    writer.note("id", 1, dict(entries(1000)))
    assert entered.wait(20)
    for revision in range(2, 200):
        writer.note("id", revision, {"frontends/f1": entry("frontends/f1", b"%d" % revision)})
    noted.set()
    assert writer.flush()
    assert not any(waited), "a note has waited for the disk"
    assert bench.read().revision == 199


def test_a_base_with_any_byte_changed_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base"
    write_base(str(path), Reading("id", 3, entries(50)))
    whole = path.read_bytes()
    chosen = random.Random(2)
    for place in {*range(100), *chosen.sample(range(len(whole)), 100)}:
        changed = bytearray(whole)
        changed[place] ^= chosen.randint(1, 255)
        for broken in (bytes(changed), whole[:place]):
            path.write_bytes(broken)
            with pytest.raises(DamagedError):
                read_base(str(path))


def test_a_journal_cut_anywhere_gives_a_state_that_was_in_force(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path), 1)
    sizes = {journal.size_bytes: 0}
    for revision in range(2, 12):
        journal.append(Frame("id", revision, [("frontends/a", b"%d" % revision, 2, revision, 0)], []))
        sizes[journal.size_bytes] = revision
    journal.close()
    whole = path.read_bytes()
    for cut in random.Random(1).sample(range(min(sizes), len(whole)), 100):
        path.write_bytes(whole[:cut])
        found = []
        try:
            for frame in read_journal(str(path))[1]:
                found.append(frame.revision)
        except DamagedError:
            assert cut not in sizes
        assert (found or [0])[-1] == max(revision for size, revision in sizes.items() if size <= cut)
