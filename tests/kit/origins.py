"""The demo's example origin as a process: a page with assets, an echo, a WebSocket, bodies of any size."""

import os
import subprocess
import sys
from types import TracebackType

from kit.proxies import ROOT


class ExampleOrigin:
    """`python -m bascule.demo.origin` on a free port."""

    def __init__(self, name: str = "a", version: str = "1.0.0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bascule.demo.origin", "--name", name, "--version", version],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert ":" in line, f"the example origin did not start: {line!r}"
        self.port = int(line.rsplit(":", 1)[1])
        self.address = f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it as its operator would: SIGTERM, and what it is doing is finished."""
        self.process.terminate()
        self.process.wait(10)

    def __enter__(self) -> "ExampleOrigin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
