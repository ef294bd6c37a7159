"""What each stage of a request costs, on the `real` request of bench/requests.py. Each round is a compiled loop without the GIL;
the figure to read is time / calls, in ns. No sockets here; see test_exchange.py for the whole way.
"""

import os
import time
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bascule.bench.stages import Stages
from bascule.change.compile import compile_snapshot
from bascule.routing.path import canonical
from bascule.shared import limits, statistics
from bascule.shared.statistics_directory import Directory
from bascule.store.file import parse
from bench.requests import ANSWER_HEAD, REQUEST

CALLS = 20_000

CONFIG = """
[listeners.web]
address = "127.0.0.1:1"
[frontends.app]
route = "PathPrefix(`/real`)"
backend = "app"
[frontends.other]
route = "Host(`example.com`) && PathPrefix(`/`)"
backend = "app"
"""

LIMIT = """
[frontends.app.middlewares.each]
type = "rate_limit"
requests = 1000000
period = "1s"
burst = 1000000
key = "client.ip"
"""


@pytest.fixture(autouse=True)
def cpu_time(benchmark: BenchmarkFixture) -> None:
    """Other processes of the machine are no cost of ours."""
    benchmark._timer = time.thread_time


def servers(count: int) -> str:
    return "".join(f'[backends.app.servers.s{i}]\nurl = "http://127.0.0.1:{9000 + i}"\n' for i in range(count))


def stages(config: str, statistics_fd: int, limits_fd: int, request: bytes = REQUEST) -> Stages:
    directory = Directory(statistics_fd)
    tree = parse(config.encode(), "bench.toml").tree
    image = compile_snapshot(tree, revision=1, slot=directory.slot, addresses={}).image
    return Stages(request=request, response=ANSWER_HEAD, image=image, statistics_fd=statistics_fd, limits_fd=limits_fd)


@pytest.fixture
def make() -> Iterator[Callable[..., Stages]]:
    """Stages of a configuration (and of a request, if it is not the usual one), over regions of their own."""
    descriptors = statistics.create(workers=1, objects=256), limits.create()
    yield lambda config, request=REQUEST: stages(config, *descriptors, request)
    for descriptor in descriptors:
        os.close(descriptor)


def run(benchmark: BenchmarkFixture, step: Callable[..., object], *more: int) -> None:
    benchmark.extra_info["calls"] = CALLS
    assert benchmark.pedantic(step, args=(CALLS, *more), rounds=30, warmup_rounds=2) in (None, *range(1, CALLS + 1))


@pytest.mark.parametrize("prefix", [b"", b"\r\n"], ids=["scanner", "llhttp"])
def test_parse(benchmark: BenchmarkFixture, make: Callable[..., Stages], prefix: bytes) -> None:
    """Head index, framing, Host, canonical path; the head read by the scanner, and, because of an empty line before it, by llhttp."""
    run(benchmark, make(CONFIG + servers(1), prefix + REQUEST).parse)


@pytest.mark.parametrize("path", [b"/real/a/b", b"/real/./a//%7Esmith/../b"])
def test_canonical(benchmark: BenchmarkFixture, path: bytes) -> None:
    """Through the Python face, which is most of the time of the first."""

    def loop() -> int:
        for _ in range(1000):
            canonical(path)
        return 1

    benchmark.extra_info["calls"] = 1000
    assert benchmark(loop)


def test_route(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """Header slices, match among two routes, pin; large tables: test_routing.py."""
    run(benchmark, make(CONFIG + servers(1)).route)


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_limit(benchmark: BenchmarkFixture, make: Callable[..., Stages], on: bool) -> None:
    """No limit, and one by client address that admits; more keys and periods: test_limits.py."""
    run(benchmark, make(CONFIG + servers(1) + (LIMIT if on else "")).limit)


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_balance(benchmark: BenchmarkFixture, make: Callable[..., Stages], count: int) -> None:
    """Smooth weighted round robin is linear in the servers of a backend."""
    run(benchmark, make(CONFIG + servers(count)).balance)


def test_compose(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """The request head for the server, forwarded headers and request id in it."""
    run(benchmark, make(CONFIG + servers(1)).compose)


def test_respond(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """The response head: scanned, indexed, its framing decided, the client's head composed."""
    run(benchmark, make(CONFIG + servers(1)).respond)


def test_account(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """Counters and histograms of listener, frontend, backend, server."""
    run(benchmark, make(CONFIG + servers(1)).account)


def test_timer_rearm(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """An idle timeout pushed into the future, as every exchange does: one store."""
    run(benchmark, make(CONFIG + servers(1)).rearm, 75_000)


def test_timer_hang_and_expire(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """Spread over ten seconds; from hanging to expiry."""
    run(benchmark, make(CONFIG + servers(1)).expire, 10_000)


def test_slab(benchmark: BenchmarkFixture, make: Callable[..., Stages]) -> None:
    """One object taken and put back."""
    run(benchmark, make(CONFIG + servers(1)).slab)
