"""The commands that change a running load balancer, against one."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bascule.cli.main import main
from cli.conftest import LiveBalancer
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import serves

TREE = """
[listeners.web]
address = "127.0.0.1:{port}"
[backends.app.servers.a1]
url = "http://{origin}"
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(live: LiveBalancer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command against an empty store; gives exit status, standard output, standard error."""

    def runner(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        state = [] if "--admin" in words else ["--state", str(live.state)]
        status = main([*words, *state])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    clean = live.directory / "empty.json"
    clean.write_text('{"settings": {"workers": 1}}')
    runner("unfreeze")
    runner("apply", "-f", str(clean), "--prune")  # a gate may hold it: everything goes at once
    adopted = runner("adopt")
    assert adopted[0] == 0, adopted[2]
    assert tree(runner) == {"settings": {"workers": 1}}
    return runner


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def file(tmp_path: Path, port: int) -> str:
    path = tmp_path / "tree.toml"
    path.write_text(TREE.format(port=port, origin="127.0.0.1:1"))
    return str(path)


def tree(run: Run) -> Any:
    return json.loads(run("get")[1])


def revision(run: Run) -> int:
    number: int = json.loads(run("get", "--json")[1])["revision"]
    return number


def test_what_apply_says_is_in_force_when_it_ends(run: Run, tmp_path: Path, port: int) -> None:
    with ScriptedOrigin() as origin:
        path = tmp_path / "tree.toml"
        path.write_text(TREE.format(port=port, origin=origin.address))
        status, out, err = run("apply", "-f", str(path), "-m", "opening")
        assert (status, err) == (0, "")
        assert out.splitlines()[:3] == ["+ listeners/web", "+ backends/app", "+ frontends/app"]
        assert "is in force in every worker" in out
        assert serves(port)
        assert "nothing differs" in run("apply", "-f", str(path))[1]
        assert run("rm", "frontends/app")[0] == 0
        assert not serves(port)
        record = json.loads(run("history", "--json")[1])["items"][1]
        assert record["message"] == "opening"


def test_apply_shows_all_errors_with_their_lines(run: Run, file: str) -> None:
    Path(file).write_text(Path(file).read_text().replace("PathPrefix", "PathPrefx").replace("url", "ur"))
    before = tree(run)
    status, out, err = run("apply", "-f", file)
    assert status == 1
    assert f"{file}:5: backends/app/servers/a1/ur: unknown field 'ur'\n    did you mean \"url\"?" in err
    assert f"{file}:7: frontends/app/route: unknown matcher 'PathPrefx'" in err
    assert "nothing was changed" in err
    assert tree(run) == before
    status, out, _ = run("apply", "-f", file, "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)
    assert len(json.loads(out)["problems"]) >= 3


def test_apply_reads_folders_and_standard_input(run: Run, tmp_path: Path, file: str, live: LiveBalancer) -> None:
    folder = tmp_path / "objects"
    (folder / "more").mkdir(parents=True)
    (folder / "a.toml").write_text(
        '[backends.app]\nconnect_timeout = "1s"\n[backends.app.servers.a1]\nurl = "http://h:1"'
    )
    (folder / "more" / "b.json").write_text(
        '{"backends": {"app": {"servers": {"a2": {"url": "http://h:2"}}}, "b": {}}}'
    )
    (folder / "notes.txt").write_text("not read")
    assert run("apply", "-f", str(folder))[0] == 0
    assert set(tree(run)["backends"]["app"]["servers"]) == {"a1", "a2"}
    (folder / "c.toml").write_text("[backends.app]\nconnect_timeout = '2s'")
    status, _, err = run("apply", "-f", str(folder))
    assert status == 1
    assert "backends.app is in another file too" in err
    command = [sys.executable, "-m", "bascule", "apply", "-f", "-", "--state", str(live.state)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, input='{"backends": {"stdin": {}}}', capture_output=True, text=True, env=environment,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stdin" in tree(run)["backends"]


def test_prune_dry_run_and_diff(run: Run, file: str) -> None:
    run("set", "backends/old")
    run("apply", "-f", file)
    run("set", "backends/old", "connect_timeout=1s")
    before = revision(run)
    status, out, _ = run("diff", file)
    assert (status, out) == (0, "- backends/old\n")
    nothing = Path(file).with_name("nothing.toml")
    nothing.write_text("")
    status, _, err = run("apply", "-f", str(nothing), "--prune")
    assert (status, "remove everything" in err) == (1, True), err
    status, out, _ = run("apply", "-f", file, "--prune", "--dry-run")
    assert (status, out) == (0, "- backends/old\nnothing was changed (dry run)\n")
    assert revision(run) == before
    assert run("apply", "-f", file, "--prune")[0] == 0
    assert run("diff", file) == (0, "", "no difference\n")


def test_set_knows_the_types_of_fields(run: Run) -> None:
    assert run("set", "backends/app", "connect_timeout=1s", 'health_check={"path": "/well"}')[0] == 0
    assert run("set", "backends/app/servers/a1", "url=http://127.0.0.1:1", "version=2", "weight=3")[0] == 0
    limit = ["type=rate_limit", "requests=100", "period=1s", "key=client.ip"]
    assert run("set", "frontends/app/middlewares/polite", *limit)[0] == 0
    assert run("set", "listeners/web", "address=127.0.0.1:0", 'trusted_proxies=["10.0.0.0/8"]', "max_uri_bytes=4096")[
        0
    ] in (0, 1)
    stored = tree(run)
    assert stored["backends"]["app"]["servers"]["a1"] == {"url": "http://127.0.0.1:1", "version": "2", "weight": 3}
    assert stored["backends"]["app"]["health_check"] == {"path": "/well"}
    assert stored["frontends"]["app"]["middlewares"]["polite"]["requests"] == 100
    status, out, _ = run("set", "backends/app/servers/a1", "weight=", "--json")
    assert json.loads(out)["changes"][0]["fields"] == [{"field": "weight", "old": 3, "new": 1}]
    status, _, err = run("set", "backends/app/servers/a1", "weight=heavy")
    assert status == 1
    assert "weight" in err


def test_set_whole_objects_and_on_condition(run: Run, tmp_path: Path) -> None:
    value = tmp_path / "value.json"
    value.write_text('{"url": "http://127.0.0.1:9"}')
    key = "backends/app/servers/a1"
    assert run("set", key, "--file", str(value), "--if-revision", "0")[0] == 0
    assert run("set", key, "--file", str(value), "--if-revision", "0")[0] == 1
    item = json.loads(run("get", key, "--json")[1])
    assert run("set", key, "weight=2", "--if-revision", str(item["modified"]))[0] == 0
    status, _, err = run("set", key, "weight=3", "--if-revision", str(item["modified"]))
    assert status == 1
    assert "changed by somebody else" in err
    assert run("set", key, "--file", str(value), "--ttl", "60s")[0] == 0
    assert json.loads(run("get", key, "--json")[1])["lease"]
    assert run("rm", key)[0] == 0


def test_get_lists_and_misses(run: Run, file: str) -> None:
    run("apply", "-f", file)
    _status, out, _ = run("get", "backends/app/servers")
    assert out.splitlines()[1].split()[:2] == ["a1", "in_force"]
    assert json.loads(run("get", "frontends", "--json")[1])["items"][0]["key"] == "frontends/app"
    assert tomllib.loads(run("get", "--toml")[1]) == tree(run)
    assert run("get", "backends/ap")[0] == 1
    assert 'did you mean "backends/app"' in run("get", "backends/ap")[2]
    assert 'did you mean "frontends"' in run("get", "frontend")[2]
    then = revision(run)
    run("set", "backends/app/servers/a1", "weight=9")
    assert "weight" not in run("get", "backends/app/servers/a1", "--revision", str(then))[1]


def test_objects_that_wait_are_shown(run: Run) -> None:
    assert "everything is in force" in run("objects")[2]
    assert run("set", "frontends/early", "route=PathPrefix(`/`)", "backend=later")[0] == 0
    _, out, _ = run("objects")
    assert out.startswith("frontends/early: waiting\n")
    assert "1 waiting" in run("status")[1]
    assert json.loads(run("objects", "--state-is", "held", "--json")[1])["items"] == []


def test_history_and_rollback(run: Run, file: str) -> None:
    run("apply", "-f", file)
    then, before = revision(run), tree(run)
    run("set", "backends/app/servers/a1", "weight=9", "-m", "more of it")
    _status, out, _ = run("history", "--limit", "1")
    assert "more of it" in out
    assert "weight: 1 -> 9" in out
    assert json.loads(run("history", str(revision(run)), "--json")[1])["alterations"]
    assert run("rollback", str(then), "--dry-run")[0] == 0
    assert tree(run) != before
    assert run("rollback", str(then), "backends/app")[0] == 0
    assert tree(run) == before
    assert run("rollback", "99999999")[0] == 1


def test_drain_and_undrain(run: Run, file: str) -> None:
    run("apply", "-f", file)
    status, out, err = run("drain", "app/a1", "--until-idle", "--timeout", "30s")
    assert (status, err) == (0, "")
    assert out.endswith("nothing is in flight there\n")
    assert tree(run)["backends"]["app"]["servers"]["a1"]["state"] == "draining"
    assert run("undrain", "backends/app/servers/a1")[0] == 0
    assert run("drain", "app/none")[0] == 1
    assert run("drain", "app")[0] == 1


def test_freeze_keeps_changes_out(run: Run, file: str) -> None:
    run("apply", "-f", file)
    assert run("freeze", "-m", "night")[0] == 0
    status, _out, err = run("set", "backends/app", "connect_timeout=1s", "--timeout", "300ms")
    assert status == 1
    assert "night" in err
    assert run("set", "backends/app", "connect_timeout=2s", "--no-wait")[0] == 0
    assert "night" in run("status")[1]
    assert run("unfreeze")[0] == 0
    told = run("history")[1]
    assert "freeze  reason=night" in told
    assert told.index("unfreeze") < told.index("freeze  reason=night"), "newest first"
    assert run("adopt")[0] == 0


def test_watch_shows_what_was_missed(run: Run, file: str) -> None:
    before = revision(run)
    run("apply", "-f", file)
    run("set", "backends/app/servers/a1", "weight=9")
    _status, out, _ = run("watch", "--since", str(before), "--count", "2", "--json", "--type", "change")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["revision"] for event in events] == [before + 1, before + 2]
    assert "weight: 1 -> 9" in run("watch", "--since", str(before + 1), "--count", "1")[1]


def test_tokens_open_the_api_on_tcp(run: Run, live: LiveBalancer, tmp_path: Path, monkeypatch: Any) -> None:
    status, secret, err = run("token", "add", "deploy", "--role", "viewer", "--ttl", "1h")
    assert status == 0
    assert "only time" in err
    file = tmp_path / "token"
    file.write_text(secret)
    remote = ["--admin", f"127.0.0.1:{live.admin_port}", "--token-file", str(file)]
    until(lambda: run("get", *remote)[0] == 0, "the API answers on TCP", 20)
    status, _, err = run("set", "backends/x", "connect_timeout=1s", *remote)
    assert status == 1
    assert "needs the role author" in err
    assert "deploy" in run("token", "list")[1]
    assert secret.strip() not in run("token", "list", "--json")[1] + live.log()
    assert run("token", "rm", "deploy")[0] == 0
    assert run("get", *remote)[0] == 1
    monkeypatch.setenv("BASCULE_TOKEN", "nonsense")
    assert run("get", *remote[:2])[0] == 1
    assert run("get", "--admin", "ftp://x")[0] == 1


def test_top(run: Run, file: str) -> None:
    run("apply", "-f", file)
    status, out, _ = run("top", "--count", "1", "--interval", "0.2")
    assert status == 0
    assert "app/a1" in out
    assert json.loads(run("top", "--count", "1", "--interval", "0.2", "--json")[1])["servers"][0]["id"] == "app/a1"


def test_keys_are_completed(live: LiveBalancer, run: Run, file: str) -> None:
    import click

    from bascule.cli.objects import complete_key

    run("apply", "-f", file)
    context = click.Context(click.Command("get"))
    context.params = {"state": str(live.state)}
    argument = click.Argument(["key"])
    assert complete_key(context, argument, "fr") == ["frontends/"]
    assert complete_key(context, argument, "backends/a") == ["backends/app"]
    assert complete_key(context, argument, "backends/app/servers/") == ["backends/app/servers/a1"]
    context.params = {"state": "/nonexistent"}
    assert complete_key(context, argument, "backends/a") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_BASCULE_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["set", "backends/a"],
        ["set", "backends/a", "x"],
        ["set", "backends/a", "x=1", "--file", "f"],
        ["set", "backends/a", "x=1", "--timeout", "long"],
        ["apply"],
        ["rm"],
        ["rollback", "x"],
        ["token", "add", "x"],
        ["diff", "a", "b", "c"],
        ["completion", "csh"],
        ["watch", "--type", "nothing"],
    ],
)
def test_misuse_is_2(words: list[str], run: Run) -> None:
    assert run(*words)[0] == 2
