"""Whether there is room for another generation: worker numbers, and descriptors."""

from __future__ import annotations

import os
import resource

from bascule.process.crew import NUMBERS_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.process.lending import Lending

DESCRIPTORS_PER_WORKER = 6
"""Its two links and their other ends, the listener of its test, and a way to hand connections over."""
DESCRIPTORS_SPARE = 40
PLENTY = 1 << 20


def shortage(lending: Lending, workers: int, *, one_rests: bool) -> tuple[str, str] | None:
    """Return what there is too little of to start so many workers beside all there are, and what to do; None if nothing."""
    numbers = sum(len(crew.workers) for crew in lending.crews) + workers
    wanted = DESCRIPTORS_SPARE + DESCRIPTORS_PER_WORKER * workers
    left = descriptors_left()
    if numbers > NUMBERS_MAX:
        what = f"{numbers} workers at once are more than the {NUMBERS_MAX} that the shared regions have room for"
        return what, "end the probation first: bascule upgrade --finish" if one_rests else "run fewer workers"
    if left < wanted:
        what = f"the keeper can open {left} more files, and an upgrade needs {wanted}"
        return what, "raise its limit of open files (LimitNOFILE= of the unit, `prlimit --nofile`)"
    return None


def usual_workers() -> int:
    """Return how many workers there are when nobody says: one for each processor, but no more than have room twice, or no
    version could ever be replaced."""
    return min(len(os.sched_getaffinity(0)), NUMBERS_MAX // 2)


def descriptors_left() -> int:
    """Return how many descriptors this process can still open; PLENTY where /proc does not tell."""
    try:
        used = len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return PLENTY
    except OSError:
        return 0  # not even for reading the directory
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PLENTY if soft == resource.RLIM_INFINITY else max(soft - used, 0)
