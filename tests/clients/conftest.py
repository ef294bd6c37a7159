"""Real clients in front, two example origins behind, and the proxy under test with two workers between."""

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from kit.origins import ExampleOrigin
from kit.proxies import ProxyProcess


@pytest.fixture(scope="session")
def balanced(proxy_kind: type[ProxyProcess]) -> Iterator[ProxyProcess]:
    """A proxy over two origins, a and b."""
    with (
        ExampleOrigin("a") as first,
        ExampleOrigin("b") as second,
        proxy_kind([first.address, second.address], workers=2) as proxy,
    ):
        yield proxy


Tool = Callable[..., str]


@pytest.fixture
def tool() -> Tool:
    """Run a program and return what it printed; the test fails when the program is missing or fails."""

    def run(*command: str, deadline_s: float = 60.0, status: int | None = 0, stdin: bytes = b"") -> str:
        assert shutil.which(command[0]), f"{command[0]} is not installed: run ci/setup --test"
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=deadline_s, check=False)
        text = done.stdout.decode(errors="replace")
        assert status is None or done.returncode == status, f"{command} ended with {done.returncode}: {done.stderr!r}"
        return text

    return run
