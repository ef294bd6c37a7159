"""A whole balancer on a real etcd, under load: whatever happens to etcd, no request fails, and what comes after it arrives."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.client import get
from kit.etcd import Etcd
from kit.origin import ScriptedOrigin
from kit.relay import Relay
from kit.waiting import free_port, until
from process.balancer import Load, serves, tree
from process.live import LiveBalancer

ARRIVES_S = 40.0


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as running:
        yield running


def route(prefix: str) -> dict[str, str]:
    return {"route": f"PathPrefix(`{prefix}`)", "backend": "app"}


class Stage:
    """An etcd with a small configuration in it, and a balancer that serves it."""

    def __init__(self, etcd: Etcd, directory: Path, origin: ScriptedOrigin, *, arguments: Any = None) -> None:
        self.etcd = etcd
        self.port = free_port()
        self.count = 0
        configuration = tree({"web": f"127.0.0.1:{self.port}"}, origin.address)
        pool = configuration["backends"]["app"]["servers"]
        self.objects = {
            "listeners/web": configuration["listeners"]["web"],
            "backends/app": {},
            "backends/app/servers/a1": pool["a1"],
            "frontends/app": configuration["frontends"]["app"],
        }
        self.user = ""
        self.put(self.objects)
        members = ",".join(f"127.0.0.1:{member.client_port}" for member in etcd.members)
        arguments = arguments or ["--store", "etcd", "--etcd", members]
        self.balancer = LiveBalancer(directory / "live", arguments=arguments, start=False)

    def put(self, objects: dict[str, Any]) -> None:
        self.etcd.transact({f"/bascule/{key}": json.dumps(value) for key, value in objects.items()})

    def until_changed(self, what: str) -> None:
        """Put a route with etcdctl and wait until it is served: /new/<n> is cut off by a limit of no bytes."""
        self.count += 1
        key, path = f"frontends/new{self.count}", f"/new/{self.count}"
        user = ["--user", self.user] if self.user else []
        put = [*user, "put", f"/bascule/{key}", json.dumps({"route": f"Path(`{path}`)", "backend": "none"})]
        until(lambda: self.etcd.run(*put, check=False).returncode == 0, f"etcdctl put after {what}", ARRIVES_S)
        until(lambda: get(("127.0.0.1", self.port), path).status == 503, f"a change after {what}", ARRIVES_S, 0.05)

    def __enter__(self) -> "Stage":
        try:
            self.balancer.start()
            until(lambda: serves(self.port), f"a served request: {self.balancer.log()}", ARRIVES_S)
        except BaseException:
            self.balancer.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.balancer.__exit__(*error)


Begin = Callable[..., Stage]


@pytest.fixture
def none() -> dict[str, Any]:
    return {"backends/none": {}}


def test_stopped_killed_frozen_cut_off_and_compacted_past(
    tmp_path: Path, origin: ScriptedOrigin, none: dict[str, Any]
) -> None:
    with Etcd() as etcd, Relay(etcd.member.client_port) as relay:
        arguments = ["--store", "etcd", "--etcd", f"127.0.0.1:{relay.port}"]
        with Stage(etcd, tmp_path, origin, arguments=arguments) as stage, Load(stage.port) as load:
            stage.put(none)
            stage.until_changed("nothing")
            for what, begin, end in (
                ("stop", etcd.member.stop, etcd.member.start),
                ("kill -9", etcd.member.kill, etcd.member.start),
                ("SIGSTOP", etcd.member.freeze, etcd.member.thaw),
                ("a cut network", relay.cut, relay.mend),
                ("a frozen network", relay.freeze, relay.mend),
            ):
                before = stage.balancer.log().count("does not answer as it should")
                begin()
                stage.balancer.logged("does not answer as it should", before + 1)
                load.more(100)
                end()
                etcd.wait()
                stage.until_changed(what)
            before = stage.balancer.log().count("does not answer as it should")
            relay.cut()
            stage.balancer.logged("does not answer as it should", before + 1)
            for prefix in ("/a", "/b", "/c"):
                stage.put({"frontends/while": route(prefix)})
            etcd.compact()
            relay.mend()
            stage.until_changed("a compaction past us")
            load.more(100)
        assert load.failures == []
        assert "reading it anew" in stage.balancer.log()


@pytest.mark.parametrize("what", ["wiped", "restored", "another cluster"])
def test_wiped_or_restored_freezes_until_it_is_adopted(
    tmp_path: Path, origin: ScriptedOrigin, none: dict[str, Any], what: str
) -> None:
    with Etcd() as etcd, Stage(etcd, tmp_path, origin) as stage, Load(stage.port) as load:
        stage.put(none)
        backup = etcd.snapshot()
        for _ in range(3):
            stage.until_changed("nothing")
        if what == "wiped":
            etcd.wipe()
        else:
            etcd.restore(backup, token="etcd-cluster" if what == "restored" else "another")
        until(lambda: stage.balancer.ask("GET", "/v1/objects")[1]["freeze"], "it is frozen", ARRIVES_S, 0.05)
        load.more(100)
        assert get(("127.0.0.1", stage.port), "/new/1").status == 503
        if what == "wiped":
            stage.put(stage.objects | none)
        status, answer = stage.balancer.ask("POST", "/v1/adopt")
        assert status == 200, answer
        until(lambda: get(("127.0.0.1", stage.port), "/new/1").status == 200, "the backup is in force", ARRIVES_S, 0.05)
        stage.until_changed(what)
        load.more(100)
        assert load.failures == []


def test_one_of_three_members_lost_and_the_leader_lost(
    tmp_path: Path, origin: ScriptedOrigin, none: dict[str, Any]
) -> None:
    with Etcd(members=3) as etcd, Stage(etcd, tmp_path, origin) as stage, Load(stage.port) as load:
        stage.put(none)
        for member in etcd.members[:2]:
            member.kill()
            stage.until_changed(f"the loss of {member.name}")
            member.start()
            etcd.wait()
        load.more(100)
        assert load.failures == []


def test_an_ended_token_and_a_full_database(tmp_path: Path, origin: ScriptedOrigin, none: dict[str, Any]) -> None:
    flags = ["--auth-token-ttl", "1", "--bcrypt-cost", "4", "--quota-backend-bytes", str(8 << 20)]
    password = tmp_path / "password"
    password.write_text("secret")
    config = tmp_path / "bascule.json"
    with Etcd(flags=flags) as etcd:
        store = {
            "type": "etcd",
            "endpoints": [etcd.member.endpoint],
            "username": "bascule",
            "password_file": str(password),
        }
        config.write_text(json.dumps({"store": store}))
        stage = Stage(etcd, tmp_path, origin, arguments=["--store", "etcd", "-c", str(config)])
        stage.put(none)
        etcd.enable_users("secret")
        stage.user = "root:secret"
        with stage, Load(stage.port) as load:
            stage.until_changed("users")
            time.sleep(3)  # the token ends; the watch goes on, the next write asks for another
            status, answer = stage.balancer.ask("PUT", "/v1/frontends/api?wait=applied&timeout=20s", route("/api"))
            assert (status, answer.get("applied")) == (200, True), answer
            for number in range(40):
                status, answer = stage.balancer.ask("PUT", f"/v1/backends/b{number}", {})
                fill = etcd.run("--user", "root:secret", "put", f"/fill/{number}", check=False, stdin=b"x" * 400_000)
                if status != 200:
                    break
            assert fill.returncode
            assert status >= 400
            assert "alarm disarm" in json.dumps(answer)
            load.more(100)
            assert load.failures == []
            assert "secret" not in stage.balancer.log()


def test_a_start_without_etcd_serves_and_only_the_master_has_grpc(
    tmp_path: Path, origin: ScriptedOrigin, none: dict[str, Any]
) -> None:
    with Etcd() as etcd, Stage(etcd, tmp_path, origin) as stage:
        stage.put(none)
        stage.until_changed("nothing")
        document = stage.balancer.status()
        pids = [stage.balancer.process.pid, document["master"]["pid"], *(w["pid"] for w in document["workers"])]
        with_grpc = [pid for pid in pids if "cygrpc" in Path(f"/proc/{pid}/maps").read_text()]
        assert with_grpc == [document["master"]["pid"]]
        etcd.member.kill()
        stage.balancer.process.terminate()
        stage.balancer.wait()
        stage.balancer.start()
        assert get(("127.0.0.1", stage.port), "/new/1").status == 503
        etcd.member.start()
        etcd.wait()
        stage.until_changed("a start without etcd")


def test_a_vulcand_tree_is_served_as_its_programs_change_it(tmp_path: Path, origin: ScriptedOrigin) -> None:
    """What an operator does who knows vulcand: point at its etcd, and see traffic flow."""
    port = free_port()
    server = {"URL": f"http://{origin.address}"}
    frontend = {"Type": "http", "BackendId": "app", "Route": 'PathRegexp("/.*")', "Settings": {"PassHostHeader": True}}
    objects = {
        "listeners/web": {"Protocol": "http", "Address": {"Network": "tcp", "Address": f"127.0.0.1:{port}"}},
        "backends/app/backend": {"Type": "http"},
        "backends/app/servers/a1": server,
        "backends/app/servers/a2": server,
        "frontends/app/frontend": frontend,
    }
    with Etcd() as etcd:
        etcd.transact({f"/vulcand/{key}": json.dumps(value) for key, value in objects.items()})
        arguments = ["--store", "vulcand", "--etcd", f"127.0.0.1:{etcd.member.client_port}"]
        balancer = LiveBalancer(tmp_path / "live", arguments=arguments, start=False)
        try:
            balancer.start()
            until(lambda: serves(port), f"a served request: {balancer.log()}", ARRIVES_S)
            with Load(port) as load:
                lease = etcd.grant(2)
                etcd.put("/vulcand/backends/app/servers/a3", json.dumps(server), lease)
                etcd.put("/vulcand/backends/none/backend", '{"Type": "http"}')
                exact = frontend | {"BackendId": "none", "Route": 'Path("/v2/<id>") && Method("GET")'}
                etcd.put("/vulcand/frontends/exact/frontend", json.dumps(exact))
                until(lambda: get(("127.0.0.1", port), "/v2/x").status == 503, "the new route", ARRIVES_S, 0.05)
                assert get(("127.0.0.1", port), "/v2/x/").status == 200
                etcd.delete("/vulcand/backends/app/servers/a2")
                etcd.put("/vulcand/frontends/app/middlewares/cb1", '{"Type": "cbreaker", "Middleware": {}}')
                until(lambda: "circuit breakers" in str(balancer.status()["warnings"]), "what is left out", ARRIVES_S)
                bad = frontend | {"Route": "Host(a)"}
                etcd.put("/vulcand/frontends/bad/frontend", json.dumps(bad))
                balancer.until_state("frontends/bad", "quarantined")
                assert "expected a string" in json.dumps(balancer.states())
                load.more(200)
                assert load.failures == []
            status, answer = balancer.ask("PUT", "/v1/backends/x", {})
            assert status >= 400
            assert "vctl" in json.dumps(answer)
        finally:
            balancer.__exit__(None, None, None)
