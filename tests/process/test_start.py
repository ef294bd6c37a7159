"""A start that cannot succeed: said once, in full, with the exit status that says whose fault it is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kit.proxies import ROOT
from kit.waiting import free_port, until
from process.balancer import Balancer, serves

Start = Callable[..., Balancer]
PATH = {"PYTHONPATH": str(ROOT / "src")}


def bascule(*words: str, cwd: Path, wrong: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "bascule", *words, "--state", str(cwd / "state")]
    return subprocess.run(command, cwd=cwd, env=PATH, capture_output=True, text=True, timeout=60, check=False)


def test_every_error_is_told_at_the_first_start(tmp_path: Path) -> None:
    """Those of single fields, of references and of routes, which are found by three steps."""
    backends = {f"größe{number}": {"colour": number} for number in range(2000)}
    frontends = {"a": {"route": "Path(", "backend": "none"}}
    (tmp_path / "bascule.json").write_text(json.dumps({"backends": backends, "frontends": frontends}))
    ended = bascule("run", "-c", "bascule.json", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("unknown field 'colour'") >= 2000
    assert "there is no backend 'none'" in ended.stderr
    assert "at character 6 of the route" in ended.stderr
    assert "master died" not in ended.stderr, "an error of the configuration is no crash"


def test_a_missing_file_is_said_without_a_second_attempt(tmp_path: Path) -> None:
    for _ in range(3):
        ended = bascule("run", "-c", "bascule.toml", cwd=tmp_path)
        assert ended.returncode == 1
        assert f"or create {tmp_path}/bascule.toml" in ended.stderr
        assert "master died" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--listen", "nowhere", "--to", "127.0.0.1:1"], 2),
        (["--listen", "127.0.0.1:1", "--to", "https://127.0.0.1:1"], 2),
        (["--listen", "192.0.2.1:1", "--to", "127.0.0.1:1"], 1),
        (["--listen", "127.0.0.1:1", "--routes", "missing"], 1),
    ],
)
def test_a_proxy_that_cannot_be(tmp_path: Path, words: Sequence[str], status: int) -> None:
    ended = bascule("proxy", *words, cwd=tmp_path)
    assert ended.returncode == status, ended.stderr
    assert "\n    " in ended.stderr, "a remedy"


def test_modules_in_the_working_directory_are_nobodys_business(tmp_path: Path) -> None:
    for name in ("json", "msgspec", "uvloop", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    port = free_port()
    command = [sys.executable, "-P", "-m", "bascule", "proxy", "--listen", f"127.0.0.1:{port}", "--to", "127.0.0.1:1"]
    with subprocess.Popen([*command, "--state", str(tmp_path / "state")], cwd=tmp_path, env=PATH) as process:
        try:
            until(lambda: (tmp_path / "state/admin.sock").exists(), "the admin socket")
            assert not serves(port), "502: nobody listens on port 1"
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_a_proxy_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its state directory is named after its address: a machine would collect one for every port ever tried."""
    words = ["proxy", "--listen", f"127.0.0.1:{free_port()}", "--to", "127.0.0.1:1", "--workers", "1"]
    command = [sys.executable, "-P", "-m", "bascule", *words]
    place = tmp_path / "run" / "bascule"
    process = subprocess.Popen(command, env={**PATH, "RUNTIME_DIRECTORY": str(place)}, stderr=subprocess.PIPE)
    until(lambda: (place / "admin.sock").exists(), "the admin socket", 20.0)
    process.terminate()
    assert process.wait(20) == 0
    process.communicate()
    assert not place.exists()
    assert place.parent.exists()


DEAR = ("typing", "re", "enum", "dataclasses", "collections", "asyncio", "msgspec", "httptools", "uvloop")
"""Each costs a process 3 to 65 ms of CPU to import."""

KEEPER = "import bascule.__main__, bascule.process.entry"
WORKER = """
import bascule.process.worker
from bascule.engine.engine import Engine
from bascule.shared import limits, statistics
Engine(worker=0, statistics_fd=statistics.create(workers=1, objects=64), limits_fd=limits.create(1 << 20)).close()
"""
MASTER = """
import sys
import bascule.process.master
from bascule.process.configuration import load_first
options = {"command": "proxy", "listen": ["127.0.0.1:1"], "to": [], "routes": sys.argv[1], "access_log": ""}
assert load_first(options).compile(1, lambda kind, name: 0, {}).frontends == 2
"""


@pytest.mark.parametrize("script", [KEEPER, WORKER, MASTER], ids=["keeper", "worker", "master"])
def test_a_start_imports_nothing_dear(tmp_path: Path, script: str) -> None:
    """docs/performance.md, "Routes and start-up": the promise of 150 ms at 10,000 routes is kept by what is not imported."""
    routes = tmp_path / "routes"
    routes.write_text("/a/ 127.0.0.1:1\n/b/ 127.0.0.1:1\n")
    script += f"\nimport sys\nprint(*[name for name in {DEAR} if name in sys.modules])"
    path = os.pathsep.join([str(ROOT / "src"), *(place for place in sys.path if place.endswith("site-packages"))])
    done = subprocess.run(
        [sys.executable, "-SPc", script, str(routes)],
        env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
