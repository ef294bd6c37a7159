"""Cost of one configuration change in the master: decode, validate, compile. CPU time; JSON, one server a backend a frontend."""

import time
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bascule.change.compile import compile_snapshot
from bascule.change.diff import diff
from bascule.change.kept import KeptTree
from bascule.change.validate import validate
from bascule.model.tree import Tree, tree_from_json
from bascule.store.proxy import tree_from_proxy_arguments

SIZES = (10_000, 100_000)


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
