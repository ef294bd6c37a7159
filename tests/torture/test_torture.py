"""Everything at once, for as long as CI allows: no request fails, the kernel sees no reset, every event does what it should.

The same program runs for longer with other options; see bench/torture/__main__.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torture(report: Path, *options: str) -> dict[str, Any]:
    """Run it and return its report; what it printed is shown when the test fails."""
    command = [sys.executable, "-m", "bench.torture", "--report", str(report), *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout[-20000:], done.stderr[-5000:])
    assert report.exists(), f"the torture ended with {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def assert_clean(report: dict[str, Any]) -> None:
    assert report["failures"] == []
    assert report["failed"] == 0
    assert report["problems"] == []
    assert report["origin"]["heads_bad"] == report["origin"]["uploads_wrong"] == report["origin"]["cut"] == 0
    if report["private_network"]:
        assert report["resets"] == 0, report["resets_by_sender"]


@pytest.mark.timeout(320)
def test_no_request_fails_while_everything_changes(tmp_path: Path) -> None:
    report = torture(tmp_path / "report.json", "--upgrades", "10", "--pause", "0.3", "--seed", "7", "--at-most", "150")
    assert_clean(report)
    assert report["clean"]
    # Forty seconds are enough, unless the machine is busy with something else.
    assert report["upgrades"]["done"]["upgrade"] >= (10 if report["seconds"] < 150 else 1)
    assert report["upgrades"]["connections"]["handed_over_tunnels"] > 0
    assert report["upgrades"]["connections"]["cut_at_deadline"] == 0
    assert all(report["by_kind"][kind] for kind in ("keepalive", "churn", "pipeline", "upload", "download", "idle"))
    assert report["messages"] > 100
    assert report["noticed"]["streams opened"] == 8, "as many as there are clients: none was broken and opened again"
    assert "closed while idle" not in report["noticed"]


@pytest.mark.timeout(180)
def test_a_killed_worker_costs_what_it_held_and_nothing_else(tmp_path: Path) -> None:
    report = torture(tmp_path / "report.json", "--kills", "3", "--no-disturbances", "--no-changes", "--seed", "8")
    assert report["killed"]["times"] == 3
    assert 0 < report["killed"]["requests_lost"] <= report["killed"]["connections"]
    assert report["failures"] == []
    if report["private_network"]:
        assert report["resets"] == 0, report["resets_by_sender"]
