"""Rule 2 of the hot path: an exchange in steady state asks for no memory, from C or from Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = Path(os.environ.get("BASCULE_SOURCE", HERE.parents[1] / "src"))


@pytest.mark.skipif(bool(os.environ.get("BASCULE_SANITIZED")), reason="the sanitizer has the allocators")
def test_ten_thousand_exchanges_allocate_nothing(tmp_path: Path) -> None:
    shim = tmp_path / "count_allocations.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "count_allocations.c", "-ldl"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE.parent)]),
    }
    done = subprocess.run(
        [sys.executable, HERE / "steady_state.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == 10_200
    assert found["control"] >= 1, "the counter does not count"
    assert found["chunks"] == 0
    assert found["blocks"] == 0
    assert found["counted"] == 0
