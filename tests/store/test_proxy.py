import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.change.check import compile_offline
from bascule.change.kept import keep
from bascule.model.problems import ConfigError
from bascule.model.tree import Backend, Frontend, Listener, Server, Settings, Store
from bascule.store.proxy import tree_from_proxy_arguments
from bascule.store.proxy_boot import (
    PlainBackend,
    PlainListener,
    PlainServer,
    PlainSettings,
    PlainStore,
    plain_tree,
    typed_tree,
)
from bascule.store.proxy_names import prefix_id
from bascule.store.routes_file import PlainFrontend, read_plain_routes


def test_addresses_in_their_short_forms() -> None:
    tree = tree_from_proxy_arguments(
        [":8080", "9090", "unix:///run/x.sock"], ["9001", ":9002", "h:3", "http://h:4", "unix:///r/a"]
    )
    assert {listener.address for listener in tree.listeners.values()} == {
        "0.0.0.0:8080",
        "0.0.0.0:9090",
        "unix:///run/x.sock",
    }
    assert [server.url for server in tree.backends["proxy"].servers.values()] == [
        "http://127.0.0.1:9001",
        "http://127.0.0.1:9002",
        "http://h:3",
        "http://h:4",
        "unix:///r/a",
    ]
    assert tree.frontends["proxy"].route == "PathPrefix(`/`)"


def test_wrong_addresses_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        tree_from_proxy_arguments(["localhost:80"], ["h", "h:99999"])
    assert [problem.render().split(": ")[0] for problem in caught.value.problems] == [
        "--listen localhost:80",
        "--to h",
        "--to h:99999",
    ]
    assert all(problem.remedy for problem in caught.value.problems)


def test_a_routes_file(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("# comment\n\n/api/ a:1 b:2\n  /x\tc:3  \n/api/ d:4\n/ e:5\n/a.b c:3\n")
    tree = tree_from_proxy_arguments([":80"], [], routes=str(file))
    assert {name: frontend.route for name, frontend in tree.frontends.items()} == {
        "api.": "PathPrefix(`/api/`)",
        "x": "PathPrefix(`/x`)",
        ".root": "PathPrefix(`/`)",
        prefix_id("/a.b"): "PathPrefix(`/a.b`)",
    }
    assert [server.url for server in tree.backends["api."].servers.values()] == [
        "http://a:1",
        "http://b:2",
        "http://d:4",
    ]
    assert set(tree.frontends) == set(tree.backends)


def test_ids_come_from_prefixes_not_positions(tmp_path: Path) -> None:
    lines = [f"/svc-{index}/ 127.0.0.1:9001" for index in range(100)]
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("\n".join(lines))
    second.write_text("\n".join(["/new/ 127.0.0.1:9001", *reversed(lines)]))
    old = tree_from_proxy_arguments([":80"], [], routes=str(first))
    new = tree_from_proxy_arguments([":80"], [], routes=str(second))
    assert {name: new.frontends[name] for name in old.frontends} == old.frontends
    assert set(new.frontends) - set(old.frontends) == {"new."}


def test_different_prefixes_have_different_ids() -> None:
    prefixes = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a.b",
        "/a/b/",
        "/proxy",
        "/ä",
        "/" + "x" * 200,
        "/" + "x" * 201,
        "//",
        "/%41",
    ]
    assert len({prefix_id(prefix) for prefix in prefixes}) == len(prefixes)


