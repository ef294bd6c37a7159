"""Health checks and slow start of a plain file, without any store: the same verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from kit.client import get
from kit.http1 import Message
from kit.origin import OK, OriginConnection, ScriptedOrigin
from kit.proxies import BasculeProcess
from kit.waiting import until

SICK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
PATIENCE_S = 30.0


class Checked:
    """An origin that answers its health check as the test says, and counts everything else."""

    def __init__(self, origin: ScriptedOrigin) -> None:
        self.origin = origin
        self.well = True
        self.served = 0
        origin.reply = self.reply

    def reply(self, connection: OriginConnection, head: Message) -> bool:
        if head.target == b"/health":
            connection.send(OK if self.well else SICK)
        else:
            self.served += 1
            connection.send(OK)
        return True


@pytest.fixture
def origins() -> Iterator[list[Checked]]:
    with contextlib.ExitStack() as stack:
        yield [Checked(stack.enter_context(ScriptedOrigin())) for _ in range(2)]


def config(origins: list[Checked], backend: str) -> str:
    servers = "".join(f'[backends.app.servers.s{i}]\nurl = "{found.origin.url}"\n' for i, found in enumerate(origins))
    return (
        f'[listeners.web]\naddress = "127.0.0.1:{{port}}"\n{backend}\n{servers}'
        '[frontends.app]\nroute = "PathPrefix(`/`)"\nbackend = "app"\n'
    )


CHECK = '[backends.app.health_check]\npath = "/health"\ninterval = "200ms"\nunhealthy = 2\n'


def shares(proxy: BasculeProcess, origins: list[Checked], count: int = 20) -> list[int]:
    """Return how many of so many requests each origin served."""
    before = [found.served for found in origins]
    for _ in range(count):
        assert get(proxy.address).status == 200
    return [found.served - old for found, old in zip(origins, before, strict=True)]


def test_an_unhealthy_server_gets_nothing_until_it_is_well(origins: list[Checked]) -> None:
    with BasculeProcess(config=config(origins, CHECK)) as proxy:
        assert shares(proxy, origins) == [10, 10]
        revision = proxy.status()["revision"]
        origins[0].well = False
        until(lambda: shares(proxy, origins) == [0, 20], "the sick one gets nothing", PATIENCE_S)
        assert "app/s0 unhealthy: answered 503" in proxy.run("status").stdout
        origins[0].well = True
        until(lambda: shares(proxy, origins) == [10, 10], "it is well again", PATIENCE_S)
        assert proxy.status()["revision"] == revision


def test_a_reload_begins_and_ends_checks(origins: list[Checked]) -> None:
    origins[0].well = False
    with BasculeProcess(config=config(origins, "")) as proxy:
        assert shares(proxy, origins) == [10, 10]
        proxy.write_config(config(origins, CHECK))
        proxy.run("reload")
        until(lambda: shares(proxy, origins) == [0, 20], "the sick one gets nothing", PATIENCE_S)
        proxy.write_config(config(origins, ""))
        proxy.run("reload")
        assert shares(proxy, origins) == [10, 10], "without a check there is no verdict"


def test_a_server_that_is_added_grows(origins: list[Checked]) -> None:
    with BasculeProcess(config=config(origins[:1], '[backends.app]\nslow_start = "10m"\n')) as proxy:
        assert shares(proxy, origins) == [20, 0]
        proxy.write_config(config(origins, '[backends.app]\nslow_start = "10m"\n'))
        proxy.run("reload")
        early = shares(proxy, origins, 40)
        assert early[1] < early[0], early
        assert "app/s1 ramping" in proxy.run("status").stdout
        proxy.write_config(config(origins, '[backends.app]\nslow_start = "2s"\n'))
        proxy.run("reload")
        until(lambda: shares(proxy, origins) == [10, 10], "it has its full share", PATIENCE_S)
