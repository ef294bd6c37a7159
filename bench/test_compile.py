"""Cost of one configuration change: decode, validate and compile a whole tree; compile and adopt one edit. CPU time; JSON, one
server a backend a frontend.

`test_one_change` is what the master's compiler takes for one edit, `test_adopt_one_change` what each worker takes for its image;
their `extra_info` has the size of what is sent. BASCULE_BENCH_LARGE=1 adds a million frontends (2 GiB of memory).
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count as counting

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bascule.change.compile import SnapshotCompiler, compile_snapshot
from bascule.change.compiled import CompiledSnapshot
from bascule.change.diff import diff
from bascule.change.edits import Edit
from bascule.change.kept import KeptTree
from bascule.change.validate import validate
from bascule.engine.engine import Engine
from bascule.model.tree import Frontend, Server, Tree, tree_from_json
from bascule.shared import limits, statistics
from bascule.store.proxy import tree_from_proxy_arguments

SIZES = (10_000, 100_000)
TABLES = (10, 1_000, 10_000, 100_000, *((1_000_000,) if os.environ.get("BASCULE_BENCH_LARGE") else ()))


def configuration(count: int) -> bytes:
    """JSON of `count` frontends, each with a backend of one server."""
    names = [f"svc-{index:06d}" for index in range(count)]
    tree = {
        "listeners": {"web": {"address": "0.0.0.0:8080"}},
        "backends": {
            name: {"servers": {"s1": {"url": f"http://10.{index >> 16}.{index >> 8 & 255}.{index & 255}:8080"}}}
            for index, name in enumerate(names)
        },
        "frontends": {name: {"route": f"PathPrefix(`/{name}/`)", "backend": name} for name in names},
    }
    return msgspec.json.encode(tree)


def compile_it(tree: Tree) -> bytes:
    return compile_snapshot(tree, revision=1, slot=lambda kind, name: 0, addresses={}).image


def run(benchmark: BenchmarkFixture, step: Callable[[], object], count: int) -> None:
    benchmark.extra_info["objects"] = 3 * count
    benchmark.pedantic(step, rounds=5 if count <= 10_000 else 2, warmup_rounds=1)


@pytest.fixture(autouse=True)
def cpu_time(benchmark: BenchmarkFixture) -> None:
    """Other processes of the machine are no cost of ours."""
    benchmark._timer = time.process_time


@pytest.mark.parametrize("count", SIZES)
def test_decode(benchmark: BenchmarkFixture, count: int) -> None:
    run(benchmark, partial(tree_from_json, configuration(count)), count)


@pytest.mark.parametrize("count", SIZES)
def test_validate(benchmark: BenchmarkFixture, count: int) -> None:
    run(benchmark, partial(validate, tree_from_json(configuration(count))), count)


@pytest.mark.parametrize("count", SIZES)
def test_compile(benchmark: BenchmarkFixture, count: int) -> None:
    run(benchmark, partial(compile_it, tree_from_json(configuration(count))), count)


@pytest.mark.parametrize("count", SIZES)
def test_keep(benchmark: BenchmarkFixture, count: int) -> None:
    run(benchmark, partial(KeptTree, tree_from_json(configuration(count))), count)


@pytest.mark.parametrize("count", SIZES)
def test_diff_of_equal_trees(benchmark: BenchmarkFixture, count: int) -> None:
    text = configuration(count)
    run(benchmark, partial(diff, tree_from_json(text), tree_from_json(text)), count)


@pytest.mark.parametrize("count", SIZES)
def test_routes_file(benchmark: BenchmarkFixture, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("routes") / "routes"
    file.write_text("".join(f"/svc-{index:06d}/ 127.0.0.1:9001\n" for index in range(count)))
    run(benchmark, partial(tree_from_proxy_arguments, [":80"], [], routes=str(file)), count)


# ---- one change in a table


def server_changed(number: int, count: int) -> list[Edit]:
    """Another address, each time of another backend."""
    return [Edit("server", "s1", Server(url=f"http://10.9.9.9:{1 + number % 65_535}"), f"svc-{number * 7 % count:06d}")]


def server_added(number: int, count: int) -> list[Edit]:
    return [Edit("server", f"n{number}", Server(url="http://10.9.9.9:1"), f"svc-{number * 7 % count:06d}")]


def server_removed(number: int, count: int) -> list[Edit]:
    return [Edit("server", "s1", None, f"svc-{number * 7 % count:06d}")]


def route_added(number: int, count: int) -> list[Edit]:
    return [Edit("frontend", f"new-{number}", Frontend(route=f"PathPrefix(`/new-{number}/`)", backend="svc-000001"))]


def route_changed(number: int, count: int) -> list[Edit]:
    name = f"svc-{number * 7 % count:06d}"
    return [Edit("frontend", name, Frontend(route=f"PathPrefix(`/other-{number}/`)", backend=name))]


def route_removed(number: int, count: int) -> list[Edit]:
    return [Edit("frontend", f"svc-{number % count:06d}", None)]


CHANGES = (server_changed, server_added, server_removed, route_added, route_changed, route_removed)


class Node:
    """A compiler with a table, and the engine of one worker."""

    def __init__(self, count: int) -> None:
        numbers: Iterator[int] = counting()
        self.count = count
        self.compiler = SnapshotCompiler(lambda kind, name: next(numbers))
        self.engine = Engine(
            worker=0, statistics_fd=statistics.create(objects=3 * count + 100_000), limits_fd=limits.create(1 << 20)
        )
        self.compiled = self.compiler.full(tree_from_json(configuration(count)), revision=1, addresses={})
        self.adopt()
        self.numbers = counting()
        self.edit(())

    def edit(self, edits: list[Edit] | tuple[()]) -> CompiledSnapshot:
        self.compiled = self.compiler.apply(edits, revision=self.compiled.revision + 1, fold=False)
        return self.compiled

    def adopt(self) -> None:
        assert self.compiled.records is not None
        base = self.compiled.base.fd if self.compiled.base is not None else -1
        self.engine.adopt(self.compiled.records.fd, base)


@lru_cache(maxsize=1)
def node(count: int) -> Node:
    return Node(count)


@pytest.mark.parametrize("count", TABLES)
@pytest.mark.parametrize("change", CHANGES)
def test_one_change(benchmark: BenchmarkFixture, change: Callable[[int, int], list[Edit]], count: int) -> None:
    on = node(count)
    rounds = 30 if count <= 10_000 else 10
    benchmark.pedantic(lambda: on.edit(change(next(on.numbers), count)), rounds=rounds, warmup_rounds=2)
    assert on.compiled.records is not None
    benchmark.extra_info["records_bytes"] = on.compiled.records.size


@pytest.mark.parametrize("count", TABLES)
def test_adopt_one_change(benchmark: BenchmarkFixture, count: int) -> None:
    on = node(count)
    benchmark.pedantic(
        on.adopt, setup=lambda: on.edit(route_added(next(on.numbers), count)) and None, rounds=20, warmup_rounds=2
    )


@pytest.mark.parametrize("count", TABLES)
def test_one_change_beside_a_full_delta(benchmark: BenchmarkFixture, count: int) -> None:
    """As many changed routes aside as there may be before they are folded in: the dearest moment of a change."""
    on = Node(count)
    most = max(256, count // 16)
    on.edit([edit for number in range(most) for edit in route_added(number, count)])
    benchmark.pedantic(lambda: on.edit(route_added(most + next(on.numbers), count)), rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("count", TABLES)
def test_fold(benchmark: BenchmarkFixture, count: int) -> None:
    """What ends a series of changes; `adopt_us` is a worker's cost of the new base."""
    on = node(count)

    def fold() -> None:
        on.compiled = on.compiler.fold(revision=on.compiled.revision + 1)

    benchmark.pedantic(fold, rounds=3, warmup_rounds=1)
    start = time.process_time()
    on.adopt()
    benchmark.extra_info["adopt_us"] = round((time.process_time() - start) * 1e6)
