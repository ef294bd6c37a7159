"""A live store: what is put comes into force in every worker, and what is wrong with it hurts nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.client import get
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Load, serves, tree
from process.live import LiveBalancer

Begin = Callable[..., LiveBalancer]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start live balancers with `begin(**options)`; ended after the test."""
    running: list[LiveBalancer] = []

    def starter(**options: Any) -> LiveBalancer:
        running.append(LiveBalancer(tmp_path / f"live{len(running)}", **options))
        return running[-1]

    yield starter
    for balancer in running:
        balancer.__exit__(None, None, None)


def route(prefix: str, backend: str = "app") -> dict[str, str]:
    return {"route": f"PathPrefix(`{prefix}`)", "backend": backend}


def serving(begin: Begin, port: int, origin: ScriptedOrigin, **options: Any) -> LiveBalancer:
    """Return a balancer that serves everything on a port."""
    live = begin(**options)
    live.apply(tree({"web": f"127.0.0.1:{port}"}, origin.address))
    until(lambda: serves(port), "a served request", 20)
    return live


def status_of(port: int, path: str) -> int:
    return get(("127.0.0.1", port), path).status


def test_an_empty_store_is_ready_and_says_what_to_do(begin: Begin) -> None:
    live = begin()
    document = live.status()
    assert document["ready"]
    assert document["listeners"] == []
    assert document["store"]["kind"] == "embedded"
    live.logged("bascule apply")


