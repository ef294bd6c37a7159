import tomllib

import msgspec
import pytest
from hypothesis import given

from bascule.change.decode import decode
from bascule.change.validate import validate
from bascule.model.tree import Tree, tree_from_json, tree_to_builtins, tree_to_json

from .trees import patient, trees


@patient
@given(trees())
def test_what_is_encoded_decodes_to_an_equal_tree(tree: Tree) -> None:
    assert tree_from_json(tree_to_json(tree)) == tree
    decoded = decode(msgspec.json.decode(tree_to_json(tree)))
    assert decoded.tree == tree
    assert decoded.problems == []
    assert decode(tree_to_builtins(tree)).tree == tree


@patient
@given(trees())
def test_sound_trees_pass_validation(tree: Tree) -> None:
    assert [problem for problem in validate(tree) if not problem.warning] == []


@pytest.mark.parametrize(
    ("text", "path", "message", "remedy"),
    [
        ("lisstener = 1", "lisstener", "unknown field 'lisstener'", 'did you mean "listeners"?'),
        ("backends = 3", "backends", "expected a table of backends by id, got a number", "<id>"),
        ("[backends]\na = 3", "backends.a", "expected a table of fields, got a number", "table of fields"),
        ("[listeners.w]", "listeners.w", "the field 'address' is missing", 'address = "0.0.0.0:8080"'),
        ("[backends.a.servers.s]", "backends.a.servers.s", "the field 'url' is missing", "add url"),
        ("[backends.a]\nconnect_timeout = 5", "backends.a.connect_timeout", "expected a duration", '"250ms"'),
        ("[backends.a]\nbalance = 'wr'", "backends.a.balance", 'expected one of "wrr"', 'did you mean "wrr"?'),
        ("[backends.a]\nmax_idle_connections = -1", "backends.a.max_idle_connections", ">= 0, got -1", "docs"),
        (
            "[backends.a]\nmax_idle_connections = '9'",
            "backends.a.max_idle_connections",
            "a whole number, got '9'",
            "docs",
        ),
        ("[frontends.f]\nroute = 'x'", "frontends.f", "the field 'backend' is missing", "add backend"),
        (
            "[frontends.f.middlewares.m]\nmax = 1",
            "frontends.f.middlewares.m",
            "the field 'type' is missing",
            "rate_limit",
        ),
        (
            "[frontends.f.middlewares.m]\ntype = 'rate_limits'",
            "frontends.f.middlewares.m.type",
            "unknown middleware 'rate_limits'",
            'did you mean "rate_limit"?',
        ),
        (
            "[frontends.f.middlewares.m]\ntype = 'rate_limit'\nlimits = [{requests = 'x', period = '1s'}]",
            "frontends.f.middlewares.m.limits.0.requests",
            "expected a whole number, got 'x'",
            "docs",
        ),
        ("[settings]\nworker = 2", "settings.worker", "unknown field", 'did you mean "workers"?'),
        ("[settings]\nlimits_memory = 'much'", "settings.limits_memory", "expected a size", '"16KiB"'),
        ("[store]\ntype = 'zookeeper'", "store.type", 'expected one of "file"', "embedded"),
        ("[store]\nwatch = 1", "store.watch", "expected true or false, got 1", "docs"),
    ],
)
def test_one_problem(text: str, path: str, message: str, remedy: str) -> None:
    found = [problem for problem in decode(tomllib.loads(text)).problems if ".".join(problem.path) == path]
    assert len(found) == 1
    assert message in found[0].message
    assert remedy in found[0].remedy


def test_all_problems_at_once_and_nothing_wrong_is_kept() -> None:
    raw = {
        "listeners": {"good": {"address": "127.0.0.1:1"}, "bad": {}},
        "backends": {"a": {"servers": {"s": {"url": "http://h:1"}, "t": {"weight": 3}}}, "b": []},
        "frontends": {"f": {"route": 1, "backend": "b"}},
        "settings": {"workers": 3, "drain_timeout": 1},
    }
    decoded = decode(raw)
    assert {".".join(problem.path) for problem in decoded.problems} == {
        "listeners.bad",
        "backends.a.servers.t",
        "backends.b",
        "frontends.f.route",
        "settings.drain_timeout",
    }
    assert list(decoded.tree.listeners) == ["good"]
    assert list(decoded.tree.backends["a"].servers) == ["s"]
    assert decoded.tree.settings.workers == 3
    assert set(decoded.backends) == {"a", "b"}


@pytest.mark.parametrize("raw", [None, 3, [], "x", {"listeners": None}, {"backends": {"a": {"servers": 1}}}, {1: 2}])
def test_no_input_breaks_it(raw: object) -> None:
    assert decode(raw).problems
