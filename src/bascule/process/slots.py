"""How many slots a listener has, and which worker holds which.

The kernel spreads new connections evenly over the SO_REUSEPORT sockets of an address, so workers must hold equally many
of them to get equal shares. 24 is divisible by 1, 2, 3, 4, 6, 8, 12 and 24: with these worker counts the shares are
exact. With 5 workers they differ by one slot in 24. Moving a descriptor between processes costs no connection, adding or
closing a socket takes care (leaving.py): the number of slots follows the number of workers only where it must.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS_DEFAULT = 24
SLOTS_MAX = 1024


def slot_count(workers: int, configured: int = 0) -> int:
    """Return how many slots a TCP listener is to have: as configured (0: 24), and never fewer than workers."""
    return min(max(configured or SLOTS_DEFAULT, workers), SLOTS_MAX)


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


def hold(owners: Sequence[int | None], workers: Sequence[int]) -> list[int | None]:
    """Return the owner of each slot that is about to be closed: who has it keeps it; what is unowned goes round."""
    if not workers:
        return [None] * len(owners)
    present = set(workers)
    return [owner if owner in present else workers[place % len(workers)] for place, owner in enumerate(owners)]