def test_what_is_put_is_in_force_in_every_worker(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    answer = live.put("frontends/more", route("/more", "none"))
    assert live.states()["frontends/more"]["state"] == "waiting"
    document = live.status()
    assert document["store_revision"] == answer["revision"]
    assert [worker["revision"] for worker in document["workers"]] == [document["revision"]] * 2
    assert document["objects"] == {"waiting": 1, "quarantined": 0, "held": 0, "stored": 5}


def test_no_difference_no_work(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    before = live.status()["revision"]
    live.commit_around([("backends/app", b'{ "connect_timeout": "5s",\n "balance" : "wrr" }')])
    live.commit_around([("frontends/app", b'{"backend":"app","priority":0,"route":"PathPrefix(`/`)"}')])
    revision = live.ask("GET", "/v1/backends/app")[1]["modified"] + 1
    until(lambda: live.status()["store_revision"] >= revision, "both revisions in force")
    assert live.status()["revision"] == before
    live.put("backends/app", {"connect_timeout": "4s"})
    assert live.status()["revision"] == before + 1


def test_a_bad_object_is_quarantined_and_its_last_good_form_serves(
    begin: Begin, port: int, origin: ScriptedOrigin
) -> None:
    live = serving(begin, port, origin)
    live.commit_around(
        [
            ("frontends/app", b'{"route": "Path(", "backend": "app"}'),
            ("backends/app", b'{"balance": "by feeling", "colour": 1}'),
            ("backends/app/servers/a1", b"\xff\x00"),
            ("frontends/new", b'{"route": "PathPrefix(`/new`)", "backend": "other"}'),
            ("nonsense", b"{}"),
        ]
    )
    for key in ("frontends/app", "backends/app", "backends/app/servers/a1", "nonsense"):
        live.until_state(key, "quarantined")
    assert live.states()["frontends/new"]["state"] == "waiting"
    problems = live.states()["backends/app"]["problems"]
    assert len(problems) == 2
    assert problems[0]["path"] == ["backends", "app", "balance"]
    assert serves(port)
    live.put("frontends/app", route("/"))
    live.put("backends/app", {})
    live.put("backends/app/servers/a1", {"url": f"http://{origin.address}"})
    assert set(live.states()) == {"frontends/new", "nonsense"}
    assert serves(port)


def test_what_waits_comes_into_force_when_it_can(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    live.put("frontends/more", route("/more", "later"))
    live.commit_around([("backends/later/servers/s", f'{{"url": "http://{origin.address}"}}'.encode())])
    live.until_state("backends/later/servers/s", "waiting")
    assert status_of(port, "/more") == 200, "the shorter prefix takes it"
    live.remove("frontends/app")
    assert status_of(port, "/more") == 404
    live.put("backends/later", {})
    assert live.states() == {}
    assert status_of(port, "/more") == 200
    assert status_of(port, "/") == 404
    live.commit_around([("backends/later", None)])
    live.until_state("backends/later/servers/s", "waiting")
    assert live.states()["frontends/more"]["state"] == "waiting"
    live.put("backends/later", {})
    assert status_of(port, "/more") == 200


def test_listeners_come_and_go(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    other = free_port()
    with Load(port, clients=2) as load:
        load.more(20)
        live.put("listeners/more", {"address": f"127.0.0.1:{other}"})
        until(lambda: serves(other), "the new listener")
        load.more(20)
        live.remove("listeners/more")
        assert not serves(other)
        load.more(20)
    assert load.failures == []


def test_a_listener_that_cannot_be_opened_is_quarantined_until_it_can(
    begin: Begin, port: int, origin: ScriptedOrigin
) -> None:
    live = serving(begin, port, origin)
    with ScriptedOrigin() as squatter:
        live.commit_around([("listeners/taken", f'{{"address": "{squatter.address}"}}'.encode())])
        live.until_state("listeners/taken", "quarantined")
        live.put("frontends/more", route("/more"))
        assert serves(port)
        taken = int(squatter.address.rpartition(":")[2])
    until(lambda: serves(taken), "the listener, once its address is free", 30, 0.1)
    assert live.states() == {}


def test_settings_live_in_the_store(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin, workers=0)
    live.put("settings", {"workers": 3})
    live.until_workers(3)
    live.put("settings", {"workers": 1})
    live.until_workers(1)
    assert serves(port)


def test_many_changes_come_into_force_together(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    before = live.status()
    script = (
        "import asyncio, sys\n"
        "from bascule.store.embedded import EmbeddedStore\n"
        "from bascule.store.interface import Put, Transaction\n"
        "async def main():\n"
        "    store = EmbeddedStore(sys.argv[1])\n"
        "    for n in range(200):\n"
        "        await store.commit(Transaction((Put(f'backends/b{n}', b'{}'),)))\n"
        "    print((await store.read()).revision)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(live.state / "store.sqlite")], capture_output=True, check=True, timeout=60
    )
    until(lambda: live.status()["store_revision"] >= int(ended.stdout), "all of them in force")
    snapshots = live.status()["revision"] - before["revision"]
    assert 1 <= snapshots <= 100, "200 revisions"


def test_a_new_master_goes_on_where_the_old_one_was(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    before = live.status()
    with Load(port, clients=2, keep_alive=True) as load:
        load.more(20)
        os.kill(before["master"]["pid"], signal.SIGKILL)
        live.commit_around([("frontends/more", b'{"route": "PathPrefix(`/more`)", "backend": "app"}')])

        def successor() -> bool:
            try:
                return bool(live.status()["master"]["pid"] != before["master"]["pid"])
            except OSError:
                return False

        until(successor, "a new master", 20, 0.05)
        until(lambda: live.status()["store_revision"] > before["store_revision"], "the change made meanwhile", 20)
        load.more(20)
        live.put("frontends/more", route("/more", "none"))
    assert load.failures == []
    assert {w["pid"] for w in live.status()["workers"]} == {w["pid"] for w in before["workers"]}


def test_a_worker_killed_while_changes_come_serves_the_newest(begin: Begin, port: int, origin: ScriptedOrigin) -> None:
    live = serving(begin, port, origin)
    for number in range(3):
        os.kill(min(live.until_workers(2).values()), signal.SIGKILL)
        live.put(f"frontends/f{number}", route(f"/{number}"))
    live.until_workers(2)
    document = live.status()
    assert [worker["revision"] for worker in document["workers"]] == [document["revision"]] * 2


def test_a_file_with_objects_is_no_place_for_a_store(tmp_path: Path) -> None:
    config = tmp_path / "bascule.toml"
    config.write_text('[store]\ntype = "embedded"\n\n[listeners.web]\naddress = "127.0.0.1:1"\n')
    ended = subprocess.run(
        [sys.executable, "-m", "bascule", "run", "-c", str(config), "--state", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert f"{config}:4: listeners" in ended.stderr
    assert "bascule apply" in ended.stderr


def test_a_file_can_say_where_the_configuration_lives(begin: Begin, tmp_path: Path) -> None:
    config = tmp_path / "place.toml"
    config.write_text(f'[store]\ntype = "embedded"\npath = "{tmp_path}/elsewhere.sqlite"\n\n[settings]\nworkers = 1\n')
    live = begin(workers=0, arguments=["-c", str(config), "--store", "embedded"])
    assert live.status()["store"]["place"] == f"{tmp_path}/elsewhere.sqlite"
    live.until_workers(1)


def test_a_freeze_before_anything_is_in_force_outlives_every_process(begin: Begin, origin: ScriptedOrigin) -> None:
    live, port = begin(), free_port()
    status, answer = live.ask("POST", "/v1/freeze", {"reason": "not yet"})
    assert status == 200, answer

    def frozen() -> bool:
        try:
            document = live.status()
        except (OSError, AssertionError):
            return False
        assert not document["listeners"]
        return document["store"]["connected"] and "not yet" in (document["freeze"] or {}).get("reason", "")

    master = live.status()["master"]["pid"]
    os.kill(master, signal.SIGKILL)  # what has been answered is on disk
    until(lambda: live.recorded() and master not in live.recorded() and frozen(), "a successor that is frozen", 30, 0.05)
    status, answer = live.ask("POST", "/v1/apply", {"tree": tree({"web": f"127.0.0.1:{port}"}, origin.address)})
    assert status == 200, answer
    live.__exit__(None, None, None)  # every process, as a machine that loses its power
    live.start()
    until(frozen, "a new start that is frozen", 30, 0.05)
    status, answer = live.ask("POST", "/v1/unfreeze")
    assert status == 200, answer
    until(lambda: serves(port), "a served request", 20)
