"""Which server gets a request: shares, states, failures, and the connections kept for the next one."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kit.client import RawClient, get
from kit.http1 import Message
from kit.load import Load
from kit.origin import OK, OriginConnection, ScriptedOrigin, reply_with
from kit.proxies import BasculeProcess
from kit.waiting import until

REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"


def config(servers: Mapping[str, str], extra: str = "") -> str:
    """Return a configuration with one pool: each server's id, and its fields but the id in TOML."""
    pool = "".join(f"[backends.app.servers.{name}]\n{fields}\n" for name, fields in servers.items())
    return (
        '[listeners.web]\naddress = "127.0.0.1:{port}"\n'
        f"[backends.app]\n{extra}\n{pool}"
        '[frontends.app]\nroute = "PathPrefix(`/`)"\nbackend = "app"\n'
    )


def fields(origin: ScriptedOrigin, weight: int = 1, state: str = "up") -> str:
    return f'url = "{origin.url}"\nweight = {weight}\nstate = "{state}"'


@pytest.fixture
def origins() -> Iterator[list[ScriptedOrigin]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ScriptedOrigin()) for _ in range(3)]


def counts(origins: list[ScriptedOrigin]) -> list[int]:
    return [len(origin.requests) for origin in origins]


def forget(origins: list[ScriptedOrigin]) -> None:
    for origin in origins:
        origin.forget()


@pytest.mark.parametrize(("workers", "slack"), [(1, 0), (2, 4)])
def test_shares_are_the_weights(origins: list[ScriptedOrigin], workers: int, slack: int) -> None:
    """Nine picks of one worker hold 5, 3 and 1 wherever they begin; two workers are each less than a round off."""
    servers = {
        f"a{i}": fields(origin, weight) for i, (origin, weight) in enumerate(zip(origins, (5, 3, 1), strict=True))
    }
    with BasculeProcess(config=config(servers), workers=workers) as proxy:
        forget(origins)
        for _ in range(18):
            with RawClient(proxy.address) as client:
                for _ in range(10):
                    assert client.ask(REQUEST).status == 200
        got = counts(origins)
    assert sum(got) == 180
    assert all(abs(count - share) <= slack for count, share in zip(got, (100, 60, 20), strict=True)), got


def test_picks_are_spread_out(origins: list[ScriptedOrigin]) -> None:
    """Smooth: a server of weight 5 in 9 never gets more than two requests in a row."""
    order: list[int] = []
    for number, origin in enumerate(origins):

        def reply(connection: OriginConnection, head: Message, number: int = number) -> bool:
            order.append(number)
            connection.send(OK)
            return True

        origin.reply = reply
    servers = {
        f"a{i}": fields(origin, weight) for i, (origin, weight) in enumerate(zip(origins, (5, 3, 1), strict=True))
    }
    with BasculeProcess(config=config(servers)) as proxy, RawClient(proxy.address) as client:
        for _ in range(27):
            client.ask(REQUEST)
    assert all(order[i : i + 3] != [0, 0, 0] for i in range(len(order)))


def test_states_change_under_load_without_a_failed_request(origins: list[ScriptedOrigin]) -> None:
    stay, leave, _ = origins

    def tree(weight: int, state: str) -> str:
        return config({"stay": fields(stay), "leave": fields(leave, weight, state)})

    with BasculeProcess(config=tree(1, "up"), workers=2) as proxy:
        proxy.status()
        with Load(proxy.address, clients=6, per_connection=50) as load:

            def more(count: int) -> None:
                target = load.result.requests + count
                until(lambda: load.result.requests >= target, f"{count} more requests", 30.0)

            for weight, state in ((1, "draining"), (1, "up"), (1, "down"), (1, "up"), (0, "up"), (1, "up")):
                proxy.write_config(tree(weight, state))
                proxy.run("reload")
                more(20)  # what was on its way when the change came into force has arrived
                forget(origins)
                more(200)
                assert bool(leave.requests) == (state == "up" and weight > 0), (weight, state)
            result = load.stop()
        assert not result.failures
        assert set(result.statuses) == {200}
        proxy.assert_quiet()


def test_what_is_in_flight_ends_on_a_draining_server(origins: list[ScriptedOrigin]) -> None:
    stay, leave, _ = origins
    release = threading.Event()

    def waiting(connection: OriginConnection, head: Message) -> bool:
        assert release.wait(20)
        connection.send(OK.replace(b"ok", b"me"))
        return True

    with BasculeProcess(config=config({"leave": fields(leave)})) as proxy:
        proxy.status()
        forget(origins)
        leave.reply = waiting
        with RawClient(proxy.address, 20) as client:
            client.send(REQUEST)
            leave.wait_requests(1)
            proxy.write_config(config({"leave": fields(leave, state="draining"), "stay": fields(stay)}))
            proxy.run("reload")
            assert get(proxy.address).body == b"ok"
            release.set()
            answer = client.response()
            assert (answer.status, answer.body) == (200, b"me")
        assert len(leave.requests) == 1