def test_wrong_lines_of_a_routes_file(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("/ok a:1\nnope a:1\n/alone\n/with<x> a:1\n/bad-server a\n")
    with pytest.raises(ConfigError) as caught:
        tree_from_proxy_arguments([":80"], [], routes=str(file))
    lines = {problem.line: problem.message for problem in caught.value.problems}
    assert "does not start with a slash" in lines[2]
    assert "has no server" in lines[3]
    assert "a route cannot hold" in lines[4]
    assert "not the url of a server" in lines[0]
    with pytest.raises(ConfigError, match="cannot be read"):
        tree_from_proxy_arguments([":80"], [], routes=str(tmp_path / "missing"))


def test_the_plain_tree_is_the_same_tree(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("\n/api/ a:1 b:2\n  /x\tc:3  \n/ e:5\n/a.b [::1]:3\n/api// unix:///run/a\n")
    for to in ([], ["9001", "h:3"]):
        typed = tree_from_proxy_arguments([":8080", "unix:///run/x.sock"], to, routes=str(file))
        plain = plain_tree([":8080", "unix:///run/x.sock"], to, str(file))
        assert typed_tree(plain) == typed
        assert compile_offline(plain).image == compile_offline(typed).image


@pytest.mark.parametrize(
    ("plain", "record"),
    [
        (PlainListener, Listener),
        (PlainServer, Server),
        (PlainBackend, Backend),
        (PlainFrontend, Frontend),
        (PlainStore, Store),
        (PlainSettings, Settings),
    ],
)
def test_plain_classes_have_the_defaults_of_the_records(plain: type, record: type) -> None:
    """A field that is added to model.tree belongs into the plain class too: the compiler reads both in the same way."""
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    public = {name for name in dir(plain) if name[0] != "_"}
    own = {name for name in public if inspect.isdatadescriptor(getattr(plain, name))}
    for name, field in fields.items():
        if name not in own:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert getattr(plain, name) == default, name
    assert public == set(fields)


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n/a b:1\n",
        "/a b:1\n/a b:2\n",
        "/a\n",
        "a b:1\n",
        "/a b\n",
        "/a b:1 b:1\n",
        "/" + "x" * 5000 + " b:1\n",
        "/a b:1\r\n",
        "/a b:1 \x0c\n",
        "/\u00e4 b:1\n",
        "/a",
        "/a ",
        "/a b:1 # a comment\n",
    ],
)
def test_what_is_unusual_is_left_to_the_careful_reader(tmp_path: Path, text: str) -> None:
    file = tmp_path / "routes"
    file.write_text(text)
    assert plain_tree([":80"], [], str(file)) is None
    assert plain_tree(["localhost:80"], ["h:1"], None) is None
    assert plain_tree([":80", "0.0.0.0:80"], ["h:1"], None) is None


@given(
    st.lists(
        st.tuples(
            st.text("ab/.-_%~\u00e4", max_size=6).map(lambda text: "/" + text)
            | st.sampled_from(["/proxy", "/a/", "/" + "x" * 96, "/" + "x" * 97, "x", "#", "/<"]),
            st.sampled_from([" ", "\t", "  ", "", "\r", "\x0b"]),
            st.sampled_from(["a:1", "a:1 b:2", "a:1  b:2 ", "9001", "unix:///run/a", "h", ""]),
            st.sampled_from(["\n", "\n\n", " \n", "\r\n", ""]),
        ),
        max_size=5,
    )
)
def test_plain_reading_agrees_with_careful_reading(tmp_path_factory: pytest.TempPathFactory, lines: list[Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "routes-of-any-kind"
    file.write_bytes("".join(map("".join, lines)).encode())
    plain = plain_tree([":80"], [], str(file))
    if plain is not None:
        assert typed_tree(plain) == tree_from_proxy_arguments([":80"], [], routes=str(file))


def test_plain_reading_shares_pools() -> None:
    read = read_plain_routes(b"/a h:1\n/b h:2\n/c h:1", tuple, prefix_id)
    assert read is not None
    backends, frontends = read
    assert backends == {"a": ("h:1",), "b": ("h:2",), "c": ("h:1",)}
    assert backends["a"] is backends["c"]
    assert [frontend.route for frontend in frontends.values()] == [f"PathPrefix(`/{name}`)" for name in "abc"]


def test_a_plain_tree_is_kept_as_its_text(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("".join(f"/svc-{index}/ 127.0.0.1:{9000 + index % 7}\n" for index in range(1000)))
    kept = keep(plain_tree([":8080", "unix:///run/x.sock"], ["9001", "h:3"], str(file)))
    expected = tree_from_proxy_arguments([":8080", "unix:///run/x.sock"], ["9001", "h:3"], routes=str(file))
    file.unlink()
    assert kept.tree() == expected
    assert kept.size_bytes < 6000
