"""The descriptor store of the service manager: who waits in a queue survives every process of ours."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bascule.process.systemd import job_under_way
from kit.client import RawClient, get
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Balancer, Load, gone, serves, tree
from process.manager import Manager, kill_everything

Start = Callable[..., Balancer]
REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that holds sockets."""
    with Manager(tmp_path / "notify") as running:
        yield running


def slots(listener: str, numbers: range) -> set[str]:
    """Return the names of slots."""
    return {f"slot.{number}.{listener}" for number in numbers}


def until_held(manager: Manager, names: set[str]) -> None:
    """Wait until the manager holds just these."""
    try:
        until(lambda: manager.names() == names, f"{len(names)} sockets to be held", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {manager.names() ^ names} differ") from None


def queue(port: int, count: int) -> list[RawClient]:
    """Open connections and send a request on each, without waiting for the answer."""
    return [RawClient(("127.0.0.1", port), 30).send(REQUEST) for _ in range(count)]


def inodes(manager: Manager) -> set[int]:
    """Return which sockets are held."""
    return {os.fstat(descriptor).st_ino for descriptor in manager.held.values()}


def test_a_killed_balancer_loses_no_queue(start: Start, port: int, manager: Manager) -> None:
    balancer = start(workers=2, environment=manager.environment())
    until_held(manager, slots("web", range(24)))
    before = inodes(manager)
    pids = balancer.recorded()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clients = queue(port, 40)
    kill_everything({balancer.process.pid, *pids})
    balancer.wait()
    clients += queue(port, 20)
    again = start(workers=2, **manager.start())
    assert [client.response().status for client in clients] == [200] * 60
    again.until_slots([12, 12])
    until_held(manager, slots("web", range(24)))
    assert inodes(manager) == before
    for client in clients:
        client.close()


def test_a_restart_leaves_the_queues_to_the_next(start: Start, port: int, manager: Manager) -> None:
    balancer = start(workers=1, environment=manager.environment())
    until_held(manager, slots("web", range(24)))
    with Load(port, clients=3) as load:
        load.more(30)
        # What ExecStop= of the unit leaves there, before TERM is sent.
        balancer.state.with_suffix(".job").write_text("123 bascule.service restart running\n")
        balancer.signal(signal.SIGTERM)
        assert balancer.wait() == 0
        clients = queue(port, 20)
        start(workers=1, **manager.start())
        assert [client.response().status for client in clients] == [200] * 20
        load.more(30)
    assert load.failures == []
    until_held(manager, slots("web", range(24)))
    for client in clients:
        client.close()


def test_a_stop_empties_the_queues_and_the_store(start: Start, port: int, manager: Manager) -> None:
    balancer = start(workers=1, environment=manager.environment())
    until_held(manager, slots("web", range(24)))
    balancer.state.with_suffix(".job").write_text("123 bascule.service stop running\n")
    pid = balancer.until_workers(1)[0]
    os.kill(pid, signal.SIGSTOP)
    clients = queue(port, 20)
    balancer.signal(signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert [client.response().status for client in clients] == [200] * 20
    assert balancer.wait() == 0
    until_held(manager, set())
    assert not serves(port)
    for client in clients:
        client.close()


def test_what_is_held_follows_every_change(
    start: Start, port: int, manager: Manager, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    balancer = start(workers=1, environment=manager.environment())
    path, other = tmp_path / "front.sock", free_port()

    def change(listeners: dict[str, str], count: int) -> None:
        balancer.write({**tree(listeners, origin.address), "settings": {"slots": count}})
        assert balancer.reload()[0] == 200

    web = f"127.0.0.1:{port}"
    change({"web": web, "local": f"unix://{path}"}, 24)
    until_held(manager, slots("web", range(24)) | slots("local", range(1)))
    change({"web": web}, 2)
    until_held(manager, slots("web", range(2)))
    change({"www": web}, 2)
    until(lambda: _listeners(manager) == ["www"] * 2, "the slots under their new name", 20)
    change({"www": f"127.0.0.1:{other}"}, 3)
    until(lambda: _listeners(manager) == ["www"] * 3 and not serves(port), "the slots of the new address", 20)
    assert serves(other)


def _listeners(manager: Manager) -> list[str]:
    """Return the listener of each socket that is held."""
    return [name.split(".")[2] for name in manager.names()]


def test_stored_sockets_fit_another_configuration(
    start: Start, port: int, manager: Manager, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    """While the balancer was down a listener has gone, one has another id, and there are to be fewer slots."""
    path, other = tmp_path / "front.sock", free_port()
    before = tree({"web": f"127.0.0.1:{port}", "gone": f"127.0.0.1:{other}", "local": f"unix://{path}"}, origin.address)
    balancer = start(before, workers=1, environment=manager.environment())
    until_held(manager, slots("web", range(24)) | slots("gone", range(24)) | slots("local", range(1)))
    kill_everything({balancer.process.pid, *balancer.recorded()})
    balancer.wait()
    after = {**tree({"www": f"127.0.0.1:{port}", "local": f"unix://{path}"}, origin.address), "settings": {"slots": 3}}
    clients = queue(port, 20)
    balancer = start(after, workers=1, **manager.start())
    assert [client.response().status for client in clients] == [200] * 20
    until_held(manager, slots("www", range(3)) | slots("local", range(1)))
    assert get(str(path)).status == 200
    until(lambda: not serves(other), "the end of what is no longer configured")
    # From here on they are like any other.
    for again in ({**after, "listeners": {"www": after["listeners"]["www"]}}, after):
        balancer.write(again)
        assert balancer.reload()[0] == 200
        until_held(manager, slots("www", range(3)) | (slots("local", range(1, 2)) if again is after else set()))
    assert get(str(path)).status == 200
    for client in clients:
        client.close()


def test_workers_that_outlive_their_keeper_and_the_store_have_the_same_sockets(
    start: Start, port: int, manager: Manager
) -> None:
    """KillMode=process: the next keeper is given the sockets twice, and the workers serve on until it does."""
    balancer = start(workers=2, environment=manager.environment())
    until_held(manager, slots("web", range(24)))
    before = inodes(manager)
    orphans = balancer.recorded()
    with Load(port, clients=3) as load:
        load.more(30)
        balancer.process.kill()
        balancer.wait()
        load.more(30)
        again = start(workers=2, **manager.start())
        until(lambda: all(gone(pid) for pid in orphans), "the end of the orphans", 30)
        load.more(30)
    assert load.failures == []
    until(again.ready, "the admin socket of the new master", 30, 0.05)
    again.until_slots([12, 12])
    until_held(manager, slots("web", range(24)))
    assert inodes(manager) == before
    assert "belongs to no listener" not in again.log()


def test_the_job_of_the_manager_is_read_where_only_root_can_write(tmp_path: Path) -> None:
    """The unit has root write it: in a directory of the service's user, that would follow any link he puts there."""
    state = tmp_path / "bascule"
    state.mkdir()
    (state / "job").write_text("1 bascule.service restart running\n")
    assert job_under_way(str(state)) == ""
    job = tmp_path / "bascule.job"
    job.write_text("1 bascule.service restart running\n")
    assert job_under_way(str(state)) == "restart"
    os.utime(job, (1, 1))
    assert job_under_way(str(state)) == ""
    unit = Path(__file__).parents[2] / "docs" / "bascule.service"
    assert ">%t/bascule.job" in unit.read_text()
