"""Commands against a process that keeps a state directory as the keeper does: locked pid file and admin socket."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bascule.cli.main import main

PROCESS = """
import http.server, json, signal, socketserver, sys, threading
from bascule.process.state_directory import StateDirectory
state = StateDirectory(sys.argv[1])
answers = json.loads(sys.argv[2])

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        status, body = answers.get(f"{self.command} {self.path}", (404, "no"))
        body = (json.dumps(body) if isinstance(body, dict) else body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def address_string(self): return "client"
    def log_message(self, *_): pass

server = socketserver.ThreadingUnixStreamServer(state.file("admin.sock"), Handler)
def end(number, _):
    state.write("ended.json", {"by": signal.Signals(number).name})
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, (lambda *_: None) if "deaf" in answers else end)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
server.serve_forever()
state.release()
"""
STATUS = {
    "revision": 7,
    "workers": [{"number": 0, "pid": 12, "state": "serving", "revision": 7}],
    "something_new": {"ignored": True},
}


class Keeper:
    def __init__(self, directory: Path, answers: dict[str, object]) -> None:
        self.directory = str(directory)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, self.directory, json.dumps(answers)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"


@pytest.fixture
def keepers() -> Iterator[list[Keeper]]:
    started: list[Keeper] = []
    yield started
    for keeper in started:
        keeper.process.kill()
        keeper.process.communicate()


def start(keepers: list[Keeper], directory: Path, answers: dict[str, object] | None = None) -> str:
    keeper = Keeper(directory, answers or {"GET /v1/status": (200, STATUS)})
    keepers.append(keeper)
    return keeper.directory


def test_status(keepers: list[Keeper], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = start(keepers, tmp_path / "state")
    assert main(["status", "--state", directory, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS
    assert main(["status", "--state", directory]) == 0
    assert "7" in capsys.readouterr().out


def test_nothing_running(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "bascule"))
    for command in ("status", "reload", "stop"):
        assert main([command, "--state", str(tmp_path)]) == 1
        assert "nothing runs" in capsys.readouterr().err
        assert main([command]) == 1
        assert "no load balancer is running" in capsys.readouterr().err


def test_the_only_proxy_is_found_and_several_are_asked_about(
    keepers: list[Keeper], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "bascule"))
    start(keepers, tmp_path / "bascule-proxy-1")
    assert main(["status", "--json"]) == 0
    second = start(keepers, tmp_path / "bascule-proxy-2")
    assert main(["status", "--json"]) == 1
    assert f"--state {second}" in capsys.readouterr().err


def test_a_stale_pid_file_is_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "keeper.pid").write_text("1\n")
    assert main(["stop", "--state", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("status", "outcome", "code", "said"),
    [
        (200, {"ok": True, "changed": True, "revision": 8}, 0, "revision 8 is in force"),
        (200, {"ok": True, "changed": False, "revision": 7}, 0, "nothing has changed"),
        (
            422,
            {
                "ok": False,
                "revision": 7,
                "problems": [{"message": "wrong", "file": "f", "line": 3, "remedy": "fix it"}],
            },
            1,
            "f:3: wrong\n    fix it\nreload failed; revision 7 stays in force",
        ),
        (500, "oops", 1, "500"),
    ],
)
def test_reload(
    keepers: list[Keeper],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    outcome: object,
    code: int,
    said: str,
) -> None:
    directory = start(keepers, tmp_path / "state", {"POST /v1/reload": (status, outcome)})
    assert main(["reload", "--state", directory]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


@pytest.mark.parametrize(("words", "by"), [([], "SIGTERM"), (["--now"], "SIGINT")])
def test_stop_waits_for_the_end(
    keepers: list[Keeper], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], by: str
) -> None:
    directory = start(keepers, tmp_path / "state")
    assert main(["stop", "--json", "--state", directory, *words]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == keepers[0].process.pid
    assert json.loads((tmp_path / "state" / "ended.json").read_text()) == {"by": by}
    assert keepers[0].process.wait(10) == 0


def test_stop_is_honest_about_a_process_that_does_not_end(
    keepers: list[Keeper], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = start(keepers, tmp_path / "state", {"deaf": True})
    assert main(["stop", "--state", directory, "--timeout", "0.2"]) == 1
    assert "stop --now" in capsys.readouterr().err
    assert keepers[0].process.poll() is None
    keepers[0].process.send_signal(signal.SIGINT)
    assert keepers[0].process.wait(10) == 0
