"""One proxy with short deadlines, whose origin misbehaves as each test tells it to."""

import socket
from collections.abc import Iterator

import pytest

from kit.origin import OK, ScriptedOrigin, reply_with, replying
from kit.proxies import BasculeProcess
from kit.waiting import free_port

DEADLINE_MS = 500
CONFIG = """
[listeners.web]
address = "127.0.0.1:{port}"
header_timeout = "500ms"
keepalive_timeout = "1s"
body_timeout = "500ms"

[listeners.patient]
address = "127.0.0.1:PATIENT"
body_timeout = "20s"

[listeners.capped]
address = "127.0.0.1:CAPPED"
max_connections_per_address = 4

[listeners.paced]
address = "127.0.0.1:PACED"
body_timeout = "500ms"
body_rate_min = 2000

[backends.app]
connect_timeout = "500ms"
response_timeout = "500ms"
idle_timeout = "500ms"
[backends.app.servers.a1]
url = "http://ORIGIN"

[backends.patient]
[backends.patient.servers.a1]
url = "http://ORIGIN"

[backends.silent]
connect_timeout = "500ms"
[backends.silent.servers.s1]
url = "http://127.0.0.1:SILENT"

[backends.whole]
exchange_timeout = "700ms"
[backends.whole.servers.a1]
url = "http://ORIGIN"

[backends.none]

[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
[frontends.patient]
route = "PathPrefix(`/patient`)"
backend = "patient"
[frontends.silent]
route = "PathPrefix(`/silent`)"
backend = "silent"
[frontends.whole]
route = "PathPrefix(`/whole`)"
backend = "whole"
[frontends.none]
route = "PathPrefix(`/none`)"
backend = "none"
"""


class Fault:
    """The proxy under test, its origin, and the ports of its listeners."""

    def __init__(self, proxy: BasculeProcess, origin: ScriptedOrigin, ports: dict[str, int]) -> None:
        self.proxy = proxy
        self.origin = origin
        self.address = ("127.0.0.1", proxy.port)
        self.patient = ("127.0.0.1", ports["PATIENT"])
        self.capped = ("127.0.0.1", ports["CAPPED"])
        self.paced = ("127.0.0.1", ports["PACED"])


def silent_listener() -> list[socket.socket]:
    """Return a listener whose queue is full, so that the kernel drops every further SYN, and what fills it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filling = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        filling.append(sock)
    return [listener, *filling]


@pytest.fixture(scope="session")
def fault_process() -> Iterator[Fault]:
    silent = silent_listener()
    with ScriptedOrigin() as origin:
        ports = {name: free_port() for name in ("PATIENT", "CAPPED", "PACED")}
        config = CONFIG.replace("ORIGIN", origin.address).replace("SILENT", str(silent[0].getsockname()[1]))
        for name, port in ports.items():
            config = config.replace(name, str(port))
        with BasculeProcess(config=config) as proxy:
            yield Fault(proxy, origin, ports)
    for sock in silent:
        sock.close()


@pytest.fixture
def fault(fault_process: Fault) -> Iterator[Fault]:
    """The shared proxy with a well-behaved origin; afterwards nothing may be in flight or left over."""
    origin = fault_process.origin
    if origin.listener is None:
        origin.start()
    origin.forget(script=replying(lambda: origin.reply), reply=reply_with(OK))
    yield fault_process
    origin.drop_connections()
    fault_process.proxy.assert_quiet()
    assert origin.errors == []
