"""`bascule demo` does what it promises: an origin and the balancer itself are replaced under traffic, no request fails, and
nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.proxies import ROOT
from kit.waiting import until

COMMAND = [sys.executable, "-m", "bascule", "demo"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}


def processes_of(directory: str) -> list[int]:
    """Return the processes whose command line names the demo's directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if directory.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("store", ["embedded", "etcd"])
def test_origin_and_balancer_are_replaced_without_a_failed_request(store: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--seconds", "3", "--store", store, "--json"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["failed"] == 0
    assert summary["failures"] == []
    assert set(summary["by_origin"]) == {"a 1.0.0", "b 1.0.0", "c 2.0.0"}
    assert all(count > 0 for count in summary["by_origin"].values())
    assert summary["requests"] == sum(summary["by_origin"].values())
    assert summary["store"] == store
    made_by = [change["by"] for change in summary["changes"]]
    around = "etcdctl put" if store == "etcd" else "bascule set"
    assert made_by == ["bascule apply", around, "bascule drain", "bascule apply"]
    assert all(0 <= change["in_force_ms"] < 10_000 for change in summary["changes"])
    assert [(receipt["kind"], receipt["ok"]) for receipt in summary["upgrades"]] == [("upgrade", True), ("back", True)]
    assert [receipt["to"]["generation"] for receipt in summary["upgrades"]] == [2, 1]
    assert summary["echoes"] > 10
    assert done.stderr.count("in force in every worker") == 4


def test_terminated_demo_leaves_nothing_behind() -> None:
    with subprocess.Popen(
        [*COMMAND, "--store", "embedded", "--keep"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        line = ""
        end = time.monotonic() + 30
        while "after an edit of" not in line and time.monotonic() < end:
            line = process.stdout.readline()
        directory = str(Path(line.split()[-1]).parent)
        assert processes_of(directory)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(30) == 130
    until(lambda: not processes_of(directory), "every process of the demo has ended")
    assert not Path(directory).exists()
