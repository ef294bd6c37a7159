"""Every command of the README runs as written, in the order of the page; only ports are replaced by free ones, and
/opt/bascule by a folder with two versions and the link to the first.

`bascule run` and `bascule proxy` go to the background, as they do in another terminal, until the next of them; all others have
to succeed. etcd is there, and its vulcand tree. `ci/...` is what runs this test.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bascule.demo.etcd import installed
from kit.origin import ScriptedOrigin
from kit.proxies import ROOT
from kit.waiting import free_port, until
from process.versions import Version

PORTS = ("8080", "9001", "9002", "9003", "8181", "2379")
VERSIONS = ("1.2", "1.3")
VULCAND = {
    "/vulcand/backends/b1/backend": '{"Type": "http"}',
    "/vulcand/backends/b1/servers/s1": '{"URL": "http://127.0.0.1:9001"}',
    "/vulcand/frontends/f1/frontend": '{"Type": "http", "BackendId": "b1", "Route": "PathRegexp(`/.*`)"}',
}


def commands() -> list[str]:
    """Return the commands of the README's shell blocks, with lines that go on put together."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("ci/", "#"))]


def configuration() -> str:
    """Return the README's bascule.toml."""
    found = re.search(
        r"here `bascule.toml`:\n\n```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    return found[1]


class Terminal:
    """A user's folder with the README's file in it, and the program on the PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {port: str(free_port()) for port in PORTS}
        binaries = directory / "bin"
        binaries.mkdir()
        program = binaries / "bascule"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bascule "$@"\n')
        program.chmod(0o755)
        self.versions = directory / "opt"
        for version in VERSIONS:
            Version(self.versions / version, version)
        (self.versions / "current").symlink_to(VERSIONS[0])
        self.environment = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "RUNTIME_DIRECTORY": str(directory / "bascule"),
            "STATE_DIRECTORY": str(directory / "data"),
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": self.replaced("http://127.0.0.1:2379"),
        }
        self.background: subprocess.Popen[bytes] | None = None
        (directory / "bascule.toml").write_text(self.replaced(configuration()))

    def replaced(self, text: str) -> str:
        """Put free ports in place of the page's, and the folder of versions."""
        text = text.replace("/opt/bascule/", f"{self.versions}/")
        return re.sub(r"(?<=:)(\d{4})\b", lambda match: self.ports.get(match[1], match[1]), text)

    def type(self, line: str) -> None:
        """Run a line as a user would."""
        line = self.replaced(line)
        if re.match(r"(\S*/)?bascule (run|proxy)\b", line):
            self.end()
            with (self.directory / "log").open("ab") as log:
                self.background = subprocess.Popen(
                    ["bash", "-c", "exec " + line],
                    cwd=self.directory,
                    env=self.environment,
                    stderr=log,
                    start_new_session=True,
                )
            until(self.ready, f"a ready balancer: {line}\n{self.log()}", 60, 0.1)
            return
        done = self.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{self.log()}"

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line and return how it ended."""
        command = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def ready(self) -> bool:
        """Tell whether what runs in the background serves."""
        assert self.background is not None
        assert self.background.poll() is None, self.log()
        done = self.run("bascule status --json")
        return done.returncode == 0 and '"ready": true' in done.stdout

    def log(self) -> str:
        """Return the end of the balancers' log."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def end(self) -> None:
        """End what runs in the background."""
        if self.background is None:
            return
        if self.background.poll() is None:
            self.background.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.background.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.background.pid, signal.SIGKILL)
        self.background.wait()
        self.background = None


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    with ScriptedOrigin():
        yield terminal
    terminal.end()


@pytest.fixture
def etcd(terminal: Terminal) -> Iterator[None]:
    """An etcd at the README's address, with a vulcand tree."""
    assert installed(), "etcd 3.4 or newer is needed: apt-get install etcd-server etcd-client"
    client = terminal.environment["ETCDCTL_ENDPOINTS"]
    peer = f"http://127.0.0.1:{free_port()}"
    with (terminal.directory / "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            ["etcd", "--name", "readme", "--data-dir", str(terminal.directory / "etcd"),
             "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
             "--initial-advertise-peer-urls", peer, "--initial-cluster", f"readme={peer}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(lambda: terminal.run("etcdctl endpoint health").returncode == 0, "etcd answers", 30, 0.1)
        for key, value in VULCAND.items():
            assert terminal.run(f"etcdctl put {key} '{value}'").returncode == 0
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
def test_every_command_runs_as_written(terminal: Terminal, etcd: None) -> None:
    lines = commands()
    assert len(lines) > 20
    began = time.monotonic()
    for line in lines:
        terminal.type(line)
    assert time.monotonic() - began < 280
