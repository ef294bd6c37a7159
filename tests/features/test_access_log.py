"""The access log: one right line for whatever happens to a request, whoever tries to forge one."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import logs
from kit.client import RawClient, get
from kit.faults import SilentServer, fault_config
from kit.http1 import Cut, Ended, Message
from kit.load import Load
from kit.origin import OK, OriginConnection, ScriptedOrigin, reply_with, replying
from kit.proxies import ROOT, BasculeProcess
from kit.waiting import free_port, until

WEB = """
max_header_bytes = 2048
max_uri_bytes = 1000
max_body_bytes = 1000
"""


def config(place: str, origin: ScriptedOrigin, silent: SilentServer | None = None) -> str:
    return fault_config(origin, silent, "300ms", WEB) + f'[settings]\naccess_log = "{place}"\n'


class Logged:
    """A proxy that writes an access log, its origin and its log."""

    def __init__(self, proxy: BasculeProcess, origin: ScriptedOrigin, path: Path) -> None:
        self.proxy = proxy
        self.origin = origin
        self.path = path
        self.address = ("127.0.0.1", proxy.port)

    def line(self, request: str) -> logs.Line:
        """Wait for the only line of a request."""
        lines = logs.wait_for(self.path, request)
        assert len(lines) == 1
        return lines[0]


@pytest.fixture(scope="module")
def logged_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    path = tmp_path_factory.mktemp("log") / "access.log"
    silent = SilentServer()
    with ScriptedOrigin() as origin, BasculeProcess(config=config(str(path), origin, silent), workers=2) as proxy:
        yield Logged(proxy, origin, path)
    silent.close()


@pytest.fixture
def logged(logged_process: Logged) -> Iterator[Logged]:
    origin = logged_process.origin
    origin.forget(script=replying(lambda: origin.reply), reply=reply_with(OK))
    yield logged_process
    origin.drop_connections()
    logs.read(logged_process.path)  # whatever was sent, every line is still a whole one


def outcome(line: logs.Line) -> tuple[str, str, str, str, str]:
    return line["status"], line["error"], line["frontend"], line["backend"], line["server"]


def test_an_exchange(logged: Logged) -> None:
    with RawClient(logged.address) as client:
        client.ask(b"POST /well?a=b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")
    line = logged.line("POST /well?a=b")
    assert outcome(line) == ("200", "-", "app", "app", "a1")
    assert (line["client"], line["listener"], line["retries"], line["revision"]) == ("127.0.0.1", "web", "0", "1")
    assert int(line["in"]) > 50
    assert int(line["out"]) == 40
    assert 0 < int(line["latency_us"]) < 10_000_000


@pytest.mark.parametrize(
    ("sent", "request_logged", "wanted"),
    [
        (b"GET /b1 HTTP/1.1\r\n\r\n", "GET /b1", ("400", "bad_request", "-", "-", "-")),
        (b"GET  /b2 HTTP/1.1\r\nHost: a\r\n\r\n", "GET  /b2 HTTP/1.1", ("400", "bad_request", "-", "-", "-")),
        (b"GET /b3 HTTP/1.1\r\nHost : a\r\n\r\n", "GET /b3 HTTP/1.1", ("400", "bad_request", "-", "-", "-")),
        (b"GET /late HTTP/1.1\r\nHost: a", "GET /late HTTP/1.1", ("408", "request_timeout", "-", "-", "-")),
        (
            b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n",
            "POST /large",
            ("413", "too_large", "-", "-", "-"),
        ),
        (
            b"GET /fields HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2048 + b"\r\n\r\n",
            "GET /fields",
            ("431", "too_large", "-", "-", "-"),
        ),
        (
            b"GET /refusing HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /refusing",
            ("502", "connect_failed", "refusing", "refusing", "r1"),
        ),
        (b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", "GET /none", ("503", "no_server", "none", "none", "-")),
        (
            b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /silent",
            ("504", "connect_timeout", "silent", "silent", "s1"),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_refused_or_fails(
    logged: Logged, sent: bytes, request_logged: str, wanted: tuple[str, str, str, str, str]
) -> None:
    with RawClient(logged.address) as client:
        assert client.send(sent).response().status == int(wanted[0])
    line = logged.line(request_logged)
    assert outcome(line) == wanted
    assert line["client"] == "127.0.0.1"


def test_a_long_target_is_414_and_cut(logged: Logged) -> None:
    with RawClient(logged.address) as client:
        assert client.send(b"GET /" + b"t" * 1500 + b" HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 414
    cut = "GET /" + "t" * 507
    assert outcome(logged.line(cut)) == ("414", "too_large", "-", "-", "-")


def test_an_origin_that_hangs_is_504(logged: Logged) -> None:
    def hanging(connection: OriginConnection, head: Message) -> bool:
        connection.hang_until_closed()
        return False

    logged.origin.forget(reply=hanging)
    assert get(logged.address, "/hang").status == 504
    assert outcome(logged.line("GET /hang")) == ("504", "response_timeout", "app", "app", "a1")


def test_an_answer_that_is_none_is_502(logged: Logged) -> None:
    logged.origin.forget(reply=reply_with(b"nonsense\r\n\r\n", close=True))
    assert get(logged.address, "/nonsense").status == 502
    assert outcome(logged.line("GET /nonsense")) == ("502", "bad_response", "app", "app", "a1")


def test_a_client_that_goes_away_is_499(logged: Logged) -> None:
    def hanging(connection: OriginConnection, head: Message) -> bool:
        connection.hang_until_closed()
        return False

    logged.origin.forget(reply=hanging)
    client = RawClient(logged.address)
    client.send(b"GET /patient/gone HTTP/1.1\r\nHost: a\r\n\r\n")
    logged.origin.wait_requests(1)
    client.reset()
    assert outcome(logged.line("GET /patient/gone")) == ("499", "client_gone", "patient", "patient", "a1")


def test_hostile_bytes_forge_nothing(logged: Logged) -> None:
    """The line is parsed by position: whatever the target holds, it stays inside its quotes and inside its line."""
    forged = b'x" status=200 error=-\\'
    hostile = [
        b"GET /" + forged + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x1b[2Jesc HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /nul\x00byte HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /cr\rtime=2026 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /lf\ntime=2026 HTTP/1.1\r\nHost: a\r\n\r\n",
        b'GET /%0atime=" HTTP/1.1\r\nHost: a\r\n\r\n',
        b'"\\"\n\n"= =\x7f\x00' * 90,
    ]
    before = len(logs.read(logged.path))
    for data in hostile:
        with RawClient(logged.address) as client:
            try:
                client.send(data).response()
            except (Ended, Cut):
                continue
    until(lambda: len(logs.read(logged.path)) >= before + len(hostile), "a line for each")
    lines = logs.read(logged.path)[before:]
    assert len(lines) == len(hostile)
    assert all(set(line["request"][1:-1]) <= set(map(chr, range(0x20, 0x7F))) - {'"'} for line in lines)
    assert {line["status"] for line in lines} <= {"400", "200"}
    assert '"GET /x\\x22" status=200 error=-\\x5c"' not in {line["request"] for line in lines}


def test_usr1_opens_it_again(logged: Logged) -> None:
    """As logrotate does: rename, signal, and the next lines are in a new file."""
    old = logged.path.with_suffix(".1")
    assert get(logged.address, "/before").status == 200
    logs.wait_for(logged.path, "GET /before")
    logged.path.rename(old)
    logged.proxy.signal(signal.SIGUSR1)
    until(logged.path.exists, "a new log file")

    def in_new_file() -> bool:
        get(logged.address, "/after")
        return len([line for line in logs.read(logged.path) if line["request"] == '"GET /after"']) >= 8

    until(in_new_file, "lines in the new file")
    assert not [line for line in logs.read(logged.path) if line["request"] == '"GET /before"']


def test_lines_of_all_workers_stay_whole(logged: Logged) -> None:
    request = b"GET /patient/many/" + b"m" * 480 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    with Load(logged.address, request, clients=8, per_connection=20) as load:
        until(lambda: load.result.requests >= 2000, "2000 requests", 30.0)
    result = load.result
    assert not result.failures
    assert (
        len(logs.wait_for(logged.path, request[: request.index(b" HTTP")].decode(), result.requests)) == result.requests
    )


def test_a_reload_turns_it_on_moves_it_and_turns_it_off(tmp_path: Path) -> None:
    with ScriptedOrigin() as origin:
        first, second = tmp_path / "first", tmp_path / "second"
        with BasculeProcess(config=config("off", origin), workers=2) as proxy:
            address = ("127.0.0.1", proxy.port)
            proxy.status()  # waits for the admin socket
            for place, path in ((str(first), first), (str(second), second)):
                proxy.write_config(config(place, origin))
                proxy.run("reload")

                def written(path: Path = path) -> bool:
                    get(address, "/x")
                    return len(logs.read(path)) > 4

                until(written, f"lines in {path}")
            sizes = first.stat().st_size
            proxy.write_config(config("off", origin))
            proxy.run("reload")

            def quiet() -> bool:
                before = second.stat().st_size
                for _ in range(20):
                    get(address, "/y")
                return second.stat().st_size == before

            until(quiet, "no more lines")
            assert first.stat().st_size == sizes


def test_standard_error_takes_it_too(tmp_path: Path) -> None:
    """A pipe: whole lines of both workers, and none of the program's own among them is torn."""
    with ScriptedOrigin() as origin:
        read_end, write_end = os.pipe()
        proxy = BasculeProcess([origin.address], workers=2, arguments=["--access-log", "stderr"])
        process = subprocess.Popen(proxy.command(), stderr=write_end, env=proxy.environment(), cwd=ROOT)
        os.close(write_end)
        try:
            address = ("127.0.0.1", proxy.port)
            until(lambda: _answers(address), "an answer", 20.0)
            for number in range(30):
                assert get(address, f"/number-{number}").status == 200
            process.send_signal(signal.SIGTERM)
            with open(read_end, encoding="ascii") as stream:
                text = stream.read()
            assert process.wait(20) == 0
        finally:
            process.kill()
            proxy.cleanup()
    ours = [line for line in text.splitlines(keepends=True) if line.startswith("time=")]
    requests = [line["request"] for line in logs.parse("".join(ours))]
    assert sorted(r for r in requests if "number" in r) == sorted(f'"GET /number-{n}"' for n in range(30))
    assert all(line.startswith(("time=", "ts=")) for line in text.splitlines())


