"""Arguments that nobody means: every one of them gets an error with a remedy, whatever characters it has, and none does
something else than it says."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from admin.local import LocalAdmin
from bascule.admin import events
from bascule.cli.main import main
from kit.waiting import free_port, until

SECRET = "bascule_a-secret"
Run = Callable[..., int]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalAdmin]:
    with LocalAdmin(tmp_path, admin=[f"127.0.0.1:{free_port()}"]) as running:
        until(lambda: any("on TCP" in event for event, _ in running.live.logged), "the API is on TCP", 20)
        assert running.ask("PUT", "/v1/backends/app", {}).status == 200
        yield running


@pytest.fixture
def bascule(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the API."""
    token = api.ask("POST", "/v1/tokens", {"name": "t", "role": "admin"}).json["secret"]
    monkeypatch.setenv("BASCULE_TOKEN", token)
    return lambda *words: main([*words, "--admin", f"http://{api.options['admin'][0]}"])


@pytest.mark.parametrize(
    "words",
    [
        ["get", "backends/ü"],
        ["get", "backends/a b"],
        ["get", "backends/app%2Fservers"],
        ["get", "backends/\udcff"],
        ["rm", "backends/app?dry_run=true"],
        ["rm", "backends/app#x"],
        ["drain", "app/ü"],
        ["set", "backends/app", "balance=" + "[" * 5000],
        ["set", "backends/app", "balance=\udcff"],
        ["freeze", "-m", "\udcff"],
        ["token", "rm", "app?x"],
        ["history", "9" * 30],
        ["rollback", "9" * 30],
        ["get", "--revision", "9" * 30],
    ],
)
def test_odd_characters_are_refused_and_change_nothing(
    bascule: Run, api: LocalAdmin, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = api.ask("GET", "/v1/tree").json
    assert bascule(*words, "--json") == 1
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["error"]
    assert answer["remedy"] or answer["problems"]
    assert captured.err
    assert api.ask("GET", "/v1/tree").json == before


@pytest.mark.parametrize("timeout", ["5zz", "soon", "10h", "0s", "-1s", "9" * 30 + "s", ""])
def test_times_that_are_none(bascule: Run, timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bascule("set", "backends/app", "balance=wrr", "--timeout", timeout) == 2
    assert "such as 10s" in capsys.readouterr().err


def test_a_message_of_several_lines_becomes_one(bascule: Run, api: LocalAdmin) -> None:
    assert bascule("set", "backends/new", "balance=wrr", "-m", "first\nSecond: ü\r\n\n€") == 0
    assert api.ask("GET", "/v1/history").json["items"][0]["message"] == "first Second: ü €"


def test_watching_ends_with_its_token(
    bascule: Run, api: LocalAdmin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    statuses: list[int] = []
    watching = threading.Thread(target=lambda: statuses.append(bascule("watch")), daemon=True)
    watching.start()
    until(lambda: api.live.queues, "somebody follows", 20)
    assert api.ask("DELETE", "/v1/tokens/t").status == 204
    watching.join(20)
    assert statuses == [1]
    assert "bascule token add" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://[::1", "ftp://x", "http://", "http://h:port", "http://h/path"])
def test_addresses_that_are_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin", url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["remedy"]


@pytest.mark.parametrize("content", [f"{SECRET}\nmore", f"{SECRET} x", f"{SECRET}ü€"])
def test_what_a_token_file_holds_is_never_shown(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    assert main(["status", "--admin", "http://127.0.0.1:1", "--token-file", str(file), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["remedy"]
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize("command", [["run", "--state", "STATE"], ["import", "vulcand"]])
@pytest.mark.parametrize("endpoint", [f"http://root:{SECRET}@127.0.0.1:1", f"127.0.0.1:1,root:{SECRET}@127.0.0.1:1"])
def test_a_password_in_an_endpoint_is_refused_and_not_shown(tmp_path: Path, command: list[str], endpoint: str) -> None:
    words = [str(tmp_path) if word == "STATE" else word for word in command]
    ended = subprocess.run(
        [sys.executable, "-m", "bascule", *words, "--etcd", endpoint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "password_file" in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
