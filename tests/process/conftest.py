"""Fixtures of the process tests: an origin, a port, and a balancer between them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.origin import ScriptedOrigin
from kit.waiting import free_port
from process.balancer import Balancer, tree


@pytest.fixture(scope="package")
def origin() -> Iterator[ScriptedOrigin]:
    """An origin that answers everything with "ok"."""
    with ScriptedOrigin() as running:
        yield running


@pytest.fixture
def port() -> int:
    """A free port for the balancer's listener."""
    return free_port()


@pytest.fixture
def start(tmp_path: Path, origin: ScriptedOrigin, port: int) -> Iterator[Callable[..., Balancer]]:
    """Start balancers with `start(**options)`; they listen on `port` unless given another tree. Ended after the test."""
    running: list[Balancer] = []

    def starter(listening: Any = None, *, name: str = "one", **options: Any) -> Balancer:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        configuration = listening or tree({"web": f"127.0.0.1:{port}"}, origin.address)
        balancer = Balancer(directory, configuration, **options)
        running.append(balancer)
        return balancer

    yield starter
    for balancer in running:
        if hasattr(balancer, "process"):
            balancer.__exit__(None, None, None)
