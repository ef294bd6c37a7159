import asyncio
import json
import os
import tomllib
from pathlib import Path

import pytest

from bascule.store.file import FileWatcher, Unloadable, load

SOUND = """
[listeners.web]
address = "127.0.0.1:8080"

[backends.app.servers.a1]
url = "http://127.0.0.1:9001"

[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""


def problems_of(path: Path) -> list[tuple[int, str, str, str]]:
    with pytest.raises(Unloadable) as caught:
        load(path)
    for problem in caught.value.problems:
        assert problem.file == str(path)
        assert problem.remedy, problem
        assert f"{path}:" in problem.render()
    return [
        (problem.line, ".".join(problem.path), problem.message, problem.remedy) for problem in caught.value.problems
    ]


def write(directory: Path, text: str, name: str = "bascule.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_sound_file(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, SOUND))
    assert loaded.tree.backends["app"].servers["a1"].url == "http://127.0.0.1:9001"
    assert loaded.warnings == ()


def test_toml_and_json_give_equal_trees(tmp_path: Path) -> None:
    as_json = write(tmp_path, json.dumps(tomllib.loads(SOUND)), "b.json")
    nameless = write(tmp_path, as_json.read_text(), "config")
    assert load(as_json).tree == load(nameless).tree == load(write(tmp_path, SOUND)).tree
    assert load(nameless).format == "json"


BROKEN = """# line 1
[listeners.web]
address = ":8080"
trusted_proxies = [
    "10.0.0.1/8",
    "nonsense",
]

[listeners.other]
address = "127.0.0.1:8080"

[listeners.third]
address = "127.0.0.1:8080"
header_timeout = "0s"
max_header_bytes = "64KiB"

[backends.app]
connect_timeout = "8d"
servers.a1 = { url = "127.0.0.1:9001" }
servers.a2 = { url = "http://127.0.0.1:9001/app" }

[backends.app.servers."b d"]
url = "https://127.0.0.1:9001"

[frontends.app]
route = "PathPrefix(`/`)"
backend = "ap"

[frontends.app.middlewares.limit]
type = "rate_limit"
requests = 5

[frontends."api"]
route = ""
backend = "app"

[frontends.api.middlewares.many]
type = "rate_limit"
key = ["client.ip", "request.headers.x"]
limits = [
    { requests = 1, period = "1s" },
    { requests = 2, period = "0s" },
]

[hosts."a.com"]

