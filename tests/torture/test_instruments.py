"""The instruments of the torture see what there is to see: a failure that went unnoticed would be a proof of nothing."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.torture import network
from bench.torture.events import Lane, Timeline, shuffled
from bench.torture.programs import KINDS, Failure, Origin, Seen, Swarm
from bench.torture.victims import Kill, connections
from kit.http1 import Message
from kit.origin import ScriptedOrigin, answering
from kit.relay import Relay
from kit.waiting import free_port, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin([free_port()]) as running:
        yield running


@contextlib.contextmanager
def swarm_on(port: int, **clients: int) -> Iterator[Swarm]:
    with Swarm(1) as swarm:
        swarm.target(0, port)
        swarm.rate(500)
        for kind, count in clients.items():
            swarm.group(kind, count)
        yield swarm


def reasons(seen: Seen) -> set[str]:
    return {failure.why for failure in seen.failures}


def test_every_kind_of_client_counts_what_the_origin_counts(origin: Origin) -> None:
    with swarm_on(origin.ports[0], **dict.fromkeys(KINDS, 2)) as swarm:
        until(lambda: all(swarm.seen.done[kind] for kind in KINDS if kind != "websocket"), "all kinds", 30.0)
        until(lambda: swarm.seen.messages > 20, "messages", 20.0)
        seen = swarm.stop()
    assert seen.failures == []
    assert seen.summary is not None
    assert seen.summary["counters"] == {"streams opened": 2}
    counted = origin.stop()
    assert counted == {"requests": seen.requests + 2, "heads_bad": 0, "uploads_wrong": 0, "cut": 0, "resets": 0}


@pytest.mark.parametrize("kind", ["upload", "download", "websocket"])
def test_a_broken_connection_is_a_failure(origin: Origin, kind: str) -> None:
    with Relay(origin.ports[0]) as relay, swarm_on(relay.port, **{kind: 3}) as swarm:
        until(lambda: swarm.seen.requests > 3 or swarm.seen.messages > 3, "answers", 20.0)
        swarm.target(0, 0)
        time.sleep(0.1)
        relay.cut()
        until(lambda: swarm.seen.failed[kind], "a failure", 20.0)
    assert {failure.kind for failure in swarm.seen.failures} == {kind}
    assert reasons(swarm.seen) <= {
        "closed inside the body", "reset inside the body", "stream closed", "stream reset", "cannot send",
        "closed before the answer, reused", "reset before the answer, reused",
        "closed before the answer, fresh", "reset before the answer, fresh",
    }  # fmt: skip


def test_a_close_before_the_answer_on_a_reused_connection_is_a_failure() -> None:
    """Although a client may try it again: what is promised is better than that."""
    served = 0

    def once(_: Message) -> bytes:
        nonlocal served
        served += 1
        return b""

    with ScriptedOrigin(answering(once, close=True)) as closing, swarm_on(closing.port, keepalive=1) as swarm:
        until(lambda: swarm.seen.failed["keepalive"] >= 2, "failures", 20.0)
        seen = swarm.stop()
    assert served >= 2
    assert reasons(seen) == {"closed before the answer, fresh"}
    assert all(failure.details["bytes"] == 0 for failure in seen.failures)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz", "wrong byte"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "wrong length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broken chunk"),
        (b"hello\r\n\r\n", "no answer in HTTP"),
    ],
)
def test_a_wrong_answer_is_a_failure(answer: bytes, why: str) -> None:
    with ScriptedOrigin(answering(answer)) as wrong, swarm_on(wrong.port, churn=2) as swarm:
        until(lambda: swarm.seen.failed["churn"] >= 3, "failures", 20.0)
        assert reasons(swarm.stop()) == {why}


def test_a_connection_closed_between_requests_is_counted_but_no_failed_request(origin: Origin) -> None:
    with Relay(origin.ports[0]) as relay, swarm_on(relay.port, idle=4) as swarm:
        until(lambda: swarm.seen.done["idle"] == 4, "one request each", 20.0)
        relay.cut()
        swarm.target(0, 0)
        time.sleep(0.3)
        seen = swarm.stop()
    assert seen.failures == []
    assert seen.summary is not None
    assert seen.summary["counters"] == {"closed while idle": 4}


def test_the_origin_notices_a_changed_upload(origin: Origin) -> None:
    with socket.create_connection(("127.0.0.1", origin.ports[0])) as sock:
        sock.sendall(b"POST /u/5 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        assert sock.recv(1000).endswith(b"\r\n\r\n3 0")
    assert origin.stop()["uploads_wrong"] == 1


RESET = """
import os, socket, struct, time
os.environ["BASCULE_TORTURE_NETWORK"] = "private"
from bench.torture import network
network.enter_private("", [])
before = network.counters()
with network.ResetWatch() as watch, socket.create_server(("127.0.0.1", 9000)) as listener:
    client = socket.create_connection(("127.0.0.1", 9000))
    server, _ = listener.accept()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    end = time.monotonic() + 10
    while not watch.seen and time.monotonic() < end:
        time.sleep(0.01)
    print(watch.by_sender({9000}, set()), network.difference(before, network.counters())["OutRsts"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network of its own")
def test_a_reset_is_seen_and_laid_at_the_right_door() -> None:
    command = ["unshare", "-n", sys.executable, "-c", RESET]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}:{ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout == "{'balancer to client': 1} 1\n", done.stderr


def test_what_a_process_holds_is_known_by_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server, _ = listener.accept()
            with server:
                clients, outgoing = connections(os.getpid(), {port})
    assert len(clients) == 1
    assert clients <= outgoing, "both ends are this process's"


def failure(port: int, at_s: float, age_s: float) -> Failure:
    return Failure("reset", "keepalive", at_s, port, {"dialled_ago_us": int(age_s * 1e6)})


def test_a_kill_explains_only_connections_that_were_its_own() -> None:
    kill = Kill(1, 100.0, frozenset({4000}), frozenset({5000}))
    assert kill.explains(failure(4000, 100.1, 1.0))
    assert not kill.explains(failure(4001, 100.1, 1.0)), "another worker's"
    assert not kill.explains(failure(4000, 99.9, 1.0)), "failed before"
    assert not kill.explains(failure(4000, 103.0, 1.0)), "the port was used again"
    assert kill.explains_reset(network.Reset(100.1, 9000, 4000, True))
    assert kill.explains_reset(network.Reset(100.1, 5000, 9003, True))
    assert not kill.explains_reset(network.Reset(100.1, 9000, 4001, True))


def test_a_seed_decides_the_order() -> None:
    counts = {"a": 5, "b": 5}
    assert shuffled(counts, 1) == shuffled(counts, 1) != shuffled(counts, 2)
    assert sorted(shuffled(counts, 1)) == ["a"] * 5 + ["b"] * 5


def test_an_action_that_goes_wrong_is_a_problem_with_a_name() -> None:
    timeline = Timeline()

    def wrong() -> str:
        raise AssertionError("it did not happen")

    lane = Lane(timeline, {"good": lambda: "done", "wrong": wrong}, ["good", "wrong"], seed=1, pause_s=(0, 0)).start()
    until(lambda: not lane.running, "the lane ends")
    assert timeline.problems() == ["wrong: AssertionError: it did not happen"]
    assert [event.note for event in timeline.events] == ["done", ""]
    assert timeline.during(timeline.events[0].begin_s)[0] == "good"


def test_counters_are_there() -> None:
    found = network.counters()
    assert set(network.MUST_STAY) <= set(found)
    assert network.difference(found, {**found, "OutRsts": found["OutRsts"] + 2})["OutRsts"] == 2
