"""Rate limits for the whole host, and the region they share with concurrency limits: see limits.pxd.

GCRA: ITU-T I.371 (2004) annex A, the virtual scheduling algorithm: a request conforms when TAT <= now + tolerance, and
then TAT becomes max(TAT, now) + interval.

The rate table is an array of cache lines of four cells {tag, tat}, one for each period of a key; where a key's cells lie is
told in limits.pxd. All operations on a cell are single atomic instructions, no process ever waits for another, and a
process killed between any two instructions leaves a cell that is right or stricter by one request:
  - charge: compare-and-swap of the TAT, again when another process was faster;
  - insert: compare-and-swap of the tag of the cell with the smallest TAT (empty 0 < expired < live). A TAT that has
    passed is as good as none, so nothing else needs to change; a live one (the lines are over-full) is set back to now;
  - two processes that insert one period into two cells at once: both look again, the later cell gives way.
A charge that races with the eviction of its own cell is booked on the newcomer: one request, one time.

What a decision costs is one line that comes from memory (150 of 200 ns at 100,000 keys), however many periods it has.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

from bascule.shared.atomic cimport cas64, load64, prefetch, subtract64
from bascule.shared.concurrency cimport limits_acquire, limits_release, release_all
from bascule.shared.limits_layout cimport (
    BYTES_PER_CONCURRENCY_ENTRY, CONCURRENCY_WAYS, HEADER_SIZE, RATES_MAX, SIZE_MIN, WAYS, WORKER_LINE_SIZE, WORKERS_MAX,
    Layout, LimitsHeader, RateCell, RateLine, WorkerLine, scale,
)
from bascule.shared.region cimport Mapping, region_create, region_map, region_unmap
from bascule.shared.siphash cimport siphash13
from bascule.shared.snapshot cimport RateSpec

from bascule.shared.region import RegionError

import os


cdef uint64_t SIZE_MAX = (<uint64_t>1) << 40

cdef enum:
    UNUSED_NS = 1000000000        # see victim_for


cdef uint64_t limits_hash(const LimitTable* table, uint64_t identity, const uint8_t* key,
                          uint32_t length) noexcept nogil:
    return siphash13(table.seed, table.seed_high, identity, key, length)


# ---- rates ----

cdef inline RateLine* home_of(const LimitTable* table, uint64_t key) noexcept nogil:
    return <RateLine*>table.rates + scale(key, table.rate_lines)


cdef inline RateLine* neighbour(RateLine* home, uint32_t distance) noexcept nogil:
    """Itself at distance 0, the other line of its pair at 1, those of the other pair at 2 and 3: groups of four are aligned."""
    return <RateLine*>(<uintptr_t>home ^ distance * sizeof(RateLine))


cdef inline uint32_t lines_of(uint32_t rate_count) noexcept nogil:
    """How many lines may hold a key: so many that four full keys, or eight cells, must meet before one gives way."""
    return 2 if rate_count <= 2 else 4


cdef inline uint64_t tag_of(uint64_t key) noexcept nogil:
    """The tag of the key's period 0; period i has `tag | i`. Never 0.

    The two bits that the shift drops are the line's: keys of one group are less than 2**62 apart, so no two get one tag.
    """
    cdef uint64_t tag = key << 2
    return tag if tag else RATES_MAX


cdef inline void fetch(RateLine* home, uint32_t rate_count) noexcept nogil:
    cdef uint32_t distance
    for distance in range(lines_of(rate_count)):
        prefetch(neighbour(home, distance))


cdef void limits_prefetch(const LimitTable* table, uint64_t key, uint32_t rate_count) noexcept nogil:
    fetch(home_of(table, key), rate_count)


cdef inline void look_up(RateLine* home, uint64_t tag, uint32_t rate_count, RateCell** cells) noexcept nogil:
    """The cells of all periods, NULL for those without one. Of two cells of one period (see insert) everybody takes the first."""
    cdef RateLine* line
    cdef uint64_t period
    cdef uint32_t distance, way, i
    cdef uint32_t missing = rate_count
    for i in range(<uint32_t>RATES_MAX):
        cells[i] = NULL
    for distance in range(lines_of(rate_count)):
        line = neighbour(home, distance)
        for way in range(<uint32_t>WAYS):
            period = load64(&line.cells[way].tag) ^ tag
            if period < rate_count and cells[period] == NULL:
                cells[period] = &line.cells[way]
                missing -= 1
                if missing == 0:
                    return


cdef RateCell* find(RateLine* home, uint64_t tag, uint32_t lines) noexcept nogil:
    """The first cell of a tag of one period."""
    cdef RateLine* line
    cdef uint32_t distance, way
    for distance in range(lines):
        line = neighbour(home, distance)
        for way in range(<uint32_t>WAYS):
            if load64(&line.cells[way].tag) == tag:
                return &line.cells[way]
    return NULL


cdef RateCell* victim_for(RateLine* home, uint64_t tag, RateCell** cells, uint32_t lines, uint64_t now_ns) noexcept nogil:
    """The nearest empty cell; else one of the nearest line that has had no use for one for a while; else the emptiest of all.

    So the periods of a key stay together. The while keeps two busy clients of one line from taking each other's expired cells
    in turn, where the next line has room. The periods of the decision under way (`cells`, at most three) do not give way to each
    other; a second cell of one of them, or one of a period that the limit no longer has, is as any other.
    """
    cdef RateCell* unused = NULL
    cdef RateCell* victim = NULL
    cdef RateCell* cell
    cdef uint64_t seen, tat
    cdef uint64_t least = 0
    cdef uint32_t distance, way
    for distance in range(lines):
        for way in range(<uint32_t>WAYS):
            cell = &neighbour(home, distance).cells[way]
            seen = load64(&cell.tag)
            if seen == 0:
                return cell
            if seen ^ tag < RATES_MAX and cells[seen ^ tag] == cell:
                continue
            tat = load64(&cell.tat)
            if victim == NULL or tat < least:
                victim = cell
                least = tat
        if unused == NULL and least + UNUSED_NS <= now_ns:
            unused = victim
    return unused if unused != NULL else victim


cdef RateCell* insert(LimitTable* table, RateLine* home, uint64_t tag, uint32_t period, RateCell** cells, uint32_t lines,
                      uint64_t now_ns) noexcept nogil:
    """A cell for a period that was not found."""
    cdef RateCell* cell
    cdef RateCell* victim
    cdef uint64_t tat, old_tag
    while True:
        victim = victim_for(home, tag, cells, lines, now_ns)
        old_tag = load64(&victim.tag)
        if old_tag == tag | period:
            return victim
        if not cas64(&victim.tag, &old_tag, tag | period):
            cell = find(home, tag | period, lines)
            if cell != NULL:
                return cell
            continue
        tat = load64(&victim.tat)
        if tat > now_ns:
            cas64(&victim.tat, &tat, now_ns)
            if old_tag:
                (<WorkerLine*>table.holder).live_evictions += 1
        cell = find(home, tag | period, lines)
        if cell != NULL and cell != victim:
            old_tag = tag | period
            cas64(&victim.tag, &old_tag, 0)
            return cell
        return victim


cdef inline uint64_t current_tat(uint64_t tat, const RateSpec* rate, uint64_t now_ns) noexcept nogil:
    """The TAT that counts: not before now, and no further ahead than this limit could ever have brought it.

    It is further ahead only when the limit was made stricter or looser meanwhile; then the new one rules from now on.
    """
    cdef uint64_t furthest = now_ns + rate.tolerance_ns + rate.interval_ns
    if tat < now_ns:
        return now_ns
    return tat if tat < furthest else furthest


cdef inline void decide_refused(RateDecision* decision, const RateSpec* rate, uint64_t tat,
                                uint64_t now_ns) noexcept nogil:
    """Of the periods that refuse, the one that does so longest decides."""
    cdef uint64_t wait_ns = tat - rate.tolerance_ns - now_ns
    if decision.admitted or wait_ns > decision.retry_after_ns:
        decision.admitted = 0
        decision.limit = rate.requests
        decision.remaining = 0
        decision.period_s = rate.period_s
        decision.retry_after_ns = wait_ns
        decision.reset_ns = tat - now_ns


cdef bint charge(RateCell* cell, const RateSpec* rate, uint64_t now_ns, uint64_t* tat) noexcept nogil:
    """Charges one request if the period admits it; `tat` becomes the TAT after it, or the one that refused."""
    cdef uint64_t seen = load64(&cell.tat)
    while True:
        tat[0] = current_tat(seen, rate, now_ns)
        if tat[0] - now_ns > rate.tolerance_ns:
            return False
        tat[0] += rate.interval_ns
        if cas64(&cell.tat, &seen, tat[0]):
            return True


cdef void limits_take(LimitTable* table, uint64_t key, const RateSpec* rates, uint32_t rate_count, uint64_t now_ns,
                      RateDecision* decision) noexcept nogil:
    """All periods or none: looked at first, then charged; a charge that another process overtook is taken back.

    Taking back subtracts the interval that was added, so it never gives back more than was taken; meanwhile another
    process can be refused one request too early, never admitted one too many.
    """
    cdef RateLine* home = home_of(table, key)
    cdef uint64_t tag = tag_of(key)
    cdef RateCell* cells[RATES_MAX]
    cdef uint64_t tat
    cdef uint32_t i, j
    decision.admitted = 1
    if rate_count > RATES_MAX:
        rate_count = RATES_MAX
    fetch(home, rate_count)
    look_up(home, tag, rate_count, cells)
    if rate_count > 1:
        for i in range(rate_count):
            if cells[i] != NULL:
                tat = current_tat(load64(&cells[i].tat), &rates[i], now_ns)
                if tat - now_ns > rates[i].tolerance_ns:
                    decide_refused(decision, &rates[i], tat, now_ns)
        if not decision.admitted:
            return
    for i in range(rate_count):
        if cells[i] == NULL:
            cells[i] = insert(table, home, tag, i, cells, lines_of(rate_count), now_ns)
        if not charge(cells[i], &rates[i], now_ns, &decision.tats[i]):
            for j in range(i):
                if load64(&cells[j].tag) == tag | j:
                    subtract64(&cells[j].tat, rates[j].interval_ns)
            decide_refused(decision, &rates[i], decision.tats[i], now_ns)
            return


cdef void limits_remaining(RateDecision* decision, const RateSpec* rates, uint32_t rate_count,
                           uint64_t now_ns) noexcept nogil:
    """Of the periods that admit, the one with the least left decides."""
    cdef uint64_t left, tat
    cdef uint32_t i
    decision.remaining = 0xFFFFFFFF
    decision.retry_after_ns = decision.reset_ns = 0
    for i in range(rate_count if rate_count < RATES_MAX else <uint32_t>RATES_MAX):
        tat = decision.tats[i]
        left = (now_ns + rates[i].tolerance_ns + rates[i].interval_ns - tat) // rates[i].interval_ns
        if left > rates[i].requests:
            left = rates[i].requests
        if left < decision.remaining or (left == decision.remaining and tat - now_ns > decision.reset_ns):
            decision.limit = rates[i].requests
            decision.remaining = <uint32_t>left
            decision.period_s = rates[i].period_s
            decision.reset_ns = tat - now_ns


# ---- region ----

cdef Layout region_layout(uint64_t size) noexcept nogil:
    """All that is not needed for the rest is rates, the part that floods fill."""
    cdef Layout layout
    cdef uint64_t entries = size // BYTES_PER_CONCURRENCY_ENTRY // CONCURRENCY_WAYS * CONCURRENCY_WAYS
    layout.concurrency_sets = entries // CONCURRENCY_WAYS
    layout.rates_offset = HEADER_SIZE + WORKERS_MAX * WORKER_LINE_SIZE
    layout.holdings_offset = (size - <uint64_t>WORKERS_MAX * entries * 4) & ~<uint64_t>4095
    layout.concurrency_offset = (layout.holdings_offset - entries * 8) & ~<uint64_t>4095
    layout.rate_lines = (layout.concurrency_offset - layout.rates_offset) // sizeof(RateLine) // 4 * 4
    return layout


cdef int check_header(const uint8_t* base, uint64_t size) noexcept nogil:
    cdef const LimitsHeader* header = <const LimitsHeader*>base
    if size < HEADER_SIZE or memcmp(header.magic, b"BSCLLIMT", 8) != 0:
        return LIMITS_BAD_MAGIC
    if header.layout_version != LIMITS_LAYOUT_VERSION:
        return LIMITS_BAD_VERSION
    if header.header_size != HEADER_SIZE or header.size != size or size < SIZE_MIN or size > SIZE_MAX:
        return LIMITS_BAD_SIZE
    return LIMITS_OK


cdef int limits_open(LimitTable* table, uint8_t* base, uint64_t size, uint32_t worker) noexcept nogil:
    cdef const LimitsHeader* header = <const LimitsHeader*>base
    cdef Layout layout
    cdef int fault = check_header(base, size)
    if fault != LIMITS_OK:
        return fault
    if worker >= WORKERS_MAX:
        return LIMITS_BAD_WORKER
    layout = region_layout(size)
    table.base = base
    table.size = size
    table.seed = header.seed[0]
    table.seed_high = header.seed[1]
    table.rates = base + layout.rates_offset
    table.concurrency = base + layout.concurrency_offset
    table.rate_lines = layout.rate_lines
    table.concurrency_sets = layout.concurrency_sets
    table.worker = worker
    table.holdings = base + layout.holdings_offset + worker * layout.concurrency_sets * CONCURRENCY_WAYS * 4
    table.holder = base + HEADER_SIZE + worker * WORKER_LINE_SIZE
    # Reading a page that nobody wrote would allocate it.
    if (<WorkerLine*>table.holder).holds:
        release_all(table)
    return LIMITS_OK


# ---- Python face ----
def inspect(int fd) -> None:
    """Raises RegionError for a descriptor that is no region of this layout; looks and changes nothing."""
    cdef Mapping mapping
    cdef int fault
    region_map(&mapping, fd, False)
    fault = check_header(mapping.base, mapping.size)
    region_unmap(&mapping)
    if fault != LIMITS_OK:
        raise RegionError(describe(fault))


cdef dict FAULT_TEXTS = {
    LIMITS_BAD_MAGIC: "this is no limits region",
    LIMITS_BAD_VERSION: "the limits region has a layout that this version does not know: start a fresh one",
    LIMITS_BAD_SIZE: "the limits region was cut or its header was overwritten: start a fresh one",
    LIMITS_BAD_WORKER: f"the limits region has room for the holdings of {WORKERS_MAX} workers: run fewer workers",
}


def describe(int fault) -> str:
    """What a LimitsFault returned by limits_open means, in words."""
    return FAULT_TEXTS.get(fault, f"unknown fault {fault}")


def create(uint64_t size_bytes=64 << 20, *, bytes seed=None) -> int:
    """A new region of `size_bytes` (1 MiB to 1 TiB): a sparse close-on-exec memfd, which the caller closes.

    64 MiB hold three million rate cells, one for each period of a key whose time has not passed, and 65,536 concurrency keys
    in flight. `seed` (16 bytes) is random when not given. Raises ValueError for a size out of range.
    """
    cdef LimitsHeader header
    cdef Mapping mapping
    size_bytes = (size_bytes + 4095) & ~<uint64_t>4095
    if not SIZE_MIN <= size_bytes <= SIZE_MAX:
        raise ValueError(f"a limits region has 1 MiB to 1 TiB, not {size_bytes} bytes")
    seed = os.urandom(16) if seed is None else seed
    if len(seed) != 16:
        raise ValueError("the seed has 16 bytes")
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, b"BSCLLIMT", 8)
    header.layout_version = LIMITS_LAYOUT_VERSION
    header.header_size = HEADER_SIZE
    header.size = size_bytes
    memcpy(header.seed, <const char*>seed, 16)
    fd = region_create(b"bascule-limits", size_bytes)
    region_map(&mapping, fd, True)
    memcpy(mapping.base, &header, sizeof(header))
    region_unmap(&mapping)
    return fd


def rate(uint64_t requests, uint64_t period_ns, uint64_t burst=0) -> tuple:
    """GCRA parameters (interval_ns, tolerance_ns, requests, period_s) of `requests` a period, bursts of `burst`.

    A `burst` of 0 means as many as `requests`. Raises ValueError when nothing could ever pass.
    """
    if requests < 1 or period_ns < 1:
        raise ValueError("a rate needs at least one request in a period of at least a nanosecond")
    interval_ns = max(<uint64_t>1, (period_ns + requests // 2) // requests)
    return interval_ns, interval_ns * ((burst or requests) - 1), requests, (period_ns + 999_999_999) // 1_000_000_000


cdef class Decision:
    """What a rate limit said; see RateDecision in limits.pxd."""

    cdef readonly bint admitted
    cdef readonly uint32_t limit
    cdef readonly uint32_t remaining
    cdef readonly uint32_t period_s
    cdef readonly uint64_t retry_after_ns
    cdef readonly uint64_t reset_ns

    def __bool__(self) -> bool:
        return self.admitted

    def __repr__(self) -> str:
        verdict = "admitted" if self.admitted else f"refused for {self.retry_after_ns} ns"
        return f"<{verdict}, {self.remaining} of {self.limit} left in {self.period_s} s>"


cdef uint32_t fill_rates(rates, RateSpec* specs) except 0:
    cdef uint32_t count = 0
    if not 1 <= len(rates) <= RATES_MAX:
        raise ValueError(f"a limit has 1 to {RATES_MAX} rates, not {len(rates)}")
    for interval_ns, tolerance_ns, requests, period_s in rates:
        if interval_ns < 1:
            raise ValueError("a rate's interval is at least one nanosecond")
        specs[count].interval_ns = interval_ns
        specs[count].tolerance_ns = tolerance_ns
        specs[count].requests = requests
        specs[count].period_s = period_s
        count += 1
    return count


cdef class Limits:
    """One worker's access to a limits region; opening it releases what an earlier worker of that number held."""

    cdef Mapping mapping
    cdef LimitTable table

    def __cinit__(self, int fd, uint32_t worker):
        cdef int fault
        region_map(&self.mapping, fd, True)
        fault = limits_open(&self.table, self.mapping.base, self.mapping.size, worker)
        if fault != LIMITS_OK:
            raise RegionError(describe(fault))

    def __dealloc__(self):
        region_unmap(&self.mapping)

    def hash(self, uint64_t identity, bytes key not None) -> int:
        """The 64-bit key of a middleware's identity and a request's key bytes."""
        return limits_hash(&self.table, identity, <const uint8_t*><const char*>key, len(key))

    def take(self, uint64_t identity, bytes key not None, rates, uint64_t now_ns):
        """Takes one request from every period of `rates` (1 to 4 results of `rate`), or from none: a Decision."""
        cdef RateSpec specs[RATES_MAX]
        cdef RateDecision raw
        cdef uint32_t count = fill_rates(rates, specs)
        cdef Decision decision = Decision.__new__(Decision)
        limits_take(&self.table, self.hash(identity, key), specs, count, now_ns, &raw)
        if raw.admitted:
            limits_remaining(&raw, specs, count, now_ns)
        decision.admitted, decision.limit, decision.remaining = raw.admitted, raw.limit, raw.remaining
        decision.period_s, decision.retry_after_ns, decision.reset_ns = raw.period_s, raw.retry_after_ns, raw.reset_ns
        return decision

    def repeat(self, uint64_t identity, bytes key not None, rates, uint64_t count, uint64_t now_ns, uint64_t step_ns,
               uint64_t keys=1) -> int:
        """Tries `count` times in one compiled loop, `step_ns` apart, and returns how many were admitted.

        With `keys` > 1 the tries go round as many different keys, whose numbers are appended to `key`.
        """
        cdef RateSpec specs[RATES_MAX]
        cdef RateDecision raw
        cdef uint32_t rate_count = fill_rates(rates, specs)
        cdef uint8_t text[64]
        cdef uint32_t length = min(len(key), 48)
        cdef uint64_t hashed, turn = 0, admitted = 0
        memcpy(text, <const char*>key, length)
        with nogil:
            for _ in range(count):
                memcpy(text + length, &turn, 8)
                hashed = limits_hash(&self.table, identity, text, length + 8)
                limits_take(&self.table, hashed, specs, rate_count, now_ns, &raw)
                admitted += raw.admitted
                now_ns += step_ns
                turn = turn + 1 if turn + 1 < keys else 0
        return admitted

    def acquire(self, uint64_t identity, bytes key not None, uint32_t concurrency_max) -> int:
        """A handle for `release`, or -1 when the key is at its maximum."""
        return limits_acquire(&self.table, self.hash(identity, key), concurrency_max)

    def release(self, int64_t handle) -> None:
        """Gives back one admission; a handle that is not held is ignored."""
        limits_release(&self.table, handle)

    @property
    def capacity(self) -> tuple:
        """(rate cells, concurrency entries) of the region."""
        return self.table.rate_lines * WAYS, self.table.concurrency_sets * CONCURRENCY_WAYS

    @property
    def live_evictions(self) -> int:
        """Keys this worker number made the table forget before their time had passed: not 0 asks for more room."""
        return (<WorkerLine*>self.table.holder).live_evictions

    @property
    def uncounted(self) -> int:
        """Requests this worker number admitted past a concurrency limit because the table had no room to count them."""
        return (<WorkerLine*>self.table.holder).uncounted


# The compiled name LimitTable is the struct's; Python knows the class by it.
globals()["LimitTable"] = Limits
