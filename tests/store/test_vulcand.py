"""A vulcand tree in etcd: the acceptance suite for read-only stores, and what is of vulcand alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bascule.change.examine import examine
from bascule.store.vulcand.store import VulcandStore
from kit.etcd import Etcd
from kit.following import Follower
from store.acceptance import ReadOnlyAcceptance
from store.prefixes import PrefixHarness


class VulcandHarness(PrefixHarness):
    """In vulcand's layout, as much of it as the acceptance suite puts."""

    store = VulcandStore
    root = "/vulcand"
    writable = False

    def place(self, key: str) -> str:
        leaf = {"backends": "/backend", "frontends": "/frontend", "hosts": "/host"}
        return key + (leaf.get(key.partition("/")[0], "") if key.count("/") == 1 else "")

    def stored(self, key: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        name = key.rpartition("/")[2]
        if key.count("/") == 3:
            return {"Id": name, "URL": value["url"]}
        return {"Id": name, "Type": "http", "Settings": {"KeepAlive": {"Period": "30s"}}}


class TestVulcand(ReadOnlyAcceptance):
    harness_type = VulcandHarness


BACKEND = {"Id": "b", "Type": "http"}
SERVER = {"Id": "s", "URL": "http://127.0.0.1:9001"}
LISTENER = {"Id": "l", "Protocol": "http", "Address": {"Network": "tcp", "Address": "127.0.0.1:8080"}}
FRONTEND = {"Id": "f", "Type": "http", "BackendId": "b", "Route": 'Path("/f")', "Settings": {"PassHostHeader": True}}
REWRITE = {"Id": "rw1", "Type": "rewrite", "Priority": 1, "Middleware": {"Regexp": "a", "Replacement": "b"}}
BREAKER = {"Id": "cb1", "Type": "cbreaker", "Priority": 1, "Middleware": {"Condition": "NetworkErrorRatio() > 0.5"}}
LIMIT = {
    "Id": "rl1",
    "Type": "ratelimit",
    "Priority": 2,
    "Middleware": {"PeriodSeconds": 1, "Requests": 10, "Burst": 20, "Variable": "request.header.X-Account"},
}


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with Etcd() as server:
        yield server


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name.replace('[', '-').replace(']', '')[:60]}"


def put(etcd: Etcd, prefix: str, **more: Any) -> None:
    """Put a small tree that is served, and more; a key has `__` for each slash."""
    tree = {"backends__b__backend": BACKEND, "backends__b__servers__s": SERVER, "frontends__f__frontend": FRONTEND}
    tree |= {"listeners__l": LISTENER} | more
    etcd.transact({f"{prefix}/{key.replace('__', '/')}": json.dumps(value) for key, value in tree.items()})


def values(follower: Follower) -> dict[str, Any]:
    return {key: json.loads(entry.value) for key, entry in follower.entries.items()}


