"""The route stage alone: compiling tables of routes and matching random requests against them.

Matching is timed inside one call that matches 20,000 random requests without Python in between (`Matcher.match_many`);
the figure to read is `ns_per_match` in the extra info. Large tables are dominated by cache and TLB misses: about two of
each a match.
"""

import random
from functools import lru_cache
from statistics import median

import pytest

from bascule.change.compile import SnapshotCompiler
from bascule.change.edits import Edit
from bascule.model.tree import Backend, Frontend, Tree
from bascule.routing.compile import RouteCompiler
from bascule.routing.image import wrap_sections
from bascule.routing.match import Matcher
from bascule.routing.path import canonical

REQUESTS = 20_000


def compile_prefixes(count: int) -> dict[int, bytes]:
    """The sections of `count` routes PathPrefix(`/svc-NNNNNN/`)."""
    compiler = RouteCompiler()
    for index in range(count):
        compiler.add(index, f"f{index:07d}", f"PathPrefix(`/svc-{index:06d}/`)")
    return compiler.sections()


@lru_cache(maxsize=1)
def prefixes(count: int) -> tuple[Matcher, int]:
    """A matcher over that table, and the bytes of its sections."""
    sections = compile_prefixes(count)
    return Matcher(wrap_sections(sections, count)), sum(map(len, sections.values()))


def run(benchmark: pytest.FixtureRequest, matcher: Matcher, requests: list[tuple[str, str]], found: int) -> None:
    """Times the requests and notes the time of one."""
    assert matcher.match_many(requests)[1] == found
    seconds: list[float] = []
    # the call converts the requests first: it measures the CPU of the matching itself
    pedantic = benchmark.pedantic  # type: ignore[attr-defined]
    pedantic(lambda: seconds.append(matcher.match_many(requests, 5)[0]), rounds=20, warmup_rounds=2)
    benchmark.extra_info["ns_per_match"] = round(median(seconds) * 1e9, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [10, 1_000, 10_000, 100_000, 1_000_000])
def test_match_literal_prefix(benchmark: pytest.FixtureRequest, count: int) -> None:
    matcher, size = prefixes(count)
    random_ = random.Random(count)
    requests = [("www.example.com", f"/svc-{random_.randrange(count):06d}/users/42") for _ in range(REQUESTS)]
    run(benchmark, matcher, requests, REQUESTS)
    benchmark.extra_info["bytes_per_route"] = round(size / count)  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [10, 100_000])
def test_match_the_same_few_of_many(benchmark: pytest.FixtureRequest, count: int) -> None:
    """Real traffic: ten busy routes, however many others there are."""
    matcher, _ = prefixes(count)
    requests = [("www.example.com", f"/svc-{count // 10 * (i % 10):06d}/users/42") for i in range(REQUESTS)]
    run(benchmark, matcher, requests, REQUESTS)


@pytest.mark.parametrize("changed", [0, 1, 256])
def test_match_beside_changed_routes(benchmark: pytest.FixtureRequest, changed: int) -> None:
    """Ten thousand routes, of which some have been changed since their table was compiled: a second, small table."""
    count = 10_000
    tree = Tree(
        backends={"b": Backend()},
        frontends={f"f{i:06d}": Frontend(route=f"PathPrefix(`/svc-{i:06d}/`)", backend="b") for i in range(count)},
    )
    compiler = SnapshotCompiler(lambda kind, name: 0)
    base = compiler.full(tree, revision=1, addresses={}).base
    edits = [
        Edit("frontend", f"f{i:06d}", Frontend(route=f"PathPrefix(`/svc-{i:06d}/users`)", backend="b"))
        for i in range(0, changed * 7, 7)
    ]
    records = compiler.apply(edits, revision=2).records
    assert base is not None
    assert records is not None
    random_ = random.Random(count)
    requests = [("www.example.com", f"/svc-{random_.randrange(count):06d}/users/42") for _ in range(REQUESTS)]
    run(benchmark, Matcher(records.read(), base.read()), requests, REQUESTS)


def test_match_host_method_and_parameters(benchmark: pytest.FixtureRequest) -> None:
    compiler = RouteCompiler()
    for index in range(10_000):
        compiler.add(
            index,
            f"f{index}",
            f"Host(`h{index}.example.com`) && PathPrefix(`/v2/<tenant>/users/<int:id>`) && Method(`GET`)",
        )
    matcher = Matcher(wrap_sections(compiler.sections(), 10_000))
    requests = [(f"h{i * 7919 % 10_000}.example.com", "/v2/acme/users/42") for i in range(REQUESTS)]
    run(benchmark, matcher, requests, REQUESTS)


def test_match_regexp(benchmark: pytest.FixtureRequest) -> None:
    compiler = RouteCompiler()
    compiler.add(0, "f", r"PathRegexp(`^/api/v[0-9]+/users/[^/]+$`)")
    matcher = Matcher(wrap_sections(compiler.sections(), 1))
    run(benchmark, matcher, [("a.com", "/api/v2/users/acme")] * REQUESTS, REQUESTS)


def test_no_match(benchmark: pytest.FixtureRequest) -> None:
    matcher, _ = prefixes(10_000)
    run(benchmark, matcher, [("a.com", f"/nothing-{i}/x") for i in range(REQUESTS)], 0)


def test_compile_10_000(benchmark: pytest.FixtureRequest) -> None:
    benchmark(compile_prefixes, 10_000)  # type: ignore[operator]


def test_compile_10_000_mixed(benchmark: pytest.FixtureRequest) -> None:
    def compile_mixed() -> None:
        compiler = RouteCompiler()
        for i in range(10_000):
            compiler.add(
                i,
                f"f{i}",
                f"Host(`h{i % 100}.com`) && PathPrefix(`/v{i}/<tenant>`) && Method(`GET`) && Header(`X-A`, `{i % 7}`)",
            )
        compiler.sections()

    benchmark(compile_mixed)  # type: ignore[operator]


def test_open_10_000(benchmark: pytest.FixtureRequest) -> None:
    """What a worker pays to check an image it adopts."""
    benchmark(Matcher, wrap_sections(compile_prefixes(10_000), 10_000))  # type: ignore[operator]


@pytest.mark.parametrize("path", [b"/api/v2/users/42/posts", b"/api/v2/./users//%7Esmith/../42"])
def test_canonical_path(benchmark: pytest.FixtureRequest, path: bytes) -> None:
    benchmark(canonical, path)  # type: ignore[operator]
