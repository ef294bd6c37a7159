"""Real processes for the tests of shared regions: each runs a function of a test module on an inherited descriptor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src"
ROOT = SRC.parent


class Child:
    """`python -c` that calls `module.function(fd, *arguments)` and prints its result as JSON."""

    def __init__(self, module: str, function: str, fd: int, *arguments: object) -> None:
        call = f"m.{function}({fd}, *json.loads({json.dumps(arguments)!r}))"
        code = f"import json, {module} as m; print(json.dumps({call}), flush=True)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[fd],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def result(self) -> object:
        """What the function returned; waits for the end of the process."""
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        """SIGKILL: the process has no chance to clean up."""
        self.process.kill()
        self.process.communicate(timeout=60)
