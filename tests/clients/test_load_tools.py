"""wrk and h2load: many requests, none of which fails."""

import re

from kit.load import GET, Load
from kit.proxies import ProxyProcess
from tests.clients.conftest import Tool


def url(proxy: ProxyProcess) -> str:
    return f"http://127.0.0.1:{proxy.port}/api"


def test_wrk(balanced: ProxyProcess, tool: Tool) -> None:
    text = tool("wrk", "-t1", "-c64", "-d2s", "--latency", url(balanced))
    assert "Socket errors" not in text, text
    assert "Non-2xx" not in text, text
    found = re.search(r"(\d+) requests in", text)
    assert found is not None, text
    assert int(found[1]) > 100, text


def test_h2load_in_http11_mode(balanced: ProxyProcess, tool: Tool) -> None:
    text = tool("h2load", "--h1", "-n4000", "-c32", "-t1", url(balanced))
    assert "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout" in text, text


def test_h2load_pipelining(balanced: ProxyProcess, tool: Tool) -> None:
    text = tool("h2load", "--h1", "-n2000", "-c8", "-m8", "-t1", url(balanced))
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in text, text


def test_connection_churn(balanced: ProxyProcess) -> None:
    """A connection for every request, closed by either side."""
    request = GET.replace(b"GET / ", b"GET /api ")
    closing = request[:-2] + b"Connection: close\r\n\r\n"
    for each, per_connection in ((request, 1), (request, 7), (closing, 0)):
        result = Load(balanced.address, each, clients=4, per_connection=per_connection).run(1.0)
        assert not result.failures, result.failures
        assert result.requests > 50
