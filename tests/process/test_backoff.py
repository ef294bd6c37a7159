"""Restarts: at once after the first death, then later and later, until a process stays up."""

from bascule.process.backoff import LARGEST_S, STABLE_S, Backoff


def test_delays_double_up_to_a_bound() -> None:
    backoff = Backoff()
    delays = [backoff.died(1.0) for _ in range(12)]
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == LARGEST_S
    assert delays == sorted(delays)


def test_a_process_that_stayed_up_starts_anew() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.died(0.1)
    assert backoff.died(STABLE_S) == 0.0
    assert backoff.died(0.1) == 0.1
