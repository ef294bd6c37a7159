"""`bascule import vulcand`: what it writes is what `bascule check` accepts, and its exit status says whether that is all."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bascule.cli.main import main
from bascule.cli.toml import to_toml
from kit.etcd import Etcd

TREE = {
    "listeners/l1": {"Protocol": "http", "Address": {"Network": "tcp", "Address": "127.0.0.1:8080"}},
    "backends/app/backend": {"Type": "http", "Settings": {"Timeouts": {"Read": "5s"}}},
    "backends/app/servers/a1": {"URL": "http://127.0.0.1:9001"},
    "backends/app/servers/a2": {"URL": "http://127.0.0.1:9002"},
    "frontends/get.v2.domains/frontend": {
        "Type": "http",
        "BackendId": "app",
        "Route": 'Host("api.example.com") && Method("GET") && Path("/v2/<domain>")',
        "Settings": {"PassHostHeader": True, "Limits": {"MaxBodyBytes": 4096}},
    },
    "frontends/get.v2.domains/middlewares/cl1": {
        "Type": "connlimit",
        "Priority": 1,
        "Middleware": {"Connections": 5, "Variable": "client.ip"},
    },
}
WRONG = {
    "frontends/nowhere/frontend": {"Type": "http", "BackendId": "gone", "Route": 'Path("/x")'},
    "frontends/slow/frontend": {"Type": "http", "BackendId": "app", "Route": "PathRegexp(`(a+)+`)"},
    "frontends/guarded/frontend": {"Type": "http", "BackendId": "app", "Route": 'Path("/g")'},
    "frontends/guarded/middlewares/auth": {"Type": "auth", "Middleware": {}},
    "listeners/again": {"Protocol": "http", "Address": {"Network": "tcp", "Address": "127.0.0.1:8080"}},
    "hosts/a.com/host": {"Name": "a.com"},
}


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd() as server:
        server.transact({f"/vulcand/{key}": json.dumps(value) for key, value in TREE.items()})
        server.transact({f"/wrong/{key}": json.dumps(value) for key, value in (TREE | WRONG).items()})
        yield server


def run(etcd: Etcd, *arguments: str) -> int:
    return main(["import", "vulcand", "--etcd", f"127.0.0.1:{etcd.member.client_port}", *arguments])


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_tree_is_converted_to_what_check_accepts(
    etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    file = tmp_path / f"bascule.{form}"
    assert run(etcd, f"--{form}", "-o", str(file)) == 0
    assert "1 listeners, 1 frontends, 1 backends, 2 servers converted; 0 objects were not" in capsys.readouterr().err
    text = file.read_text()
    tree = tomllib.loads(text) if form == "toml" else json.loads(text)
    frontend = tree["frontends"]["get.v2.domains"]
    assert frontend["route"] == "Host(`api.example.com`) && Method(`GET`) && Path(`/v2/<p1>`)"
    assert (frontend["backend"], frontend["max_body_bytes"]) == ("app", 4096)
    limit = frontend["middlewares"]["cl1"]
    assert (limit["type"], limit["max"], limit["order"]) == ("concurrency_limit", 5, 1)
    assert main(["check", str(file)]) == 0


def test_the_status_says_when_not_everything_is_there_and_the_rest_is_in_order(
    etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(etcd, "--prefix", "wrong") == 1
    out, err = capsys.readouterr()
    for name in ("frontends.nowhere", "frontends.slow", "frontends.guarded", "listeners.l1", 'hosts."a.com"'):
        assert f"{name}" in err
    tree = tomllib.loads(out)
    assert list(tree["frontends"]) == ["get.v2.domains"]
    assert list(tree["listeners"]) == ["again"]
    file = tmp_path / "bascule.toml"
    file.write_text(out)
    assert main(["check", str(file)]) == 0


def test_nothing_there_is_a_failure_and_writes_nothing(
    etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bascule.toml"
    assert run(etcd, "--prefix", "/none", "-o", str(file)) == 1
    assert "--prefix" in capsys.readouterr().err
    assert not file.exists()


def test_nobody_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "vulcand", "--etcd", "127.0.0.1:1"]) == 1
    assert "endpoint" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_a_failure(etcd: Etcd, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(etcd, "-o", "/nowhere/bascule.toml") == 1
    assert "/nowhere/bascule.toml cannot be written" in capsys.readouterr().err


def test_no_etcd_given_is_misuse() -> None:
    assert main(["import", "vulcand"]) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"a": {"b.c": {"d": 'quote " back \\ slash \x7f \n é'}}},
        {"a": 1, "b": True, "c": [1, 2], "d": [], "e": {"f": {}}, "g": -1.5},
        {"": {"x y": {"z": ["a", "b"]}}},
    ],
)
def test_toml_reads_back_as_it_was(values: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(values)) == values
