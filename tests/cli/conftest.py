"""A load balancer with a store of its own, for the commands that change it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.waiting import free_port, until
from process.balancer import START_DEADLINE_S, Balancer


class LiveBalancer(Balancer):
    """`bascule run --store embedded`, with the admin API on TCP too."""

    def __init__(self, directory: Path) -> None:
        self.admin_port = free_port()
        super().__init__(directory, {}, workers=1)

    def spawn(self) -> None:
        """Start the keeper and wait for nothing."""
        command = [sys.executable, "-m", "bascule", "run", "--store", "embedded", "--state", str(self.state)]
        command += ["--workers", "1", "--admin", f"127.0.0.1:{self.admin_port}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self.environment, cwd=self.directory)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBalancer]:
    """One for all tests of a file; each begins with `clean`."""
    before = os.environ.copy()
    with LiveBalancer(tmp_path_factory.mktemp("live")) as balancer:
        until(balancer.ready, "a ready balancer", START_DEADLINE_S)
        yield balancer
    os.environ.clear()
    os.environ.update(before)