[settings]
slots = 1
workers = 4
limits_memory = "1KiB"
"""

EXPECTED = [
    (3, "listeners.web.address", "is not an address", '"0.0.0.0:8080"'),
    (4, "listeners.web.trusted_proxies.0", "bits set beyond its prefix", "zeros"),
    (4, "listeners.web.trusted_proxies.1", "is not a network", "ADDRESS/PREFIX"),
    (13, "listeners.third.address", "is the address of listener 'other' too", "another address"),
    (14, "listeners.third.header_timeout", "cannot be zero", "long duration"),
    (15, "listeners.third.max_header_bytes", "outside 1024 to 29696", "at most 29696"),
    (18, "backends.app.connect_timeout", "longer than the longest", "shorter"),
    (19, "backends.app.servers.a1.url", "not the url of a server", '"http://127.0.0.1:9001"'),
    (20, "backends.app.servers.a2.url", "not the url of a server", "no path"),
    (22, "backends.app.servers.b d", "cannot be the id of a server", "A-Z a-z"),
    (23, "backends.app.servers.b d.url", "not the url of a server", "TLS"),
    (27, "frontends.app.backend", "there is no backend 'ap'", 'did you mean "app"?'),
    (29, "frontends.app.middlewares.limit", "belong together", "period"),
    (34, "frontends.api.route", "the route is empty", "PathPrefix"),
    (39, "frontends.api.middlewares.many.key.1", "is not a key", 'did you mean "request.header.<name>"?'),
    (40, "frontends.api.middlewares.many.limits.1.period", "outside 1ms", '"1s"'),
    (45, "hosts.a.com", "TLS hosts are not served", "remove"),
    (48, "settings.slots", "1 slots cannot feed 4 workers", "at least as many"),
    (50, "settings.limits_memory", "outside", "at least"),
]


def test_every_problem_with_its_line_and_remedy(tmp_path: Path) -> None:
    found = problems_of(write(tmp_path, BROKEN))
    assert [(line, path) for line, path, _, _ in found] == [(line, path) for line, path, _, _ in EXPECTED]
    for (_, path, message, remedy), (_, _, part, hint) in zip(found, EXPECTED, strict=True):
        assert part in message, path
        assert hint in remedy, path


def test_json_has_the_same_problems_at_its_own_lines(tmp_path: Path) -> None:
    raw = tomllib.loads(BROKEN)
    text = json.dumps(raw, indent=1)
    found = problems_of(write(tmp_path, text, "b.json"))
    assert sorted(path for _, path, _, _ in found) == sorted(path for _, path, _, _ in EXPECTED)
    lines = text.split("\n")
    for line, path, _, _ in found:
        key = {"0": '"10.0.0.1/8"', "1": '"nonsense"'}.get(path.split(".")[-1]) if "trusted" in path else None
        key = key or ('"request.headers.x"' if path.endswith("key.1") else f'"{path.rsplit(".", 1)[-1]}"')
        key = '"a.com"' if path.startswith("hosts") else key
        assert key in lines[line - 1], path


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("a.toml", b"[a\n", 1, "not TOML"),
        ("a.toml", b"a = 1\nb = \n", 2, "not TOML"),
        ("a.toml", b"a = 1\na = 2\n", 2, "not TOML"),
        ("a.toml", b"# \xff\n", 1, "UTF-8"),
        ("a.json", b'{"listeners":\n {"a" 1}}', 2, "not JSON"),
        ("a.json", b'{"unknown": 1,\n', 2, "not JSON"),
        ("a.json", b"", 1, "not JSON"),
        ("a.json", b'{"a": "\xff"}', 1, "not JSON"),
    ],
)
def test_malformed_text(tmp_path: Path, name: str, text: bytes, line: int, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    ((found_line, _, found, _),) = problems_of(path)
    assert message in found
    assert found_line == line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in problems_of(tmp_path / "missing.toml")[0][2]
    assert "directory" in problems_of(tmp_path)[0][2]


def test_a_key_that_stands_twice_in_json_is_found_when_anything_is_wrong(tmp_path: Path) -> None:
    text = '{"backends": {"a": {},\n "a": {}},\n "frontends": {"f": {"route": "", "backend": "a"}}}'
    found = problems_of(write(tmp_path, text, "b.json"))
    assert (2, "backends.a") in [(line, path) for line, path, _, _ in found]


def test_a_server_given_twice_is_a_warning(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, SOUND + '[backends.app.servers.a2]\nurl = "http://127.0.0.1:9001"\n'))
    assert [(warning.line, warning.warning) for warning in loaded.warnings] == [(12, True)]


def test_the_watcher_sees_content_not_touches(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND)
    watcher = FileWatcher(path, load(path).digest)
    assert watcher.changed() is None
    os.utime(path, ns=(1, 1))
    assert watcher.changed() is None, "touched"
    path.write_text(SOUND + "\n# more\n")
    assert watcher.changed() == (SOUND + "\n# more\n").encode()
    assert watcher.changed() is None
    path.unlink()
    assert watcher.changed() is None, "missing is no change"
    replacement = write(tmp_path, SOUND, "new")
    replacement.rename(path)
    assert watcher.changed() == SOUND.encode()


def test_the_watcher_follows_a_symbolic_link_to_another_target(tmp_path: Path) -> None:
    first, second = write(tmp_path, SOUND, "1"), write(tmp_path, SOUND + "#\n", "2")
    link = tmp_path / "current.toml"
    link.symlink_to(first)
    watcher = FileWatcher(link, load(link).digest)
    swing = tmp_path / "swing"
    swing.symlink_to(second)
    swing.rename(link)
    assert watcher.changed() == second.read_bytes()


def test_the_watcher_in_a_loop(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND)

    async def first_change() -> bytes:
        watcher = FileWatcher(path, load(path).digest, interval_s=0.01)
        changes = watcher.changes()
        path.write_text(SOUND + "# x\n")
        return await asyncio.wait_for(anext(changes), 10)

    assert asyncio.run(first_change()).endswith(b"# x\n")


def test_a_change_between_reading_and_watching_is_noticed(tmp_path: Path) -> None:
    """A start takes a second; a reload reads in a thread. What is written meanwhile must not pass for what was read."""
    path = write(tmp_path, SOUND)
    digest = load(path).digest
    path.write_text(SOUND + "# during the start\n")
    watcher = FileWatcher(path, digest)
    assert watcher.changed() == path.read_bytes()
    digest = load(path).digest
    path.write_text(SOUND + "# during the reload\n")
    watcher.seen(digest)
    assert watcher.changed() == path.read_bytes()
    watcher.seen(load(path).digest)
    assert watcher.changed() is None
