"""A load balancer that has nothing to do does next to nothing."""

import time
from pathlib import Path

from kit.origin import ScriptedOrigin
from kit.proxies import BasculeProcess
from kit.waiting import until
from tests.features.test_balance import config, fields

SECONDS = 4
ATTEMPTS = 6
WAKEUPS_MAX_PER_S = 4
"""The master looks at the file once a second; a worker gives its heartbeat every five, and the keeper reads it."""


def wakeups(pids: list[int]) -> int:
    """Return how often the threads of these processes have gone to sleep so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return total


def wakeups_of(proxy: BasculeProcess) -> int:
    """Return how often its processes wake up in some seconds."""
    before = wakeups(proxy.pids())
    time.sleep(SECONDS)
    return wakeups(proxy.pids()) - before


def test_idle_processes_sleep() -> None:
    with ScriptedOrigin() as origin:
        proxy = BasculeProcess(config=config({"a1": fields(origin)}), workers=2)
        with proxy:
            until(lambda: proxy.status()["ready"], "a ready balancer")
            proxy.assert_quiet()
            # Workers import uvloop a moment after they serve; on a busy machine the moment may be long.
            found = [wakeups_of(proxy)]
            while found[-1] > SECONDS * WAKEUPS_MAX_PER_S and len(found) < ATTEMPTS:
                found.append(wakeups_of(proxy))
            assert found[-1] <= SECONDS * WAKEUPS_MAX_PER_S, f"every {SECONDS} s: {found}"
