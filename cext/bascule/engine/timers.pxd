"""Deadlines on a hashed wheel (Varghese and Lauck, 1987), one level, lazily moved.

A timer hangs in the slot of the tick it was hung for; pushing its deadline into the future only writes the deadline, and the wheel
re-hangs it when its slot comes round. So a connection that re-arms its idle timeout with every exchange costs one store.

Owner: the object the timer is embedded in. Writer: the engine's thread. A timer must be cancelled before its object is freed.
Ticks count from the engine's start, in 64 bits: they never wrap, so deadlines are compared as plain numbers. Accuracy is one tick
late at most, never early.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    TICK_MS = 16
    WHEEL_SLOTS = 4096            # 65 s a round; later deadlines pass more than one round
    TIMER_IDLE = 0x7FFFFFFFFFFFFFFF  # later than any tick: not armed, not hung, nothing to wake for

cdef struct Timer:                # 40 bytes
    Timer* next
    Timer* previous
    uint64_t deadline             # tick; TIMER_IDLE = not armed
    uint64_t hung                 # tick whose slot it hangs in, TIMER_IDLE = not hung. Invariant: hung <= deadline
    uint8_t kind                  # TimerKind of its owner, for the dispatcher
    uint8_t spare[7]

cdef enum TimerKind:
    TIMER_CONNECTION = 1          # embedded in a Conn
    TIMER_EXCHANGE = 2            # embedded in an Exchange: the whole-exchange deadline
    TIMER_RESUME = 3              # the engine's: accept again after a shortage of descriptors
    TIMER_BEQUEST = 4             # the engine's: offer to heirs again after the kernel had too many descriptors on their way
    TIMER_DEADLINE = 5            # the engine's: of resting or draining, when what is left is cut

cdef struct Wheel:
    Timer heads[4096]             # list heads, circular
    uint64_t occupied[64]         # one bit a slot
    uint64_t now                  # tick up to which everything due has expired
    uint64_t clock                # tick of the present turn; ahead of `now` after a sleep, while events are handled before deadlines
    uint64_t count                # timers hung

ctypedef void (*timer_expired)(void* context, Timer* timer) noexcept nogil

cdef void wheel_init(Wheel* wheel) noexcept nogil
cdef void wheel_hang(Wheel* wheel, Timer* timer) noexcept nogil
cdef void timer_cancel(Wheel* wheel, Timer* timer) noexcept nogil
cdef void wheel_advance(Wheel* wheel, uint64_t tick, timer_expired expired, void* context) noexcept nogil
cdef uint64_t wheel_next(const Wheel* wheel) noexcept nogil  # tick of the next occupied slot, TIMER_IDLE if none


cdef inline void timer_init(Timer* timer, uint8_t kind) noexcept nogil:
    timer.deadline = TIMER_IDLE
    timer.hung = TIMER_IDLE
    timer.kind = kind


cdef inline void timer_set(Wheel* wheel, Timer* timer, uint32_t delay_ms) noexcept nogil:
    """Arms or re-arms; delay 0 disarms without touching the wheel."""
    if delay_ms == 0:
        timer.deadline = TIMER_IDLE
        return
    timer.deadline = wheel.clock + 1 + (delay_ms + TICK_MS - 1) // TICK_MS
    if timer.hung > timer.deadline:  # not hung at all (TIMER_IDLE), or hung too late
        wheel_hang(wheel, timer)


cdef inline void timer_hasten(Wheel* wheel, Timer* timer, uint32_t delay_ms) noexcept nogil:
    """Like timer_set, unless the timer is due sooner."""
    if timer.deadline > wheel.clock + 1 + (delay_ms + TICK_MS - 1) // TICK_MS:
        timer_set(wheel, timer, delay_ms)
