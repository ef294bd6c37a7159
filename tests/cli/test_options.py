import os
import subprocess
import sys
from pathlib import Path

import pytest

from bascule.cli.options import UsageError, parse


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("run", []) == {
        "command": "run",
        "config": "",
        "store": "",
        "etcd": "",
        "prefix": "",
        "admin": [],
        "admin_cert": "",
        "admin_key": "",
        "admin_plain": "loopback",
        "listen": [],
        "to": [],
        "routes": "",
        "state": "",
        "workers": 0,
        "slots": 0,
        "drain_timeout_ms": 0,
        "log_format": "logfmt",
        "log_file": "",
        "access_log": "",
        "pid_file": "",
    }


@pytest.mark.parametrize(
    ("words", "config", "store"),
    [
        ([], "bascule.toml", ""),
        (["--store", "file"], "bascule.toml", "file"),
        (["--store", "embedded"], "", "embedded"),
        (["--etcd", "10.0.0.1:2379"], "", "etcd"),
        (["--store", "vulcand", "--etcd", "10.0.0.1:2379"], "", "vulcand"),
        (["-c", "other.toml", "--store", "etcd"], "other.toml", "etcd"),
    ],
)
def test_where_the_configuration_is(
    words: list[str], config: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bascule.toml").touch()
    monkeypatch.chdir(tmp_path)
    options = parse("run", words)
    assert (options["config"], options["store"]) == (str(tmp_path / config) if config else "", store)


def test_every_way_to_write_an_option() -> None:
    options = parse("run", ["-c", "/a", "--workers=3", "--drain-timeout", "2m", "--state", "x", "--log-format=json"])
    assert (options["config"], options["workers"], options["drain_timeout_ms"]) == ("/a", 3, 120_000)
    assert (options["state"], options["log_format"]) == (str(Path("x").absolute()), "json")
    proxy = parse("proxy", ["--listen", ":1", "--listen=:2", "--to", "a:1", "--routes", "r"])
    assert (proxy["listen"], proxy["to"], proxy["routes"]) == ([":1", ":2"], ["a:1"], str(Path("r").absolute()))


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("run", ["--config"], "--config needs a value"),
        ("run", ["--config="], "--config needs a value"),
        ("run", ["--confg", "x"], "--confg is not an option"),
        ("run", ["--work", "1"], "did you mean --workers?"),
        ("run", ["--listen", ":1"], "--listen is not an option"),
        ("run", ["x.toml"], "unexpected argument 'x.toml'"),
        ("run", ["--workers", "many"], "a whole number from 0 to 64"),
        ("run", ["--workers", "-1"], "a whole number"),
        ("run", ["--workers", "65"], "from 0 to 64"),
        ("run", ["--store", "consul"], "this version knows embedded and file and etcd and vulcand"),
        ("run", ["--drain-timeout", "5"], "a duration such as 30s"),
        ("run", ["-c", "a", "-c", "b"], "-c is given twice"),
        ("run", ["-c", "a", "--config", "b"], "--config is given twice"),
        ("proxy", ["--to", "a:1"], "--listen ADDRESS is missing"),
        ("proxy", ["--listen", ":1"], "add --to HOST:PORT or --routes FILE"),
    ],
)
def test_misuse(command: str, words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(command, words)
    assert message in str(caught.value)
    assert f"see `bascule {command} --help`" in str(caught.value)


def test_the_table_costs_no_imports() -> None:
    code = "import sys, bascule.cli.options; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = result.stdout.split()
    assert not {"click", "msgspec", "asyncio", "re", "typing", "dataclasses", "argparse"} & set(loaded)


def test_the_place_of_the_access_log() -> None:
    assert parse("run", ["--access-log", "stderr"])["access_log"] == "stderr"
    assert parse("proxy", ["--listen", ":1", "--to", ":2", "--access-log=off"])["access_log"] == "off"
    assert parse("run", ["--access-log", "a.log"])["access_log"] == str(Path("a.log").absolute())


def test_the_admin_api_is_not_opened_to_a_network_in_the_clear() -> None:
    options = parse("run", ["--admin", "127.0.0.1:8181", "--admin", "[::1]:8181"])
    assert options["admin"] == ["127.0.0.1:8181", "[::1]:8181"]
    assert parse("run", ["--admin", "0.0.0.0:8181", "--admin-plain", "anywhere"])["admin"] == ["0.0.0.0:8181"]
    assert parse("run", ["--admin", ":8181", "--admin-cert", "/c", "--admin-key", "/k"])["admin_key"] == "/k"
    for words in (["--admin", "0.0.0.0:8181"], ["--admin", "8181"], ["--admin", ":1", "--admin-cert", "/c"]):
        with pytest.raises(UsageError, match="--admin"):
            parse("run", words)
