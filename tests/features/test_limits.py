"""Rate and concurrency limits end to end: one table for all workers, exact, and living through reloads and crashes."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kit.client import RawClient, get
from kit.http1 import Message
from kit.load import Load
from kit.origin import OK, OriginConnection, ScriptedOrigin, reply_with, replying
from kit.proxies import BasculeProcess
from kit.waiting import until

HEAD = """
[listeners.web]
address = "127.0.0.1:{port}"
trusted_proxies = ["127.0.0.0/8"]
[backends.app.servers.a1]
url = "http://ORIGIN"
"""
LIMITS = {
    "hour": 'requests = 300\nperiod = "1h"',
    "second": 'requests = 200\nperiod = "1s"\nburst = 50\nkey = "global"',
    "ip": 'requests = 2\nperiod = "1h"',
    "host": 'requests = 2\nperiod = "1h"\nkey = "request.host"',
    "header": 'requests = 2\nperiod = "1h"\nkey = "request.header.X-Tenant"',
    "both": 'requests = 2\nperiod = "1h"\nkey = ["request.header.X-Tenant", "client.ip"]',
    "periods": 'limits = [{requests = 3, period = "1s"}, {requests = 5, period = "1h"}]',
    "stays": 'requests = 40\nperiod = "1h"',
}


def tree(more: str = "") -> str:
    """Return a configuration with one frontend for each limit, and one for a concurrency limit."""
    text = HEAD
    for name, limit in LIMITS.items():
        text += f'[frontends.{name}]\nroute = "PathPrefix(`/{name}`)"\nbackend = "app"\n'
        text += f'[frontends.{name}.middlewares.m]\ntype = "rate_limit"\n{limit}\n'
    text += '[frontends.few]\nroute = "PathPrefix(`/few`)"\nbackend = "app"\n'
    text += '[frontends.few.middlewares.m]\ntype = "concurrency_limit"\nmax = 3\nkey = "global"\n'
    return text + more


class Limited:
    """The proxy and its origin."""

    def __init__(self, proxy: BasculeProcess, origin: ScriptedOrigin, config: str) -> None:
        self.proxy = proxy
        self.origin = origin
        self.config = config
        self.address = ("127.0.0.1", proxy.port)

    def statuses(self, path: str, times: int, host: str = "a.test", headers: str = "") -> list[int]:
        """Ask so many times, each on a connection of its own: both workers are met."""
        return [get(self.address, path, host, headers).status for _ in range(times)]


@pytest.fixture(scope="module")
def limited_process() -> Iterator[Limited]:
    with ScriptedOrigin() as origin:
        config = tree().replace("ORIGIN", origin.address)
        with BasculeProcess(config=config, workers=2) as proxy:
            proxy.status()
            yield Limited(proxy, origin, config)


@pytest.fixture
def limited(limited_process: Limited) -> Iterator[Limited]:
    origin = limited_process.origin
    origin.forget(script=replying(lambda: origin.reply), reply=reply_with(OK))
    yield limited_process
    origin.drop_connections()


def test_a_long_period_admits_exactly_its_requests(limited: Limited) -> None:
    """From eight threads over both workers: 300 of 700, and one more at most for the seconds it takes."""
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(limited.address, "/hour").status, range(700)))
    found = Counter(answers)
    assert set(found) == {200, 429}
    assert 300 <= found[200] <= 301 + (time.monotonic() - started) / 12
    assert len(limited.origin.requests) == found[200], "a refused request reaches no server"


def admitted_in_four_seconds(limited: Limited) -> tuple[int, float, float]:
    """Return how many were admitted, and the least and the most time, s, that this can have taken."""
    request = b"GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n"
    started = time.monotonic()
    with Load(limited.address, request, clients=6, per_connection=25, check=lambda _: "") as load:
        until(lambda: time.monotonic() - started > 4.0, "four seconds")
        least_s = time.monotonic() - started
        admitted = load.result.statuses[200]
        most_s = time.monotonic() - started
        offered = load.result.requests
    assert offered > 2 * admitted, "the load was too small to tell anything"
    return admitted, least_s, most_s


def test_a_rate_is_exact_to_one_percent(limited: Limited) -> None:
    """Never more. Clients that a busy machine lets stand for a quarter of a second ask for less: then they try again."""
    for _ in range(4):
        admitted, least_s, most_s = admitted_in_four_seconds(limited)
        most, least = 50 + 200 * most_s, 50 + 200 * least_s
        assert admitted <= most + max(most / 100, 6)
        if admitted >= least - max(least / 100, 6):
            return
        time.sleep(0.25)  # the burst is full again
    pytest.fail(f"only {admitted} admitted in {least_s:.2f} s")


def test_a_refusal_says_when_to_come_again(limited: Limited) -> None:
    assert limited.statuses("/ip", 2, headers="X-Forwarded-For: 192.0.2.99\r\n") == [200, 200]
    answer = get(limited.address, "/ip", headers="X-Forwarded-For: 192.0.2.99\r\n")
    assert answer.status == 429
    assert 1700 <= int(answer.get(b"retry-after") or 0) <= 1800
    assert answer.get(b"ratelimit-limit") == b"2"
    assert answer.get(b"ratelimit-remaining") == b"0"
    assert 3500 <= int(answer.get(b"ratelimit-reset") or 0) <= 3600
    assert answer.get(b"ratelimit-policy") == b"2;w=3600"


def test_clients_behind_a_trusted_proxy_are_told_apart(limited: Limited) -> None:
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert limited.statuses("/ip", 3, headers=f"X-Forwarded-For: {client}\r\n") == [200, 200, 429]


def test_ipv6_counts_by_its_64(limited: Limited) -> None:
    def ask(address: str) -> int:
        return get(limited.address, "/ip", headers=f"X-Forwarded-For: {address}\r\n").status

    assert [ask(f"2001:db8:1:1::{n:x}") for n in (1, 2, 3)] == [200, 200, 429]
    assert ask("2001:db8:1:1:ffff:ffff:ffff:ffff") == 429
    assert ask("2001:db8:1:2::1") == 200


def test_host_header_and_combination(limited: Limited) -> None:
    for host in ("one.test", "two.test"):
        assert limited.statuses("/host", 3, host=host) == [200, 200, 429]
    for tenant in ("1", "2"):
        assert limited.statuses("/header", 3, headers=f"x-tenant: {tenant}\r\n") == [200, 200, 429]
    assert limited.statuses("/header", 3) == [200, 200, 429], "an absent header is one more value"
    for tenant, client in (("1", "192.0.2.1"), ("1", "192.0.2.2"), ("2", "192.0.2.1")):
        headers = f"X-Tenant: {tenant}\r\nX-Forwarded-For: {client}\r\n"
        assert limited.statuses("/both", 3, headers=headers) == [200, 200, 429]


def test_several_periods_are_charged_all_or_none(limited: Limited) -> None:
    """Three at once, then one each third of a second; what the short one refuses is not charged to the long one."""
    assert limited.statuses("/periods", 6) == [200, 200, 200, 429, 429, 429]
    time.sleep(1.1)
    assert limited.statuses("/periods", 4) == [200, 200, 429, 429]


def test_the_state_lives_through_a_reload_and_a_killed_worker(limited: Limited) -> None:
    assert limited.statuses("/stays", 20) == [200] * 20
    limited.proxy.write_config(limited.config + '[frontends.more]\nroute = "Path(`/x`)"\nbackend = "app"\n')
    limited.proxy.run("reload")
    assert limited.statuses("/stays", 10) == [200] * 10
    before = limited.proxy.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(limited.proxy.worker_pids()) - set(before)) == 2, "two new workers")
    until(lambda: _accepts(limited), "an answer")
    assert limited.statuses("/stays", 12) == [200] * 10 + [429] * 2


def _accepts(limited: Limited) -> bool:
    try:
        return get(limited.address, "/x").status == 200
    except OSError:
        return False


def hold(limited: Limited, count: int) -> tuple[list[RawClient], Callable[[], None]]:
    """Hold so many exchanges in flight; the function lets them end."""
    release = threading.Event()

    def waiting(connection: OriginConnection, head: Message) -> bool:
        release.wait(30)
        connection.send(OK)
        return True

    limited.origin.forget(reply=waiting)
    clients = [RawClient(limited.address, 30) for _ in range(count)]
    for client in clients:
        client.send(b"GET /few HTTP/1.1\r\nHost: a.test\r\n\r\n")
    limited.origin.wait_requests(count)
    return clients, release.set


def test_concurrency_is_bounded_and_given_back(limited: Limited) -> None:
    clients, release = hold(limited, 3)
    assert limited.statuses("/few", 4) == [429] * 4
    clients[0].close()
    until(lambda: limited.proxy.status()["traffic"]["frontends"], "a status")
    release()
    assert [client.response().status for client in clients[1:]] == [200, 200]
    limited.origin.reply = reply_with(OK)
    until(lambda: limited.statuses("/few", 3) == [200] * 3, "places given back")
    for client in clients:
        client.close()
    limited.proxy.assert_quiet()


def test_a_killed_worker_gives_back_what_it_held(limited: Limited) -> None:
    clients, release = hold(limited, 3)
    assert limited.statuses("/few", 1) == [429]
    before = limited.proxy.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(limited.proxy.serving_pids() - set(before)) == 2, "two new workers")
    release()
    limited.origin.reply = reply_with(OK)
    until(lambda: _answers(limited) == 200, "places given back")
    again, release = hold(limited, 3)
    assert limited.statuses("/few", 2) == [429] * 2
    release()
    assert [client.response().status for client in again] == [200] * 3
    for client in clients + again:
        client.close()


def _answers(limited: Limited) -> int:
    try:
        return get(limited.address, "/few").status
    except OSError:
        return 0
