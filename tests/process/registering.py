"""A program that registers its server, in a process of its own: it says on its output what it has done, and obeys its input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class RegistrantProcess:
    """One registered process; `lease` is what it was registered under."""

    def __init__(self, script: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lease = self.heard("registered")

    def heard(self, word: str) -> str:
        """Return what follows this word, which is to be the next that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line[:1] == [word], line
        return line[1]

    def say(self, words: str) -> None:
        """Have it do something, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        self.heard("done")

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
