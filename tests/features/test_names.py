"""Servers by host name, looked up by the system's real resolver."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.client import get
from kit.load import Load
from kit.origin import ScriptedOrigin
from kit.proxies import BasculeProcess
from kit.waiting import until
from tests.features.test_balance import config

HOSTS = Path("/etc/hosts")
NAME = "bascule-kit-server.test"


def test_localhost() -> None:
    with ScriptedOrigin() as origin:
        servers = {"a1": f'url = "http://localhost:{origin.port}"'}
        with BasculeProcess(config=config(servers), workers=2) as proxy:
            assert get(proxy.address).status == 200


@pytest.fixture
def hosts() -> Iterator[str]:
    """The file as it was; it is restored whatever happens."""
    if os.geteuid() != 0 or not os.access(HOSTS, os.W_OK):
        pytest.skip("needs root: the name is put into /etc/hosts")
    before = HOSTS.read_text()
    yield before
    HOSTS.write_text(before)


def test_a_name_that_moves(hosts: str) -> None:
    """The traffic follows within the interval, without a failed request."""
    HOSTS.write_text(f"{hosts}\n127.0.0.2 {NAME}\n")
    with ScriptedOrigin(host="127.0.0.2") as before, ScriptedOrigin(host="127.0.0.3", port=before.port) as after:
        servers = {"a1": f'url = "http://{NAME}:{before.port}"'}
        with BasculeProcess(config=config(servers, 'resolve_interval = "1s"'), workers=2) as proxy:
            with Load(proxy.address, clients=3, per_connection=20, pause_s=0.002) as load:
                until(lambda: len(before.requests) > 50, "requests at the first address")
                assert not after.requests
                HOSTS.write_text(f"{hosts}\n127.0.0.3 {NAME}\n")
                until(lambda: len(after.requests) > 50, "requests at the second address")
                until(lambda: not before.connections, "no connection to the first address")
            assert set(load.result.statuses) == {200}
            assert not load.result.failures
