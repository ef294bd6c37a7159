"""When a watch is left for a moment, and when it stays."""

from bascule.store.etcd.pace import HEAP_MAX, MESSAGES, PAUSE_S, RATE_PER_S, WINDOW_S, Pace


def flooded() -> Pace:
    pace = Pace()
    assert [pace.leave(1, 10.0 + n / 1000) for n in range(MESSAGES)] == [False] * (MESSAGES - 1) + [True]
    return pace


def test_slow_messages_come_one_by_one_for_ever() -> None:
    pace = Pace()
    gap_s = WINDOW_S / (MESSAGES - 2)
    assert not any(pace.leave(1, n * gap_s) for n in range(1000))
    assert not pace.heaps


def test_heaps_are_taken_while_they_are_worth_it() -> None:
    pace, now_s = flooded(), 10.0 + (MESSAGES - 1) / 1000
    for _ in range(5):
        now_s += 2 * PAUSE_S
        assert pace.leave(int(RATE_PER_S * 2 * PAUSE_S) + 1, now_s)
        assert pace.heaps
    assert not pace.leave(1, now_s + 2 * PAUSE_S)
    assert not pace.heaps


def test_a_large_heap_is_heard_to_its_end() -> None:
    pace = flooded()
    assert not pace.leave(HEAP_MAX, 10.3)
    assert pace.heaps
    assert pace.leave(HEAP_MAX - 1, 10.4)
