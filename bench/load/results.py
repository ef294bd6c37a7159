"""Results as files: one JSON file a case in bench/results, every round of every proxy in it, and where it was taken."""

import datetime
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"

Round = dict[str, float]
Rows = dict[str, list[Round]]
NOT_MEASURED = "not measured yet"


def machine() -> dict[str, object]:
    """What the figures depend on besides the programs."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The revision measured; a "+" behind it means with changes to the program that are not committed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "src", "cext") else "")


def store(case: str, rows: Rows, **more: object) -> Path:
    """Writes bench/results/CASE.json; a case that was measured before is replaced."""
    taken = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    document = {"case": case, "taken": taken, "commit": commit(), **machine(), **more, "rows": rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{case}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def stored(case: str) -> dict[str, Any] | None:
    """The stored document of a case, or None if it was never measured."""
    path = RESULTS / f"{case}.json"
    return json.loads(path.read_text()) if path.exists() else None
