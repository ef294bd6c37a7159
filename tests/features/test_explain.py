"""`bascule explain` says what a running load balancer does: asked both, request by request."""

import json
from pathlib import Path

import pytest

from kit import logs
from kit.client import RawClient
from kit.origin import ScriptedOrigin
from kit.proxies import BasculeProcess
from kit.waiting import until

ROUTES = {
    "root": "PathPrefix(`/`)",
    "host": "Host(`a.test`) && PathPrefix(`/`)",
    "wild": "HostRegexp(`[a-z]+.wild.test`) && PathPrefix(`/`)",
    "v2": "Host(`a.test`) && PathPrefix(`/v2`)",
    "tenant": "Host(`a.test`) && PathPrefix(`/v2/<tenant>`)",
    "number": "PathPrefix(`/items/<int:id>`)",
    "exact": "Path(`/items/7`)",
    "post": "PathPrefix(`/`) && Method(`POST`)",
    "header": "PathPrefix(`/`) && Header(`X-Tenant`, `7`)",
    "query": "PathPrefix(`/q`) && Query(`a`, `b`)",
    "client": "Path(`/me`) && ClientIP(`127.0.0.0/8`)",
    "regexp": "PathRegexp(`^/re/[0-9]+$`)",
}
REQUESTS = [
    (method, host, target, headers)
    for method, host, target, headers in [
        ("GET", "a.test", "/", ()),
        ("GET", "A.TEST:80", "/x", ()),
        ("GET", "b.test", "/", ()),
        ("GET", "one.wild.test", "/", ()),
        ("GET", "a.test", "/v2", ()),
        ("GET", "a.test", "/v2/t1/x", ()),
        ("GET", "a.test", "/v2/../v2//t1", ()),
        ("GET", "b.test", "/items/12", ()),
        ("GET", "b.test", "/items/7", ()),
        ("GET", "b.test", "/items/x", ()),
        ("POST", "b.test", "/items/7", ()),
        ("POST", "b.test", "/any", ()),
        ("GET", "b.test", "/any", ("X-Tenant: 7",)),
        ("POST", "b.test", "/any", ("x-tenant: 7",)),
        ("GET", "b.test", "/q?a=b", ()),
        ("GET", "b.test", "/q?a=c", ()),
        ("GET", "b.test", "/me", ()),
        ("GET", "b.test", "/re/123", ()),
        ("GET", "b.test", "/re/x", ()),
        ("GET", "b.test", "/%69tems/7", ()),
    ]
]


def test_the_same_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bascule.cli.main import main

    log = tmp_path / "access.log"
    with ScriptedOrigin() as origin:
        config = f'[settings]\naccess_log = "{log}"\n[listeners.web]\naddress = "127.0.0.1:{{port}}"\n'
        config += f'[backends.app.servers.a1]\nurl = "http://{origin.address}"\n'
        for name, route in ROUTES.items():
            config += f"[frontends.{name}]\nroute = '{route}'\nbackend = \"app\"\n"
        with BasculeProcess(config=config) as proxy:
            until(lambda: logs.read(log), "the line of the first request, which asked whether it is up")
            said, done = [], []
            for method, host, target, headers in REQUESTS:
                words = [word for header in headers for word in ("-H", header)]
                file = str(proxy.config_path)
                words += ["-H", f"Host: {host}", "--client-ip", "127.0.0.1", "-c", file, "--json"]
                main(["explain", method, target, *words])
                said.append(json.loads(capsys.readouterr().out)["frontend"])
                with RawClient(proxy.address) as client:
                    lines = "".join(f"{header}\r\n" for header in headers)
                    before = len(logs.read(log))
                    client.ask(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())
                done.append(_next(log, before))
    assert said == done
    assert len(set(done)) >= 10, "the sample meets most of the routes"


def _next(log: Path, before: int) -> str:
    return until(lambda: logs.read(log)[before:], "a line")[0]["frontend"]
