"""What must not end the keeper, on which everything else hangs: a damaged file, an order that makes no sense, a system that
has run out of descriptors, orphans that do not say all, strangers."""

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.process import link as links
from bascule.process import orphans, wire
from bascule.process.control_socket import connect
from bascule.process.link import Link, LinkClosedError
from bascule.process.log import Log
from bascule.process.orphaned import MeetingPlace
from bascule.process.poller import Poller
from bascule.process.program import UnusableError, from_message
from bascule.process.receipt import queues, remember
from kit.waiting import until
from process.balancer import Balancer, serves
from process.test_service_manager import Manager
from process.upgrading import order, receipts, upgrade_state
from process.versions import Version

Start = Callable[..., Balancer]


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\n",
        b"[]\n",
        b"half of a li",
        b'{"totals": null}\n',
        b'{"totals": {"replacements": 3}}\n',
        b'{"totals": {"replacements": {"upgrade failed": "x"}, "connections": null}}\n',
    ],
)
def test_a_damaged_history_is_gone_on_with(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "upgrades.jsonl"
    path.write_bytes(text)
    remember(str(path), {"kind": "upgrade", "ok": False})
    last = wire.loads(path.read_text(errors="replace").splitlines()[-1])
    assert last["totals"]["replacements"] == {"upgrade failed": 1}


def test_totals_go_on(tmp_path: Path) -> None:
    path = str(tmp_path / "upgrades.jsonl")
    for _ in range(2):
        remember(path, {"kind": "upgrade", "ok": True, "connections": {"handed_over_idle": 3}})
    last = wire.loads(Path(path).read_text().splitlines()[-1])
    assert last["totals"] == {"replacements": {"upgrade done": 2}, "connections": {"handed_over_idle": 6}}


class Queue:
    """A listener as far as a receipt looks at it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def queued(self) -> int:
        return self.count


class Queues:
    """The listeners of a keeper, with so many connections in their queues."""

    def __init__(self, counts: dict[tuple[str, str], int]) -> None:
        self.listeners = {key: Queue(count) for key, count in counts.items()}
        self.listening = set(counts)


def test_queues_of_very_many_listeners_fit_into_a_receipt() -> None:
    moving: Any = Queues({("web", "127.0.0.1:80"): 2, ("web", "127.0.0.1:81"): 1, ("api", "127.0.0.1:82"): 0})
    assert queues(moving) == {"web": 3, "api": 0}
    many: Any = Queues({(f"listener-{place:05}-{'x' * 80}", "127.0.0.1:1"): place % 2 for place in range(3000)})
    found = queues(many)
    assert set(found.values()) == {1}
    assert 2 * len(wire.dumps(found)) < links.PACKET_BYTES_MAX - 20_000


@pytest.mark.parametrize("version", ["", "1.0\nlevel=error", "1.0\x1b[2J", "x" * 101, 7])
def test_a_version_is_a_line_of_text(version: object) -> None:
    said = {"type": "program", "launcher": ["/b"], "executable": "/p", "path": "/l", "version": version}
    with pytest.raises(UnusableError):
        from_message(said)
    for good in ("1.0+local.1~rc2", 'a "b" {c}', "1.0-\u00e9"):
        assert from_message({**said, "version": good}).version == good


NONSENSE: list[dict[str, Any]] = [
    {"type": "upgrade", "program": 5},
    {"type": "upgrade", "program": {"path": "x"}},
    {"type": "upgrade", "program": "/no/such"},
    {"type": "back", "reason": ["x"] * 1000},
    {"type": "no such order"},
]


def test_orders_that_make_no_sense(start: Start, port: int) -> None:
    balancer = start(workers=1)
    for message in NONSENSE:
        link = connect(str(balancer.state))
        link.send(message)
        answer = until(link.receive, f"an answer to {message}")
        assert answer is not None
        assert answer[0]["type"] == "failed", (message, answer)
        link.close()
    link = connect(str(balancer.state))
    link.send({"type": "upgrade", "program": ["/no/such"], "probation_ms": -5})
    link.close()
    until(lambda: receipts(balancer), "the receipt of a client that did not wait")
    assert balancer.process.poll() is None
    assert serves(port)


def test_a_reason_is_cut_to_what_every_event_can_hold(start: Start, tmp_path: Path) -> None:
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=1)
    assert order(balancer, program=newer)["receipt"]["ok"]
    receipt = order(balancer, "back", reason="x" * 120_000)["receipt"]
    assert receipt["ok"]
    assert len(receipt["reason"]) == 1000


@pytest.fixture
def without_descriptors() -> Iterator[Callable[[int], None]]:
    """Let a process open nothing more until the test is over."""
    limited: list[tuple[int, tuple[int, int]]] = []

    def limit(pid: int) -> None:
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        limited.append((pid, before))
        used = {int(entry) for entry in os.listdir(f"/proc/{pid}/fd")}
        free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))

    yield limit
    for pid, before in limited:
        if os.path.exists(f"/proc/{pid}"):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_the_watchdog_is_fed_without_descriptors(
    start: Start, tmp_path: Path, port: int, without_descriptors: Callable[[int], None]
) -> None:
    manager = Manager(tmp_path / "notify")
    balancer = start(workers=1, environment={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"})
    until(lambda: manager.heard("WATCHDOG=1"), "the watchdog")
    without_descriptors(balancer.process.pid)
    for _ in range(3):
        manager.messages.clear()
        until(lambda: manager.heard("WATCHDOG=1"), "the watchdog")
    assert balancer.process.poll() is None
    assert serves(port)


def test_the_keeper_ends_in_order_without_descriptors(
    start: Start, port: int, without_descriptors: Callable[[int], None]
) -> None:
    balancer = start(workers=1)
    without_descriptors(balancer.process.pid)
    balancer.signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert "listener closed" in balancer.log()
    assert "Traceback" not in balancer.log()


def test_what_one_handler_raises_is_its_own_affair() -> None:
    poller = Poller()
    seen: list[str] = []

    def fail() -> None:
        raise RuntimeError("a fault")

    poller.call_later(0.0, fail)
    with pytest.raises(RuntimeError):
        poller.turn()
    poller.on_failure = lambda error: seen.append(str(error)) is None
    poller.call_later(0.0, fail)
    poller.call_later(0.0, lambda: seen.append("the next"))
    until(lambda: poller.turn() or len(seen) == 2, "both")
    assert seen == ["a fault", "the next"]


def test_ready_is_said_after_a_reload_that_an_upgrade_overtook(start: Start, tmp_path: Path) -> None:
    """The master that was told to reload rests before it could; systemd would wait for the end of the reload."""
    manager = Manager(tmp_path / "notify")
    newer = Version(tmp_path / "2.0", "2.0.0")
    balancer = start(workers=1, environment={"NOTIFY_SOCKET": str(manager.path)})

    def reload() -> None:
        manager.heard("")
        manager.messages.clear()
        balancer.signal(signal.SIGHUP)
        until(lambda: manager.heard("RELOADING=1"), "the beginning of the reload")
        newer.clear()

    newer.set(lending="hold")
    assert order(balancer, program=newer, at={"lending": reload})["receipt"]["ok"]
    until(lambda: manager.heard("READY=1"), "its end")
    assert upgrade_state(balancer)["version"] == "2.0.0"


# ---- orphans


class Giver:
    """The other end of a link on which an orphan gives back what it has; what it gives is the end of a pipe."""

    def __init__(self) -> None:
        ours, theirs = links.pair()
        self.link, self.taker = Link(ours), Link(theirs)
        self.pipe, self.given = os.pipe()
        os.set_blocking(self.pipe, False)

    def says(self, kind: str, **fields: Any) -> None:
        self.link.send({"type": kind, **fields}, [self.given])

    def greets(self) -> None:
        self.says("orphan", number=0, pid=os.getpid(), revision=1, regions=1, version="1")

    def ends(self) -> None:
        os.close(self.given)
        self.link.close()

    def is_kept(self) -> bool:
        """Tell whether anybody still has what was given."""
        try:
            return os.read(self.pipe, 1) != b""
        except BlockingIOError:
            return True
        finally:
            os.close(self.pipe)


def taken(giver: Giver, pid: int) -> orphans.Orphan | None:
    import time

    return orphans._received(giver.taker, pid, time.monotonic() + 5)


HALVES: dict[str, Callable[[Giver], None]] = {
    "dies in between": lambda giver: giver.says("slots", listener="web", address="127.0.0.1:80", slots=[0]),
    "says slots without descriptors": lambda giver: giver.says("slots", listener="web", address="a", slots=[0, 1]),
    "says no listener": lambda giver: giver.says("slots", slots=[0]),
    "says numbers that are none": lambda giver: giver.says("slots", listener="web", address="a", slots=["x"]),
    "says what is not known": lambda giver: giver.says("no such thing"),
    "greets twice": lambda giver: giver.greets(),
}


@pytest.mark.parametrize("how", HALVES)
def test_nothing_is_kept_of_an_orphan_that(how: str) -> None:
    """A listening socket that somebody keeps and nobody accepts on swallows its share of the connections."""
    giver = Giver()
    giver.greets()
    HALVES[how](giver)
    giver.ends()
    assert taken(giver, os.getpid()) is None
    assert not giver.is_kept()


@pytest.mark.parametrize("greeting", [{}, {"number": 0, "pid": 1, "revision": 1, "regions": 9}, {"revision": "x"}])
def test_a_greeting_that_is_none(greeting: dict[str, Any]) -> None:
    giver = Giver()
    giver.says("orphan", **greeting)
    giver.says("that_is_all")
    giver.ends()
    assert taken(giver, os.getpid()) is None
    assert not giver.is_kept()


def test_an_orphan_is_whom_the_kernel_says(tmp_path: Path) -> None:
    giver = Giver()
    giver.greets()
    giver.says("that_is_all")
    assert taken(giver, os.getppid()) is None
    giver = Giver()
    giver.greets()
    giver.says("that_is_all")
    found = taken(giver, os.getpid())
    assert found is not None
    found.close()
    giver.ends()
    assert not giver.is_kept()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_worker_gives_nothing_to_a_stranger(tmp_path: Path) -> None:
    """In a state directory that was opened to others, and its socket too."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/") and directory != Path("/tmp"):
            directory.chmod(0o755)
    place = MeetingPlace(str(tmp_path), Log(process="test"))
    path = str(tmp_path / f"orphan-{os.getpid()}.sock")
    os.chmod(path, 0o666)
    stranger = os.fork()
    if not stranger:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(path)
        os._exit(0)
    assert os.waitpid(stranger, 0)[1] == 0
    assert place.accept() is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
        link = place.accept()
        assert link is not None
        sock.close()
        with pytest.raises(LinkClosedError):
            link.receive()
        link.close()
