import json
from pathlib import Path

import pytest

from bascule.cli.main import COMMANDS, main

SOUND = """
[listeners.web]
address = "127.0.0.1:8080"
[backends.app.servers.a1]
url = "http://127.0.0.1:9001"
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""


@pytest.fixture
def sound(tmp_path: Path) -> str:
    file = tmp_path / "sound.toml"
    file.write_text(SOUND)
    return str(file)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "broken.toml"
    file.write_text(SOUND.replace("PathPrefix", "PathPrefx").replace('address = "127', 'adress = "127'))
    return str(file)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"bascule {command}" in text.split("\n")[0]
    assert text.count("bascule ") >= 2, "an example"


def test_help_of_the_group_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bascule, version ")


@pytest.mark.parametrize(
    "words", [["chek"], ["check"], ["check", "--bogus", "x"], ["check", "/nonexistent.toml"], ["diff", "x"], []]
)
def test_misuse_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err


def test_check_of_a_sound_file(sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", sound]) == 0
    assert "in order. 1 listener, 1 frontend, 1 backend, 1 server" in capsys.readouterr().out
    assert main(["check", "--json", sound]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["problems"], report["frontends"]) == (True, [], 1)


def test_check_tells_errors_of_the_file_and_of_the_routes_together(
    broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", broken]) == 1
    text = capsys.readouterr().err
    assert f"{broken}:3: listeners.web.adress: unknown field 'adress'\n    did you mean \"address\"?" in text
    assert f"{broken}:7: frontends.app.route: unknown matcher 'PathPrefx'" in text
    assert main(["check", "--json", broken]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(problem["line"], problem["severity"]) for problem in problems] == [
        (2, "error"),
        (3, "error"),
        (7, "error"),
    ]
    assert all(problem["remedy"] for problem in problems)


def test_check_of_equal_routes_warns_and_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "equal.toml"
    file.write_text(SOUND + "[frontends.zwei]\nroute = 'PathPrefix(`/`)'\nbackend = 'app'\n")
    assert main(["check", str(file)]) == 0
    assert f"{file}:10: frontends.zwei.route: warning: the same route as frontend 'app'" in capsys.readouterr().err


def test_check_warns_of_a_key_that_stands_twice_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "twice.json"
    file.write_text('{"backends": {"a": {},\n"a": {}}}')
    assert main(["check", str(file)]) == 0
    assert f"{file}:2: backends.a: warning: this key stands twice" in capsys.readouterr().err


def test_diff(sound: str, tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.toml"
    new.write_text(SOUND.replace("9001", "9002") + "[backends.more]\n")
    assert main(["diff", sound, str(new)]) == 0
    assert capsys.readouterr().out == (
        '~ backends/app/servers/a1\n    url: "http://127.0.0.1:9001" -> "http://127.0.0.1:9002"\n+ backends/more\n'
    )
    assert main(["diff", "--json", sound, str(new)]) == 0
    assert [change["action"] for change in json.loads(capsys.readouterr().out)] == ["changed", "added"]
    assert main(["diff", sound, sound]) == 0
    assert capsys.readouterr().err == "no difference\n"
    assert main(["diff", sound, broken]) == 1
    assert "bascule check" in capsys.readouterr().err
