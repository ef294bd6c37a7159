import msgspec
from hypothesis import given

from bascule.change.diff import diff
from bascule.change.kept import KeptTree
from bascule.model.tree import (
    Backend,
    ConcurrencyLimit,
    Frontend,
    Listener,
    RateLimit,
    Server,
    Settings,
    Tree,
    tree_from_json,
)

from .trees import patient, trees

OLD = Tree(
    listeners={"web": Listener(address="127.0.0.1:80"), "old": Listener(address="127.0.0.1:81")},
    backends={"app": Backend(servers={"a1": Server(url="http://h:1"), "a2": Server(url="http://h:2")})},
    frontends={"f": Frontend(route="x", backend="app", middlewares={"m": RateLimit(requests=1, period="1s")})},
)
NEW = Tree(
    listeners={"web": Listener(address="127.0.0.1:80", header_timeout="5s"), "new": Listener(address="127.0.0.1:82")},
    backends={"app": Backend(servers={"a1": Server(url="http://h:1", weight=3), "a3": Server(url="http://h:3")})},
    frontends={"f": Frontend(route="y", backend="app", middlewares={"m": ConcurrencyLimit(max=1)})},
    settings=Settings(workers=3),
)


def test_each_difference_once() -> None:
    assert [change.render() for change in diff(OLD, NEW)] == [
        "~ settings\n    workers: 0 -> 3",
        "+ listeners.new",
        "- listeners.old",
        '~ listeners.web\n    header_timeout: "10s" -> "5s"',
        "~ backends.app.servers.a1\n    weight: 1 -> 3",
        "- backends.app.servers.a2",
        "+ backends.app.servers.a3",
        '~ frontends.f\n    route: "x" -> "y"',
        "- frontends.f.middlewares.m",
        "+ frontends.f.middlewares.m",
    ]


@patient
@given(trees())
def test_a_tree_does_not_differ_from_itself_however_written(tree: Tree) -> None:
    full = msgspec.json.encode(msgspec.to_builtins(tree))
    assert diff(tree, tree_from_json(full)) == []
    assert diff(tree, KeptTree(tree).tree()) == []


@patient
@given(trees(), trees())
def test_no_difference_means_equal(old: Tree, new: Tree) -> None:
    assert (diff(old, new) == []) == (old == new)
    added = {change.path for change in diff(old, new) if change.action == "added"}
    removed = {change.path for change in diff(new, old) if change.action == "removed"}
    assert added == removed


def test_keeping_is_small() -> None:
    count = 2000
    tree = Tree(
        backends={f"svc-{i}": Backend(servers={"s": Server(url=f"http://10.0.0.1:{i + 1}")}) for i in range(count)},
        frontends={f"svc-{i}": Frontend(route=f"PathPrefix(`/svc-{i}/`)", backend=f"svc-{i}") for i in range(count)},
    )
    assert KeptTree(tree).size_bytes / count < 40
