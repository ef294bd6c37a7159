"""Single stages of a request, each repeated in a compiled loop without the GIL, for the micro-benchmarks in bench/."""

class Stages:
    """One request, parsed and routed, on which each stage can be repeated; no sockets.

    Owner: the benchmark; one thread.
    """

    def __init__(self, *, request: bytes, response: bytes, image: bytes, statistics_fd: int, limits_fd: int) -> None:
        """`request` and `response` are whole heads, `image` a snapshot that routes the request to a server that is up.

        Errors: ValueError for what does not fit together, ParserMismatch (bascule.codec.llhttp).
        """

    def parse(self, calls: int) -> bool:
        """Head to checked request: scanner or llhttp, header index, framing, Host, canonical path. True if it was accepted."""

    def route(self, calls: int) -> bool:
        """The route stage: header slices, match, pin, counters of frontend and backend."""

    def limit(self, calls: int) -> bool:
        """The limits of the request's frontend; True if every one admitted it."""

    def limit_around(self, calls: int, clients: int, begun_before: bool, step_us: int) -> int:
        """The limits of the frontend around composing the head, as in a worker, for so many clients in turn, each `step_us` later.

        Returns how many were admitted. Without `begun_before` the keys are not known before the decision; with no clients
        the head alone is composed, for what the rest costs beside it.
        """

    def balance(self, calls: int) -> bool:
        """One pick of a server; True if there was one."""

    def compose(self, calls: int) -> int:
        """The request head for the server; returns its length in bytes."""

    def respond(self, calls: int) -> int:
        """A response head parsed, its framing decided, the client's head composed; returns its length in bytes."""

    def account(self, calls: int) -> None:
        """All counters and four histograms of one exchange."""

    def rearm(self, calls: int, delay_ms: int) -> None:
        """Setting a timer that is already on the wheel further into the future."""

    def expire(self, timers: int, delay_ms: int) -> int:
        """Hangs `timers` timers with delays of 1 to `delay_ms` ms and lets them expire; returns how many did."""

    def slab(self, calls: int) -> None:
        """One object taken from a slab and put back."""
