"""What was done to a node: bounded, ordered, and readable whatever happens to its file."""

import resource
from pathlib import Path

import pytest

from bascule.admin import actions
from bascule.admin.actions import Actions


def test_newest_first_across_the_change_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "ACTIONS_BYTES_MAX", 2000)
    path = tmp_path / "actions.jsonl"
    kept = Actions(str(path))
    assert kept.latest(10) == ()
    for number in range(100):
        kept.add("root", "freeze", {"reason": f"r{number}"})
    assert [action.details["reason"] for action in kept.latest(20)] == [f"r{number}" for number in range(99, 79, -1)]
    assert sum(found.stat().st_size for found in tmp_path.iterdir()) < 5000
    assert (path.stat().st_mode if path.exists() else 0o600) & 0o077 == 0


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "actions.jsonl"
    kept = Actions(str(path))
    kept.add("root", "adopt", {})
    with path.open("ab") as file:
        file.write(b'{"at_s": cut off\n')
    kept.add("root", "unfreeze", {})
    assert [action.action for action in kept.latest(5)] == ["unfreeze", "adopt"]


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "actions.jsonl"
    kept = Actions(str(path))
    kept.add("root", "adopt", {})
    with path.open("ab") as file:
        file.write(b'{"at_s": 17')
    kept.add("root", "freeze", {})
    kept.add("root", "unfreeze", {})
    assert [action.action for action in kept.latest(5)] == ["unfreeze", "freeze", "adopt"]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="space"):
            kept.add("root", "reload", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    kept.add("root", "adopt", {})
    assert [action.action for action in kept.latest(2)] == ["adopt", "unfreeze"]
