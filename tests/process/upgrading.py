"""Asking a keeper for an upgrade as `bascule upgrade` does, and what must be as before when it failed."""

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from bascule.process.control_socket import connect
from bascule.process.link import LinkClosedError
from kit.waiting import until
from process.balancer import Balancer
from process.versions import Version

Answer = dict[str, Any]
DEADLINE_S = 60.0


def order(
    balancer: Balancer,
    kind: str = "upgrade",
    *,
    program: Version | str | None = None,
    probation_ms: int | None = None,
    at: Mapping[str, Callable[[], object]] | None = None,
    phases: list[str] | None = None,
    **more: Any,
) -> Answer:
    """Tell the keeper to upgrade (or `back`, `finish`) and return its last answer; `at` does something at a phase."""
    message: Answer = {"type": kind, **more}
    if program is not None:
        message["program"] = [str(program.launcher) if isinstance(program, Version) else program]
    if probation_ms is not None:
        message["probation_ms"] = probation_ms
    link = connect(str(balancer.state))
    try:
        with contextlib.suppress(LinkClosedError):
            link.send(message)
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            received = link.receive()
            if received is None:
                poll.poll(200)
                continue
            answer, _ = received
            if answer["type"] != "progress":
                return answer
            if phases is not None:
                phases.append(answer["phase"])
            if at is not None and answer["phase"] in at:
                at[answer["phase"]]()
    except LinkClosedError:
        return {"type": "closed"}
    finally:
        link.close()
    raise AssertionError(f"no end of {message} within {DEADLINE_S:g} s; the log:\n{balancer.log()}")


class Ordered:
    """The same in a thread of its own; `answer()` waits for the end."""

    def __init__(self, balancer: Balancer, kind: str = "upgrade", **options: Any) -> None:
        self.phases: list[str] = []
        self._answer: Answer | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(balancer, kind, options), daemon=True)
        self._thread.start()

    def _run(self, balancer: Balancer, kind: str, options: dict[str, Any]) -> None:
        try:
            self._answer = order(balancer, kind, phases=self.phases, **options)
        except BaseException as error:
            self._answer = error

    def reached(self, phase: str) -> None:
        """Wait until a phase has begun."""
        until(lambda: phase in self.phases or self._answer is not None, f"phase {phase}", DEADLINE_S)
        assert phase in self.phases, (self.phases, str(self._answer)[-900:])

    def answer(self) -> Answer:
        """Return the last answer."""
        self._thread.join(DEADLINE_S + 5)
        assert isinstance(self._answer, dict), self._answer
        return self._answer


def command(balancer: Balancer, *words: str, program: Version | None = None) -> subprocess.CompletedProcess[str]:
    """Run `bascule upgrade` with these arguments."""
    options = ["--program", str(program.launcher)] if program is not None else []
    line = [*balancer.program, "upgrade", "--state", str(balancer.state), *options, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def receipts(balancer: Balancer) -> list[Answer]:
    """Return the history of upgrades."""
    path = balancer.state / "upgrades.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def upgrade_state(balancer: Balancer) -> Answer:
    """Return what `bascule upgrade --status` says."""
    return order(balancer, "upgrade?")


class Possessions(NamedTuple):
    """What a keeper has: its living children, and what it has open."""

    children: frozenset[int]
    descriptors: int


def possessions(keeper: int) -> Possessions:
    """Look at a keeper from outside."""
    return Possessions(frozenset(children(keeper)), len(os.listdir(f"/proc/{keeper}/fd")))


def children(pid: int) -> dict[int, str]:
    """Return pid and name of every living child of a process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if int(fields[1]) == pid and fields[0] != "Z":
            found[int(entry.name)] = head.partition("(")[2]
    return found


class Untouched:
    """Around an upgrade that fails: the keeper ends up with the same processes, and as many descriptors, as before."""

    def __init__(self, balancer: Balancer) -> None:
        self.keeper = balancer.process.pid
        self.before = possessions(self.keeper)

    def __enter__(self) -> "Untouched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        try:
            until(lambda: possessions(self.keeper) == self.before, "the processes and descriptors of before", 20.0)
        except AssertionError:
            assert possessions(self.keeper) == self.before  # shows the difference