def test_a_tree_in_our_words(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        put(etcd, prefix, frontends__f__middlewares__rl1=LIMIT, autocert_cache__x={"a": 1})
        store = VulcandStore(etcd.options(prefix))
        entries = (await store.read()).entries
        assert {key: json.loads(entry.value) for key, entry in entries.items()} == {
            "backends/b": {},
            "backends/b/servers/s": {"url": "http://127.0.0.1:9001"},
            "frontends/f": {"route": "Path(`/f`)", "backend": "b"},
            "frontends/f/middlewares/rl1": {
                "type": "rate_limit",
                "requests": 10,
                "period": "1s",
                "burst": 20,
                "key": "request.header.X-Account",
                "order": 2,
            },
            "listeners/l": {"address": "127.0.0.1:8080"},
        }
        assert not examine((key, entry.value) for key, entry in entries.items()).problems
        assert store.problems() == []
        await store.close()

    asyncio.run(go())


def test_a_server_that_stops_its_heartbeat_vanishes_and_one_that_is_removed_leaves(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        put(etcd, prefix)
        store = VulcandStore(etcd.options(prefix))
        async with Follower(store) as follower:
            lease = etcd.grant(1)
            server = f"{prefix}/backends/b/servers/"
            etcd.put(f"{server}beating", json.dumps(SERVER), lease)
            etcd.put(f"{server}asked", json.dumps(SERVER))
            await follower.until(lambda: len(follower.entries) == 6, "they come")
            etcd.put(f"{server}asked", json.dumps(SERVER))  # a heartbeat is no change
            etcd.delete(f"{server}asked")
            await follower.until(lambda: len(follower.entries) == 4, "they go")
            gone = {e.key: e.expired for b in follower.changes for e in b.events if e.entry is None}
            assert gone == {"backends/b/servers/beating": True, "backends/b/servers/asked": False}
            assert len([e for b in follower.changes for e in b.events if e.key.endswith("asked")]) == 2
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    "middleware", [REWRITE, {"Type": "my-auth", "Middleware": {}}, {"Type": 7}, LIMIT | {"Middleware": {}}]
)
def test_a_frontend_is_not_served_without_a_middleware_that_may_guard_it(
    etcd: Etcd, prefix: str, middleware: dict[str, Any]
) -> None:
    key = f"{prefix}/frontends/f/middlewares/guard"

    async def go() -> None:
        put(etcd, prefix)
        store = VulcandStore(etcd.options(prefix))
        async with Follower(store) as follower:
            assert "frontends/f" in follower.entries
            etcd.put(key, json.dumps(middleware))
            await follower.until(lambda: "frontends/f" not in follower.entries, "it is no longer served")
            guard = follower.entries["frontends/f/middlewares/guard"]
            (problem,) = examine([("frontends/f/middlewares/guard", guard.value)]).problems.values()
            assert problem[0].message
            assert {".".join(problem.path) for problem in store.problems() if not problem.warning} == {
                "frontends.f",
                "frontends.f.middlewares.guard",
            }
            assert "frontends/f" not in (await VulcandStore(etcd.options(prefix)).read()).entries
            etcd.delete(key)
            await follower.until(lambda: "frontends/f" in follower.entries, "it is served again")
            assert store.problems() == []
        await store.close()

    asyncio.run(go())


def test_a_frontend_is_served_without_a_breaker_or_a_trace(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        trace = {"Id": "t", "Type": "trace", "Middleware": {"Addr": "syslog://"}}
        put(etcd, prefix, frontends__f__middlewares__cb1=BREAKER, frontends__f__middlewares__t=trace)
        store = VulcandStore(etcd.options(prefix))
        entries = (await store.read()).entries
        assert set(entries) == {"backends/b", "backends/b/servers/s", "frontends/f", "listeners/l"}
        assert {(problem.warning, problem.path[-1]) for problem in store.problems()} == {(True, "cb1"), (True, "t")}
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hosts/a.com/host", {"Name": "a.com", "Settings": {"KeyPair": "c2VjcmV0"}}, "TLS hosts"),
        ("listeners/x", LISTENER | {"Protocol": "https"}, "https listeners"),
        ("listeners/x", LISTENER | {"Scope": 'Host("a.com")'}, "Scope"),
        ("listeners/x", LISTENER | {"ProxyProtocol": "PROXY_V1"}, "PROXY protocol"),
        ("listeners/x", LISTENER | {"Address": {"Network": "udp", "Address": ":1"}}, "'udp'"),
        ("backends/x/backend", {"Id": "x"}, "no Type"),
        ("backends/x/backend", BACKEND | {"Settings": {"Timeouts": {"Read": "5 s"}}}, "Settings.Timeouts.Read"),
        ("backends/b/servers/x", {"URL": "https://127.0.0.1:1"}, "https"),
        ("backends/b/servers/x", {"URL": "127.0.0.1:1"}, "not the URL"),
        ("backends/b/servers/x", {"URL": 7}, "URL is not a text"),
        ("frontends/x/frontend", FRONTEND | {"Route": "Path(/a)"}, "not part of a route"),
        ("frontends/x/frontend", FRONTEND | {"BackendId": ""}, "names no backend"),
        ("frontends/f/middlewares/x", LIMIT | {"Type": "connlimit"}, "lets nobody in"),
        ("backends/b/servers/x", "text", "no JSON object"),
        ("frontends/x/frontend", FRONTEND | {"Route": 'Host("\\UFFFFFFFF")'}, "no character"),
    ],
)
def test_what_cannot_be_translated_is_reported_at_its_object(
    etcd: Etcd, prefix: str, key: str, value: object, said: str
) -> None:
    ours = key.removesuffix("/host").removesuffix("/backend").removesuffix("/frontend")

    async def go() -> None:
        put(etcd, prefix)
        etcd.put(f"{prefix}/{key}", json.dumps(value))
        store = VulcandStore(etcd.options(prefix))
        entries = (await store.read()).entries
        problems = examine([(ours, entries[ours].value)]).problems[ours]
        assert said in problems[0].message
        assert problems[0].path == tuple(ours.split("/"))
        assert problems[0] in store.problems()
        assert "c2VjcmV0" not in repr(entries)
        await store.close()

    asyncio.run(go())


