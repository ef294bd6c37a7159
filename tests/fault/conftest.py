"""One proxy with short deadlines, whose origin misbehaves as each test tells it to."""

from collections.abc import Iterator

import pytest

from kit.faults import SilentServer, fault_config
from kit.origin import OK, ScriptedOrigin, reply_with, replying
from kit.proxies import BasculeProcess
from kit.waiting import free_port

DEADLINE_MS = 500
WEB = """
keepalive_timeout = "1s"
body_timeout = "500ms"
"""
LISTENERS = """
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


@pytest.fixture(scope="session")
def fault_process() -> Iterator[Fault]:
    silent = SilentServer()
    with ScriptedOrigin() as origin:
        ports = {name: free_port() for name in ("PATIENT", "CAPPED", "PACED")}
        config = fault_config(origin, silent, f"{DEADLINE_MS}ms", WEB) + LISTENERS
        for name, port in ports.items():
            config = config.replace(name, str(port))
        with BasculeProcess(config=config) as proxy:
            yield Fault(proxy, origin, ports)
    silent.close()


@pytest.fixture
def fault(fault_process: Fault) -> Iterator[Fault]:
    """The shared proxy with a well-behaved origin; afterwards nothing may be in flight or left over."""
    origin = fault_process.origin
    if origin.listener is None:
        origin.start()
    origin.forget(script=replying(lambda: origin.reply), reply=reply_with(OK))
    yield fault_process
    origin.settle()
    fault_process.proxy.assert_quiet()
    assert origin.errors == []
