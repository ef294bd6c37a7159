"""One proxy and one scripted origin for the whole corpus: thousands of connections, two processes started."""

from collections.abc import Iterator

import pytest

from kit.origin import OK, ScriptedOrigin, reply_with
from kit.proxies import BasculeProcess, ProxyProcess
from kit.waiting import free_port

CONFIG = """
[listeners.web]
address = "127.0.0.1:{port}"
max_header_bytes = 4096
max_uri_bytes = 1024
max_body_bytes = 65536

[listeners.trusted]
address = "127.0.0.1:TRUSTED"
trusted_proxies = ["127.0.0.0/8"]

[backends.app]
response_timeout = "5s"
[backends.app.servers.a1]
url = "http://ORIGIN"

[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""


class Wire:
    """The proxy under test, its origin, and the port of a listener that trusts the loopback network."""

    def __init__(self, proxy: ProxyProcess, origin: ScriptedOrigin, trusted_port: int) -> None:
        self.proxy = proxy
        self.origin = origin
        self.address = ("127.0.0.1", proxy.port)
        self.trusted = ("127.0.0.1", trusted_port)


@pytest.fixture(scope="session")
def wire_process(proxy_kind: type[ProxyProcess]) -> Iterator[Wire]:
    with ScriptedOrigin() as origin:
        trusted = free_port()
        if proxy_kind is BasculeProcess:
            config = CONFIG.replace("ORIGIN", origin.address).replace("TRUSTED", str(trusted))
            process: ProxyProcess = BasculeProcess(config=config)
        else:
            process = proxy_kind([origin.address])
        with process as proxy:
            yield Wire(proxy, origin, trusted)


@pytest.fixture
def wire(wire_process: Wire) -> Iterator[Wire]:
    """The shared proxy, its origin answering `ok`; afterwards the origin must have seen nothing malformed."""
    wire_process.origin.forget(reply=reply_with(OK))
    yield wire_process
    assert wire_process.origin.violations == []
    assert wire_process.origin.errors == []