def test_a_listener_and_a_backend_with_everything(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        put(
            etcd,
            prefix,
            listeners__u={"protocol": "HTTP", "address": {"network": "unix", "address": "/run/a.sock"}},
            backends__c__backend={
                "Type": "http",
                "Settings": {
                    "Timeouts": {"Read": "1m", "Dial": "0s", "TLSHandshake": "1s"},
                    "KeepAlive": {"Period": "4s", "MaxIdleConnsPerHost": 3},
                },
            },
        )
        store = VulcandStore(etcd.options(prefix))
        entries = (await store.read()).entries
        assert json.loads(entries["listeners/u"].value) == {"address": "unix:///run/a.sock"}
        assert json.loads(entries["backends/c"].value) == {
            "response_timeout": "60000ms",
            "connect_timeout": "604800000ms",
            "max_idle_connections": 3,
        }
        assert len(store.problems()) == 2
        assert all(problem.warning for problem in store.problems())
        await store.close()

    asyncio.run(go())


def test_ids_that_ours_cannot_hold_become_others_and_references_follow(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        put(
            etcd,
            prefix,
            **{
                "backends__a:1__backend": BACKEND,
                "backends__a:1__servers__h:1": SERVER,
                "frontends__x__frontend": FRONTEND | {"BackendId": "a:1"},
            },
        )
        store = VulcandStore(etcd.options(prefix))
        entries = (await store.read()).entries
        backend = json.loads(entries["frontends/x"].value)["backend"]
        assert f"backends/{backend}" in entries
        assert [key for key in entries if key.startswith(f"backends/{backend}/servers/h-1-")]
        assert not examine((key, entry.value) for key, entry in entries.items()).problems
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize("begin", ["read", "watch"])
def test_a_tree_without_the_leading_slash_is_found(etcd: Etcd, prefix: str, begin: str) -> None:
    """vulcand itself writes to `vulcand/...` unless told otherwise; its documents say `/vulcand/...`."""

    async def go() -> None:
        store = VulcandStore(etcd.options(prefix))
        if begin == "read":
            put(etcd, prefix.removeprefix("/"))
            assert "frontends/f" in (await store.read()).entries
        async with Follower(store) as follower:
            if begin == "watch":
                put(etcd, prefix.removeprefix("/"))
            await follower.until(lambda: "frontends/f" in follower.entries, "it is found")
        etcd.put(f"{prefix}/backends/other/backend", json.dumps(BACKEND))
        assert "backends/other" not in (await store.read()).entries
        assert "are not read" in store.problems()[-1].message
        await store.close()

    asyncio.run(go())


def test_without_a_listener_there_is_the_one_that_vulcand_has_by_itself(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        put(etcd, prefix)
        etcd.delete(f"{prefix}/listeners/l")
        store = VulcandStore(etcd.options(prefix))
        async with Follower(store) as follower:
            assert values(follower)["listeners/DefaultListener"] == {"address": "0.0.0.0:8181"}
            assert "8181" in store.problems()[-1].message
            etcd.put(f"{prefix}/listeners/l", json.dumps(LISTENER))
            await follower.until(lambda: "listeners/DefaultListener" not in follower.entries, "it goes")
            assert "listeners/l" in follower.entries
            etcd.transact({f"{prefix}/listeners/DefaultListener": json.dumps(LISTENER)}, [f"{prefix}/listeners/l"])
            await follower.until(lambda: "listeners/DefaultListener" in follower.entries, "a real one of that name")
            assert values(follower)["listeners/DefaultListener"] == {"address": "127.0.0.1:8080"}
            etcd.delete(f"{prefix}/listeners/DefaultListener")
            await follower.until(
                lambda: values(follower)["listeners/DefaultListener"] == {"address": "0.0.0.0:8181"}, "and back"
            )
        await store.close()

    asyncio.run(go())


def test_keys_of_the_first_layout_are_told_of(etcd: Etcd, prefix: str) -> None:
    async def go() -> None:
        etcd.put(f"{prefix}/upstreams/u/endpoints/e", "http://127.0.0.1:1")
        store = VulcandStore(etcd.options(prefix))
        assert (await store.read()).entries == {}
        assert "first layout" in store.problems()[0].message
        await store.close()

    asyncio.run(go())
