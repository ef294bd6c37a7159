"""What can happen to an etcd while a balancer lives from it: no request fails, and afterwards changes come into force again."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault.live import PREFIX, Site
from kit.etcd import Etcd
from kit.origin import ScriptedOrigin
from kit.relay import Relay
from kit.waiting import until


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, origin: ScriptedOrigin) -> Iterator[Site]:
    """A balancer on an etcd of its own."""
    with Etcd() as etcd, Site(etcd, tmp_path / "node", origin) as running:
        yield running


def test_etcd_stopped_killed_and_frozen(site: Site) -> None:
    member = site.etcd.member
    site.probe()
    for end in (member.stop, member.kill):
        end()
        site.until_connected(False)
        site.more()
        assert "etcd" in site.status()["store"]["failure"] or site.status()["store"]["failure"]
        member.start()
        site.etcd.wait()
        site.until_connected(True)
        site.probe()
    member.freeze()
    try:
        site.until_connected(False)
        site.more()
    finally:
        member.thaw()
    site.probe()


def test_the_network_cut_and_silent_and_compacted_past_us_meanwhile(tmp_path: Path, origin: ScriptedOrigin) -> None:
    with (
        Etcd() as etcd,
        Relay(etcd.member.client_port) as relay,
        Site(etcd, tmp_path / "node", origin, endpoints=[f"http://127.0.0.1:{relay.port}"]) as site,
    ):
        removed = site.probe()
        relay.cut()
        site.until_connected(False)
        site.put("frontends/meanwhile", {"route": "Path(`/meanwhile`)", "backend": "app"})
        etcd.delete(f"{PREFIX}/{removed}")
        etcd.compact()
        site.more()
        assert site.code("/meanwhile") == 404
        relay.mend()
        site.until_code("/meanwhile", 200)
        site.until_code("/probe-1", 404)
        relay.freeze()
        site.until_connected(False)
        site.more()
        relay.mend()
        site.probe()


def test_etcd_wiped_freezes_until_adopted(site: Site) -> None:
    site.probe()
    site.etcd.wipe()
    freeze = site.until_frozen("")
    assert freeze["by"] == "store"
    assert "bascule adopt" in freeze["remedy"]
    site.more()
    assert site.code("/probe-1") == 200
    site.fill()
    for _ in range(3):  # past the revision that is in force
        site.put("frontends/new", {"route": "Path(`/new`)", "backend": "app"})
    site.more()
    assert site.code("/new") == 404, "frozen"
    site.adopt()
    site.until_code("/new", 200)
    site.until_code("/probe-1", 404)
    assert site.status()["freeze"] is None
    site.probe()


@pytest.mark.parametrize("token", ["etcd-cluster", "another"])
def test_an_older_backup_restored_freezes_until_adopted(site: Site, token: str) -> None:
    backup = site.etcd.snapshot()
    site.probe()
    site.etcd.restore(backup, token=token)
    site.until_frozen("went back" if token == "etcd-cluster" else "")
    site.more()
    assert site.code("/probe-1") == 200, "what was in force before stays"
    site.adopt()
    site.until_code("/probe-1", 404)
    site.probe()


def test_all_keys_deleted_are_held_until_they_are_back_or_adopted(site: Site) -> None:
    site.probe()
    keys = site.etcd.keys(PREFIX + "/")
    values = {key: site.etcd.run("get", "--print-value-only", key).stdout.strip() for key in keys}
    site.etcd.delete("--prefix", PREFIX + "/")
    until(lambda: len(site.held()) == len(keys), "everything is held", 30, 0.05)
    site.more()
    assert site.code("/probe-1") == 200
    site.etcd.transact(values)
    until(lambda: not site.held(), "nothing is held", 30, 0.05)
    site.probe()


def test_a_pool_that_vanishes_is_held_and_one_that_leaves_is_not(site: Site) -> None:
    url = f'{{"url":"http://{site.origin.address}"}}'
    site.put("backends/leased", {})
    lease, other = site.etcd.grant(2), site.etcd.grant(100)
    site.etcd.put(f"{PREFIX}/backends/leased/servers/one", url, lease)
    site.etcd.put(f"{PREFIX}/backends/leased/servers/two", url.replace("}", ',"weight":2}'), lease)
    site.put("frontends/leased", {"route": "Path(`/leased`)", "backend": "leased"})
    site.until_code("/leased", 200)
    until(lambda: len(site.held()) == 2, "both are held", 30, 0.05)
    for _ in range(20):
        assert site.code("/leased") == 200
    site.etcd.put(f"{PREFIX}/backends/leased/servers/one", url, other)
    site.etcd.put(f"{PREFIX}/backends/leased/servers/two", url.replace("}", ',"weight":2}'), other)
    until(lambda: not site.held(), "both are back", 30, 0.05)
    assert site.code("/leased") == 200
    site.etcd.delete("--prefix", f"{PREFIX}/backends/leased/servers/")
    site.until_code("/leased", 503)
    assert site.held() == []


def test_a_cold_start_without_etcd_serves_what_was_last_good(site: Site) -> None:
    site.probe()
    status = site.status()
    pids = [site.balancer.process.pid, site.master_pid(), *(worker["pid"] for worker in status["workers"])]
    with_grpc = [pid for pid in pids if "cygrpc" in Path(f"/proc/{pid}/maps").read_text()]
    assert with_grpc == [site.master_pid()], "gRPC and its threads live in the master alone"
    site.put("backends/app/servers/a1", {"url": f"http://{site.origin.address}", "weight": 3})
    until(lambda: site.status()["last_good"]["revision"] == site.etcd.revision(), "it is on disk", 30, 0.05)
    site.stop_load()
    site.etcd.member.stop()
    site.balancer.__exit__(None, None, None)
    site.balancer.start()
    assert site.code("/") == 200
    assert site.code("/probe-1") == 200
    assert not site.status()["store"]["connected"]
    site.start_load()
    newest = max((site.balancer.state / "last-good").glob("last-good.*[0-9]"), key=lambda path: int(path.suffix[1:]))
    newest.write_bytes(newest.read_bytes()[:-5])
    site.etcd.member.start()
    site.etcd.wait()
    site.probe()
    assert site.status()["freeze"] is None


def test_a_freeze_outlives_the_master(site: Site) -> None:
    status, answer = site.balancer.ask("POST", "/v1/freeze", {"reason": "the night shift"})
    assert status == 200, answer
    before = site.master_pid()
    os.kill(before, signal.SIGKILL)  # what has been answered is on disk
    site.put("frontends/late", {"route": "Path(`/late`)", "backend": "app"})

    def successor() -> bool:
        with contextlib.suppress(OSError, AssertionError):
            status = site.status()
            return status["master"]["pid"] != before and status["store"]["connected"]
        return False

    until(successor, "another master", 30, 0.05)
    assert "the night shift" in site.status()["freeze"]["reason"]
    site.more()
    assert site.code("/late") == 404
    status, answer = site.balancer.ask("POST", "/v1/unfreeze")
    assert status == 200, answer
    site.until_code("/late", 200)
    site.probe()


def test_an_ended_token_is_renewed(tmp_path: Path, origin: ScriptedOrigin) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    with Etcd(flags=["--auth-token-ttl", "1", "--bcrypt-cost", "4"]) as etcd:
        store = f'username = "bascule"\npassword_file = "{password}"\n'
        site = Site(etcd, tmp_path / "node", origin, store=store, start=False)
        etcd.enable_users()
        site.balancer.start()
        with site:
            time.sleep(3)  # etcd looks for ended tokens once a second
            etcd.run(
                "--user", "root:secret", "put", f"{PREFIX}/frontends/late", '{"route":"Path(`/late`)","backend":"app"}'
            )
            site.until_code("/late", 200)
            route = {"route": "Path(`/api`)", "backend": "app"}  # a write needs a token that has not ended
            status, answer = site.balancer.ask("PUT", "/v1/frontends/api?wait=applied&timeout=20s", route)
            assert (status, answer.get("applied")) == (200, True), answer
            etcd.member.kill()
            site.until_connected(False)
            etcd.member.start()
            etcd.wait("root:secret")
            etcd.run(
                "--user", "root:secret", "put", f"{PREFIX}/frontends/anew", '{"route":"Path(`/anew`)","backend":"app"}'
            )
            site.until_code("/anew", 200)
            assert "secret" not in site.balancer.log()


def test_a_quota_that_is_used_up_stops_writes_and_nothing_else(tmp_path: Path, origin: ScriptedOrigin) -> None:
    with Etcd(flags=["--quota-backend-bytes", str(1 << 20)]) as etcd, Site(etcd, tmp_path / "node", origin) as site:
        site.probe()
        for number in range(40):
            if etcd.run("put", f"/elsewhere/{number}", "x" * 60_000, check=False).returncode:
                break
        else:
            pytest.fail("the quota was never used up")
        status, answer = site.balancer.ask("PUT", "/v1/frontends/full", {"route": "Path(`/full`)", "backend": "app"})
        assert status >= 400
        assert "quota" in (answer["detail"] + answer["remedy"]).lower() or "space" in answer["detail"].lower(), answer
        assert "alarm disarm" in answer["remedy"], answer
        site.more()
        assert site.status()["store"]["connected"]
        etcd.delete("--prefix", "/elsewhere/")
        etcd.compact()
        etcd.run("defrag")
        etcd.run("alarm", "disarm")
        site.probe()


def test_one_of_three_members_lost_and_then_the_leader(tmp_path: Path, origin: ScriptedOrigin) -> None:
    with Etcd(3) as etcd, Site(etcd, tmp_path / "node", origin) as site:
        site.probe()
        leader = next(
            member
            for member in etcd.members
            if f" {etcd.json('endpoint', 'status')[0]['Status']['leader']:x},"
            in etcd.run("endpoint", "status", endpoint=member.endpoint).stdout
        )
        follower = next(member for member in etcd.members if member is not leader)
        for lost in (follower, leader):
            lost.kill()
            site.more()
            until(lambda: etcd.run("get", "x", check=False).returncode == 0, "a leader", 30, 0.1)
            site.probe()
            lost.start()
            etcd.wait()
        site.probe()
