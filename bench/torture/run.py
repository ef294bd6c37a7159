"""One run: clients, origin, the load balancer, and lanes of events; then everything that was seen, as a report."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.torture import network
from bench.torture.bascule import ASKED, Bascule
from bench.torture.events import Lane, Timeline, shuffled
from bench.torture.peers import PEERS, Peer
from bench.torture.processes import MemoryWatch
from bench.torture.programs import Failure, Origin, Seen, Swarm
from bench.torture.victims import Kill
from kit.waiting import free_port, until

WARM_S = 1.0
TOLD_EVERY_S = 10.0
FAILURES_KEPT = 200
SECOND = 1
"""The target whose listener comes and goes."""


@dataclass(frozen=True)
class Load:
    """How many clients of each kind, and how fast the small requests may come (0: as fast as they can)."""

    clients: Mapping[str, int]
    second: Mapping[str, int] = field(default_factory=dict)
    rate: int = 0


SMALL = Load(
    {"keepalive": 12, "churn": 6, "pipeline": 4, "upload": 4, "download": 4, "websocket": 8, "idle": 16},
    {"keepalive": 2, "churn": 2},
    rate=1500,
)
LARGE = Load(
    {"keepalive": 32, "churn": 16, "pipeline": 8, "upload": 8, "download": 8, "websocket": 32, "idle": 64},
    {"keepalive": 4, "churn": 4},
)
LOADS = {"small": SMALL, "large": LARGE}


def balancer_of(name: str, listeners: Sequence[int], origins: Sequence[int], workers: int, seed: int) -> Bascule | Peer:
    """Return who is tortured, not started yet."""
    if name in PEERS:
        return PEERS[name](listeners, origins, workers=workers)
    return Bascule(listeners, origins, workers=workers, seed=seed)


def ports(count: int) -> list[int]:
    """Return free ports: fixed ones in a network of our own."""
    return list(range(9000, 9000 + count)) if network.private() else [free_port() for _ in range(count)]


def upgrades_document(balancer: Bascule) -> dict[str, Any]:
    """Return what the receipts say together: how many, how long, what became of the connections."""
    balancer.note_receipts()
    receipts = [receipt for receipt in balancer.receipts if receipt["ok"]]
    connections: Counter[str] = Counter()
    for receipt in receipts:
        connections.update(receipt["connections"])
    took_s = sorted(receipt["took_s"] for receipt in receipts)
    return {
        "done": dict(Counter(receipt["kind"] for receipt in receipts)),
        "backs_not_asked_for": [r["reason"] for r in receipts if r["kind"] == "back" and r["reason"] != ASKED],
        "failed_and_tried_again": dict(Counter(balancer.attempts_failed)),
        "took_s": {"median": took_s[len(took_s) // 2], "longest": took_s[-1]} if took_s else {},
        "committed_after_s": max((receipt["committed_after_s"] for receipt in receipts), default=0),
        "connections": dict(connections),
        "memory_both_bytes": max((receipt["memory_both_bytes"] for receipt in receipts), default=0),
    }


def begin_load(swarm: Swarm, load: Load, port: int) -> None:
    """Send the clients off; those of the second target wait until there is one."""
    swarm.target(0, port)
    swarm.rate(load.rate)
    for kind, count in load.clients.items():
        swarm.group(kind, count)
    for kind, count in load.second.items():
        swarm.group(kind, count, SECOND)


class Run:
    """What a run has, from beginning to report."""

    def __init__(self, options: argparse.Namespace) -> None:
        """See `__main__`."""
        self.options = options
        self.seed: int = options.seed
        load = LOADS[options.load]
        self.load = load if options.rate is None else replace(load, rate=options.rate)
        self.timeline = Timeline()
        self.resets_told = 0
        self.began_s = time.monotonic()
        found = ports(7)
        self.listeners, self.origins = found[:3], found[3:]

    def lanes(self, balancer: Bascule | Peer) -> tuple[list[Lane], list[Lane]]:
        """Return the lanes that run to their end, and those that go on meanwhile."""
        options, seed, timeline = self.options, self.seed, self.timeline
        main: list[Lane] = []
        if options.upgrades:
            actions, plan = balancer.upgrades(), balancer.upgrade_plan(options.upgrades, seed, plain=options.plain)
            main.append(Lane(timeline, actions, plan, seed=seed, pause_s=(0.2, options.pause)))
        if isinstance(balancer, Bascule):
            for name, count, action, pause_s in (
                ("worker killed", options.kills, balancer.worker_killed, (0.5, 3.0)),
                ("keeper killed", options.keeper_kills, balancer.keeper_killed, (2.0, 5.0)),
            ):
                if count:
                    main.append(Lane(timeline, {name: action}, [name] * count, seed=seed + 3, pause_s=pause_s))
        beside: list[Lane] = []
        changes = {} if options.no_changes else balancer.changes()
        disturbances = {} if options.no_disturbances else balancer.disturbances()
        for number, (actions, pause_s) in enumerate(((changes, (0.0, 1.5)), (disturbances, (0.2, 4.0)))):
            plan = shuffled(dict.fromkeys(actions, 5), seed + number + 1)
            beside.append(Lane(timeline, actions, plan, seed=seed + number + 1, pause_s=pause_s, endless=True))
        return main, beside

    def finished(self, main: Sequence[Lane], seen: Seen) -> bool:
        """Whether every planned event has happened and there were enough requests and time, or too much time."""
        if self.options.at_most and time.monotonic() - self.began_s > self.options.at_most:
            return True
        enough = seen.requests >= self.options.requests and time.monotonic() - self.began_s >= self.options.seconds
        return enough and not any(lane.running for lane in main)

    def tell(self, seen: Seen, resets: network.ResetWatch) -> None:
        """Print how it goes."""
        failed = f"{seen.failed_requests} failed, {len(resets.seen)} resets"
        for reset in resets.seen[self.resets_told :]:
            during = ", ".join(self.timeline.during(reset.at_s)) or "nothing"
            print(f"  RESET from {reset.source} to {reset.target}, ack {reset.ack}, during: {during}", flush=True)
        self.resets_told = len(resets.seen)
        events = Counter(event.name for event in self.timeline.events)
        told = ", ".join(f"{count} {name}" for name, count in sorted(events.items()))
        print(f"{time.monotonic() - self.began_s:6.0f} s  {seen.requests:,} requests, {failed}; {told}", flush=True)

    def go(self) -> dict[str, Any]:
        """Run and return the report."""
        with ExitStack() as stack:
            origin = stack.enter_context(Origin(self.origins))
            options = self.options
            balancer = balancer_of(options.subject, self.listeners, self.origins, options.workers, self.seed)
            stack.enter_context(balancer)
            swarm = stack.enter_context(Swarm(self.seed))
            balancer.swarm = swarm
            resets = stack.enter_context(network.ResetWatch())
            memory = stack.enter_context(MemoryWatch(balancer.members))
            before = network.counters()
            swarm.on_failure = lambda failure: self.on_failure(failure, balancer.kills)
            begin_load(swarm, self.load, self.listeners[0])
            until(lambda: swarm.seen.requests > 100, "the first requests", 20.0)
            time.sleep(WARM_S)
            self.until_finished(balancer, self.lanes(balancer), swarm, resets)
            seen = swarm.stop()
            after = network.counters()
            outcome = Outcome(seen, resets, network.difference(before, after), balancer.kills, self.timeline)
            document = outcome.document(set(self.listeners), set(self.origins))
            if options.keep or not document["clean"]:
                print(f"log of the load balancer: {self.keep_log(balancer)}", flush=True)
            balancer.stop(30.0)
            if isinstance(balancer, Bascule):
                document |= {"upgrades": upgrades_document(balancer), "oddities": balancer.oddities}
            old = {"gone_s": [round(value, 2) for value in balancer.old_gone_s], "stayed": balancer.old_stayed}
            return {**document, "memory": memory.document(), "old_generations": old, "origin": origin.stop()}

    def keep_log(self, balancer: Bascule | Peer) -> str:
        """Copy the log where it outlives the run."""
        path = f"/tmp/torture-{balancer.name}-{self.seed}.log"
        with open(path, "w", encoding="utf-8") as file:
            file.write(balancer.log_text())
        return path

    def on_failure(self, failure: Failure, kills: Sequence[Kill]) -> None:
        """Show a failure at once, unless its worker was killed."""
        if any(kill.explains(failure) for kill in kills):
            return
        during = ", ".join(self.timeline.during(failure.at_s)) or "nothing"
        print(
            f"  FAILED {failure.kind}: {failure.why} {dict(failure.details)} port {failure.port}; during: {during}",
            flush=True,
        )

    def until_finished(
        self, balancer: Bascule | Peer, lanes: tuple[list[Lane], list[Lane]], swarm: Swarm, resets: network.ResetWatch
    ) -> None:
        """Let the lanes run; say how it goes; end early when too much fails."""
        main, beside = lanes
        for lane in (*main, *beside):
            lane.start()
        told_s = time.monotonic()
        while not self.finished(main, swarm.seen):
            time.sleep(0.1)
            if time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                self.tell(swarm.seen, resets)
                if isinstance(balancer, Bascule):
                    balancer.note_receipts()
            if swarm.seen.failed_requests > self.options.give_up or swarm.process.poll() is not None:
                print("giving up", file=sys.stderr)
                break
        for lane in (*main, *beside):
            lane.stopping.set()
        for lane in (*main, *beside):
            lane.stop()
        self.tell(swarm.seen, resets)


@dataclass
class Outcome:
    """What was seen in a run."""

    seen: Seen
    resets: network.ResetWatch
    kernel: dict[str, int]
    kills: Sequence[Kill]
    timeline: Timeline

    def unexplained(self) -> list[Failure]:
        """Return the failures that are nobody's right: not of a connection whose worker was killed."""
        return [failure for failure in self.seen.failures if not any(kill.explains(failure) for kill in self.kills)]

    def unexplained_resets(self) -> list[network.Reset]:
        """Return the resets that belong to no killed worker."""
        return [reset for reset in self.resets.seen if not any(kill.explains_reset(reset) for kill in self.kills)]

    def document(self, listeners: set[int], origins: set[int]) -> dict[str, Any]:
        """Return the report."""
        summary = self.seen.summary or {}
        unexplained, problems = self.unexplained(), self.timeline.problems()
        failed = self.seen.failed_requests - (len(self.seen.failures) - len(unexplained))
        resets = self.unexplained_resets()
        lost_resets = len(resets) if self.resets.works else self.kernel["OutRsts"]
        return {
            "clean": not failed and not lost_resets and not problems,
            "requests": self.seen.requests,
            "by_kind": self.seen.done,
            "messages": self.seen.messages,
            "failed": failed,
            "failed_by_kind": dict(Counter(failure.kind for failure in unexplained)),
            "failed_by_reason": dict(Counter(failure.why for failure in unexplained)),
            "failures": [
                {**failure.document(), "during": self.timeline.during(failure.at_s)}
                for failure in unexplained[:FAILURES_KEPT]
            ],
            "killed": {
                "times": len(self.kills),
                "connections": sum(len(kill.clients) for kill in self.kills),
                "requests_lost": len(self.seen.failures) - len(unexplained),
            },
            "resets": lost_resets,
            "resets_by_sender": self.resets.by_sender(listeners, origins),
            "resets_seen": [
                {**asdict(reset), "during": self.timeline.during(reset.at_s)} for reset in resets[:FAILURES_KEPT]
            ],
            "kernel": self.kernel,
            "private_network": network.private(),
            "noticed": summary.get("counters", {}),
            "latency_us": summary.get("latency_us", {}),
            "events": self.timeline.document(),
            "problems": problems,
        }
