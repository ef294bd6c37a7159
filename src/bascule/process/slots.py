"""Which worker holds which slot.

A listener has a fixed number S of SO_REUSEPORT sockets; the kernel spreads new connections evenly over the sockets, so
workers must hold equally many of them to get equal shares. 24 is divisible by 1, 2, 3, 4, 6, 8, 12 and 24: with these
worker counts the shares are exact. With 5 workers they differ by one slot in 24. S never changes while a listener
exists: adding or closing a socket re-hashes or resets queued connections, moving a descriptor between processes does
neither.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS_DEFAULT = 24
SLOTS_MAX = 1024


def slot_count(workers: int) -> int:
    """Return how many slots a TCP listener gets: 24, or the next multiple of the worker count above that."""
    if workers <= SLOTS_DEFAULT:
        return SLOTS_DEFAULT
    return min(workers, SLOTS_MAX)


def assign(owners: Sequence[int | None], workers: Sequence[int]) -> list[int | None]:
    """Return the owner of each slot: all slots owned, shares differing by at most one, as few moves as possible.

    `owners` is who holds each slot now (None, or a worker not in `workers`: nobody), `workers` who may hold slots.
    Without workers every slot is unowned; its connections wait in the kernel.
    """
    if not workers:
        return [None] * len(owners)
    held = dict.fromkeys(workers, 0)
    for owner in owners:
        if owner is not None and owner in held:
            held[owner] += 1
    share, larger = divmod(len(owners), len(held))
    # The larger shares go to those that hold most now: nothing else keeps the number of moves minimal.
    by_holding = sorted(held, key=lambda worker: (-held[worker], worker))
    target = {worker: share + (place < larger) for place, worker in enumerate(by_holding)}
    result: list[int | None] = [None] * len(owners)
    for slot, owner in enumerate(owners):
        if owner is not None and target.get(owner):
            result[slot] = owner
            target[owner] -= 1
    takers = [worker for worker in sorted(target) for _ in range(target[worker])]
    for slot, owner in enumerate(result):
        if owner is None:
            result[slot] = takers.pop(0)
    return result