def test_a_server_that_refuses_fails_over(origins: list[ScriptedOrigin]) -> None:
    """Every second pick is refused and goes to the other server: the client notices nothing."""
    servers = {"good": fields(origins[0]), "gone": 'url = "http://127.0.0.1:1"'}
    with BasculeProcess(config=config(servers)) as proxy:
        for _ in range(20):
            assert get(proxy.address).status == 200
        traffic = proxy.status()["traffic"]
    retried = {server["id"]: server["errors"].get("retried", 0) for server in traffic["servers"]}
    assert retried["app/gone"] >= 9
    assert retried["app/good"] == 0


def test_a_server_that_stops_fails_over_under_load(origins: list[ScriptedOrigin]) -> None:
    """It closes its idle connections and its port: neither costs a request."""
    first, second, _ = origins
    with BasculeProcess(config=config({"a1": fields(first), "a2": fields(second)}), workers=2) as proxy:
        with Load(proxy.address, clients=4, pause_s=0.002) as load:
            until(lambda: len(second.requests) > 50, "requests at the second server")
            second.refuse()
            target = load.result.requests + 300
            until(lambda: load.result.requests >= target, "300 more requests", 30.0)
        assert set(load.result.statuses) == {200}
        assert not load.result.failures


@pytest.mark.parametrize(("method", "status", "seen"), [(b"GET", 200, 3), (b"POST", 502, 2)])
def test_a_reused_connection_that_died(origins: list[ScriptedOrigin], method: bytes, status: int, seen: int) -> None:
    """Once more on a new connection, and only what may be repeated (RFC 9110 section 9.2.2)."""
    origin = origins[0]

    def script(connection: OriginConnection) -> None:
        connection.request()
        connection.send(OK)
        connection.request()  # read, and not a byte of an answer

    with BasculeProcess(config=config({"a1": fields(origin)})) as proxy:
        proxy.status()
        origin.forget(script=script)
        with RawClient(proxy.address) as client:
            assert client.ask(REQUEST).status == 200
            sent = method + b" / HTTP/1.1\r\nHost: kit.test\r\nContent-Length: 0\r\n\r\n"
            assert client.ask(sent, method).status == status
        assert len(origin.requests) == seen
        assert proxy.status()["traffic"]["servers"][0]["errors"].get("retried", 0) == (1 if status == 200 else 0)


def test_idle_connections_are_bounded_and_end(origins: list[ScriptedOrigin]) -> None:
    origin = origins[0]
    barrier = threading.Barrier(6)

    def together(connection: OriginConnection, head: Message) -> bool:
        barrier.wait(10)
        connection.send(OK)
        return True

    extra = 'max_idle_connections = 2\nkeepalive_timeout = "3s"'
    with BasculeProcess(config=config({"a1": fields(origin)}, extra)) as proxy:
        origin.forget(reply=together)
        origin.drop_connections()
        clients = [RawClient(proxy.address) for _ in range(6)]
        for client in clients:
            client.send(REQUEST)
        assert [client.response().status for client in clients] == [200] * 6
        for client in clients:
            client.close()
        until(lambda: len(origin.connections) == 2, f"two idle connections, not {len(origin.connections)}")
        until(lambda: not origin.connections, "none after keepalive_timeout", 5.0)
        origin.reply = reply_with(OK)
        assert get(proxy.address).status == 200


def test_unix_and_ipv6_on_both_sides(tmp_path: Path) -> None:
    with ScriptedOrigin(path=str(tmp_path / "origin.sock")) as unix, ScriptedOrigin(host="::1") as six:
        text = (
            config({"u": fields(unix), "six": fields(six)})
            + f'[listeners.unix]\naddress = "unix://{tmp_path}/front.sock"\n[listeners.six]\naddress = "[::1]:SIX"\n'
        )
        proxy = BasculeProcess(workers=2)
        proxy.config = text.replace("SIX", str(proxy.port))
        proxy.write_config(proxy.config)
        with proxy:
            until((tmp_path / "front.sock").exists, "the Unix listener")
            for address in (("127.0.0.1", proxy.port), ("::1", proxy.port), str(tmp_path / "front.sock")):
                forget([unix, six])
                assert [get(address).status for _ in range(8)] == [200] * 8  # type: ignore[arg-type]
                assert unix.requests
                assert six.requests
            forwarded = [request.get(b"x-forwarded-for") for request in unix.requests + six.requests]
            assert set(forwarded) == {b"unknown"}, "a Unix client has no address (RFC 7239 section 6)"
            forget([unix, six])
            get(("::1", proxy.port), "/a")
            assert [r.get(b"x-forwarded-for") for r in unix.requests + six.requests] == [b"::1"]
