"""The wheel's slow paths: hanging, cancelling, turning. See timers.pxd."""

from bascule.engine.system cimport debug_assert


cdef void wheel_init(Wheel* wheel) noexcept nogil:
    cdef uint32_t i
    for i in range(WHEEL_SLOTS):
        wheel.heads[i].next = &wheel.heads[i]
        wheel.heads[i].previous = &wheel.heads[i]
    for i in range(64):
        wheel.occupied[i] = 0
    wheel.now = 0
    wheel.clock = 0
    wheel.count = 0


cdef inline void unhang(Wheel* wheel, Timer* timer) noexcept nogil:
    cdef uint32_t slot = <uint32_t>(timer.hung & (WHEEL_SLOTS - 1))
    timer.previous.next = timer.next
    timer.next.previous = timer.previous
    timer.hung = TIMER_IDLE
    wheel.count -= 1
    if wheel.heads[slot].next == &wheel.heads[slot]:
        wheel.occupied[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))


cdef void wheel_hang(Wheel* wheel, Timer* timer) noexcept nogil:
    cdef uint32_t slot
    cdef Timer* head
    if timer.hung != TIMER_IDLE:
        unhang(wheel, timer)
    debug_assert(timer.deadline > wheel.now)
    timer.hung = timer.deadline
    slot = <uint32_t>(timer.deadline & (WHEEL_SLOTS - 1))
    head = &wheel.heads[slot]
    timer.next = head
    timer.previous = head.previous
    head.previous.next = timer
    head.previous = timer
    wheel.occupied[slot >> 6] |= <uint64_t>1 << (slot & 63)
    wheel.count += 1


cdef void timer_cancel(Wheel* wheel, Timer* timer) noexcept nogil:
    timer.deadline = TIMER_IDLE
    if timer.hung != TIMER_IDLE:
        unhang(wheel, timer)


cdef void turn_slot(Wheel* wheel, uint64_t tick, timer_expired expired, void* context) noexcept nogil:
    # Bound: the slot's list is moved aside first; what is hung again (later rounds of this slot too) joins the real list.
    cdef Timer* head = &wheel.heads[tick & (WHEEL_SLOTS - 1)]
    cdef Timer due
    cdef Timer* timer
    if head.next == head:
        return
    due.next = head.next
    due.previous = head.previous
    due.next.previous = &due
    due.previous.next = &due
    head.next = head
    head.previous = head
    while due.next != &due:
        timer = due.next
        unhang(wheel, timer)
        if timer.deadline == TIMER_IDLE:
            continue
        if timer.deadline > tick:
            wheel_hang(wheel, timer)
            continue
        timer.deadline = TIMER_IDLE
        expired(context, timer)


cdef void wheel_advance(Wheel* wheel, uint64_t tick, timer_expired expired, void* context) noexcept nogil:
    """Expires everything due up to and including `tick`."""
    cdef uint64_t next_
    if wheel.count == 0:
        wheel.now = tick
        return
    while wheel.now < tick:
        next_ = wheel_next(wheel)
        if next_ > tick:
            wheel.now = tick
            return
        wheel.now = next_
        turn_slot(wheel, next_, expired, context)


cdef extern from *:
    int ctzll "__builtin_ctzll"(unsigned long long value) noexcept nogil


cdef uint64_t wheel_next(const Wheel* wheel) noexcept nogil:
    """The next tick, after now, whose slot is occupied (perhaps by timers of a later round)."""
    cdef uint32_t start = <uint32_t>((wheel.now + 1) & (WHEEL_SLOTS - 1))
    cdef uint32_t word = start >> 6
    cdef uint64_t bits = wheel.occupied[word] & (~<uint64_t>0 << (start & 63))
    cdef uint32_t _i, slot
    if wheel.count == 0:
        return TIMER_IDLE
    for _i in range(65):
        if bits != 0:
            slot = (word << 6) + <uint32_t>ctzll(bits)
            return wheel.now + 1 + ((slot - start) & (WHEEL_SLOTS - 1))
        word = (word + 1) & 63
        bits = wheel.occupied[word]
    return TIMER_IDLE