def test_a_reader_that_sleeps_stops_no_traffic() -> None:
    """The pipe of standard error is full: lines are dropped and counted, requests are answered."""
    with ScriptedOrigin() as origin:
        read_end, write_end = os.pipe()
        proxy = BasculeProcess([origin.address], workers=1, arguments=["--access-log", "stderr"])
        process = subprocess.Popen(proxy.command(), stderr=write_end, env=proxy.environment(), cwd=ROOT)
        os.close(write_end)
        try:
            address = ("127.0.0.1", proxy.port)
            until(lambda: _answers(address), "an answer", 20.0)
            with RawClient(address) as client:
                for _ in range(400):
                    assert client.ask(b"GET /" + b"l" * 500 + b" HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
            lost = re.search(
                r'^bascule_worker_log_lines_lost_total\{worker="0"\} (\d+)$', proxy.metrics(), re.MULTILINE
            )
            assert lost is not None
            assert int(lost[1]) > 100
            assert "access log lines were lost" in proxy.run("status").stdout
        finally:
            process.kill()
            process.wait()
            os.close(read_end)
            proxy.cleanup()


def test_what_cannot_be_opened_again_is_in_the_status(logged: Logged) -> None:
    """Requests go on being logged to the file that is open; the status says what is wrong until it is put right."""
    elsewhere = logged.path.with_suffix(".renamed")
    logged.path.rename(elsewhere)
    logged.path.mkdir()
    logged.proxy.signal(signal.SIGUSR1)
    until(lambda: len(_complaints(logged)) == 2, "a warning of each worker")
    assert "Is a directory" in _complaints(logged)[0]
    assert get(logged.address, "/while-it-cannot").status == 200
    logs.wait_for(elsewhere, "GET /while-it-cannot")
    logged.path.rmdir()
    logged.proxy.signal(signal.SIGUSR1)
    until(lambda: not _complaints(logged), "no warning any more")
    assert get(logged.address, "/can-again").status == 200
    logs.wait_for(logged.path, "GET /can-again")


def _complaints(logged: Logged) -> list[str]:
    return [warning for warning in logged.proxy.status()["warnings"] if "access log" in warning]


def test_a_start_needs_the_log_to_be_possible(tmp_path: Path) -> None:
    """Asked before a listener is bound, with the same words by `check`."""
    file = tmp_path / "bascule.toml"
    file.write_text(f'[settings]\naccess_log = "{tmp_path}/missing/log"\n')
    state = ["--state", str(tmp_path / "state")]
    for command in (
        ["check", str(file)],
        ["run", "-c", str(file), *state],
        [
            "proxy",
            "--listen",
            f"127.0.0.1:{free_port()}",
            "--to",
            "9001",
            "--access-log",
            f"{tmp_path}/missing/log",
            *state,
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "bascule", *command],
            capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        assert done.returncode in (1, 2)
        assert f"the directory {tmp_path}/missing does not exist" in done.stdout + done.stderr
        assert "access_log" in done.stderr or "--access-log" in done.stderr
    assert not (tmp_path / "missing").exists()


def _answers(address: tuple[str, int]) -> bool:
    try:
        return get(address, "/up").status == 200
    except OSError:
        return False


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    file = tmp_path / "bascule.toml"
    file.write_text('[settings]\naccess_log = "access.log"\n')
    done = subprocess.run(
        [sys.executable, "-m", "bascule", "check", str(file)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "access_log" in done.stdout + done.stderr
    assert "absolute path" in done.stdout + done.stderr
