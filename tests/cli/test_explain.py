import json
from pathlib import Path

import pytest

from bascule.cli.main import main

CONFIG = """
[backends.app.servers.a1]
url = "http://127.0.0.1:9001"
[frontends.all]
route = "PathPrefix(`/`)"
backend = "app"
[frontends.api]
route = "Host(`api.example.com`) && PathPrefix(`/v2/<tenant>`)"
backend = "app"
[frontends.first]
route = "PathPrefix(`/v2`)"
backend = "app"
priority = 5
[frontends.tenant]
route = "Header(`X-Tenant`, `7`) && Path(`/only/tenant`)"
backend = "app"
[frontends.internal]
route = "ClientIP(`10.0.0.0/8`) && Path(`/inside`)"
backend = "app"
[frontends.zz]
route = "PathPrefix(`/`)"
backend = "app"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "bascule.toml"
    file.write_text(CONFIG)
    return str(file)


def winner(config: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["explain", "-c", config, "--json", *words]) == 0
    frontend = json.loads(capsys.readouterr().out)["frontend"]
    assert isinstance(frontend, str)
    return frontend


def test_the_winner(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert winner(config, capsys, "GET", "http://x.com/") == "all"
    assert winner(config, capsys, "GET", "/only/tenant", "-H", "X-Tenant: 7") == "tenant"
    assert winner(config, capsys, "GET", "/only/tenant") == "all"
    assert winner(config, capsys, "GET", "/inside", "--client-ip", "10.1.2.3") == "internal"
    assert winner(config, capsys, "GET", "/inside", "--client-ip", "11.1.2.3") == "all"
    assert winner(config, capsys, "GET", "http://API.example.com:80/a/../v2/t7/x") == "first"


def test_who_else_and_why(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/v2/t7/x", "-H", "Host: api.example.com", "-c", config]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == [
        "GET api.example.com /v2/t7/x",
        "  goes to frontend first, backend app (1 server)",
        "    PathPrefix(`/v2`)  (priority 5)",
        "  ahead of",
        "    api: priority 0 is below 5",
        "      Host(`api.example.com`) && PathPrefix(`/v2/<tenant>`)",
        "    all: api comes first: its host is more specific (exact over parameter over wildcard over regexp over none)",
        "      PathPrefix(`/`)",
        "    zz: the same route; the id 'all' comes first",
        "      PathPrefix(`/`)",
    ]


def test_parameters(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/v2/t7/x", "-H", "Host: api.example.com", "-c", config, "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)["contenders"]
    assert {entry["frontend"]: entry["params"] for entry in ranking}["api"] == {"tenant": "t7"}


def test_no_route_and_no_request(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert main(["explain", "GET", "/", "-c", str(empty)]) == 1
    assert "404" in capsys.readouterr().out
    assert main(["explain", "GET", "/%zz", "-c", config]) == 1
    assert "400" in capsys.readouterr().err
    assert main(["explain", "GET", "/", "-H", "nonsense", "-c", config]) == 2
    assert main(["explain", "GET", "/", "--client-ip", "x", "-c", config]) == 2


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("Host(`a.test`)", "PathPrefix(`/very/long`)", "host is more specific"),
        ("Path(`/very/long`)", "PathPrefix(`/very/long`)", "path is more specific"),
        ("PathPrefix(`/very/long`)", "PathPrefix(`/very`)", "path is more specific"),
        ("PathPrefix(`/very/<x>`)", "PathRegexp(`^/very/.*`)", "path is more specific"),
        ("PathPrefix(`/very`) && Method(`GET`)", "PathPrefix(`/very`)", "more further conditions"),
    ],
)
def test_the_rule_that_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str, rule: str
) -> None:
    file = tmp_path / "bascule.toml"
    file.write_text(
        '[backends.app.servers.a1]\nurl = "http://127.0.0.1:1"\n'
        f"[frontends.zz]\nroute = '{first}'\nbackend = \"app\"\n[frontends.aa]\nroute = '{second}'\nbackend = \"app\"\n"
    )
    assert main(["explain", "GET", "http://a.test/very/long", "-c", str(file), "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)["contenders"]
    assert [entry["frontend"] for entry in ranking] == ["zz", "aa"]
    assert "zz comes first: " in ranking[1]["why"]
    assert rule in ranking[1]["why"]
