"""The compiled engine of one worker: sockets in, sockets out, no Python between."""

class EngineError(RuntimeError):
    """The engine cannot start or adopt; the message says why."""

class UnknownBaseError(EngineError):
    """The snapshot names a routes base that this engine does not have: send it both."""

class Engine:
    """One event loop over all clients and servers of a worker.

    Owner: the worker process; used from one thread. `turn` releases the GIL; everything else is short.
    """

    def __init__(
        self,
        *,
        worker: int,
        statistics_fd: int,
        limits_fd: int = -1,
        verdicts_fd: int = -1,
        memory_bytes: int = 536870912,
        access_log_fd: int = -1,
    ) -> None:
        """Starts the engine as worker number `worker` (0..63).

        statistics_fd, limits_fd, verdicts_fd: descriptors of the shared regions; they may be closed afterwards.
        limits_fd -1: no limits; verdicts_fd -1: no verdicts.
        memory_bytes: see limit_memory.
        access_log_fd: one logfmt line an exchange is written there; -1: off.
        Errors: EngineError, ParserMismatch (bascule.codec.llhttp).
        """

    def fileno(self) -> int:
        """The epoll descriptor: readable when `turn` has work; for loop.add_reader."""

    def turn(self, patience_ms: int = 0) -> None:
        """Handles what is ready; at most some ten milliseconds' worth.

        patience_ms: how long to wait for more, each time, while exchanges are in flight or were just before: an answer is then
        met here, without a way through the caller's loop. 0: never wait.
        """

    def watch(self, fd: int) -> None:
        """Ends a patient turn when this descriptor, which the caller's loop serves, has something to read; until it is closed.

        Errors: OSError.
        """

    def adopt(self, fd: int, base_fd: int = -1) -> int:
        """Verifies and adopts the snapshot behind `fd`; returns its revision. Exchanges under way keep theirs.

        `base_fd` is the routes base that a records image names, -1 when it is that of the snapshot in force: what is
        known is not looked at again. Errors: UnknownBaseError when it is not, EngineError; the snapshot in force stays.
        """

    def lend(self, listener_id: str, slot: int, fd: int) -> None:
        """Accepts from a listening socket from now on; takes ownership of `fd`. Lending a held slot again changes nothing."""

    def take_back(self, listener_id: str, slot: int) -> bool:
        """Stops accepting from a slot and closes this process's descriptor of it; False if it was not held."""

    def limit_memory(self, memory_bytes: int) -> None:
        """Sets the budget: from 3/4 of it on idle connections are closed, from 7/8 on requests are answered 503."""

    def log_to(self, fd: int) -> None:
        """Continues the access log in another file (kept as a duplicate); -1 turns it off."""

    def bequeath(self, fd: int) -> None:
        """Gives idle clients and tunnels to the engine behind this SEQPACKET socket from now on; takes ownership of `fd`.

        Several heirs are used in turn. One that dies or refuses returns what it had not taken; when the last has gone, an engine
        that rests or drains does so politely, as without heirs. Errors: OSError, EngineError; `fd` is closed.
        """

    def inherit(self, fd: int) -> None:
        """Takes over the connections that arrive on this SEQPACKET socket, until its end; takes ownership of `fd`.

        What it cannot take (memory, descriptors, a listener it does not know) stays with the giver. Errors: as of bequeath.
        """

    def rest(self, deadline_ms: int) -> None:
        """Gives up all slots; clients go to the heirs as soon as nothing of theirs is in flight, pooled connections are closed.

        Without an heir: as drain. At the deadline what is left is cut: 504 where no answer has begun, else a reset.
        """

    def resume(self) -> None:
        """Ends resting: slots may be lent again, heirs get nothing more, clients that are still here stay."""

    @property
    def resting(self) -> bool:
        """True from rest to resume."""

    def drain(self, deadline_ms: int) -> None:
        """Gives up all slots for good; clients go to the heirs as in rest.

        Without an heir exchanges under way finish, with `Connection: close`, and idle connections are closed spread over at most half
        the deadline. At the deadline what is left is cut, as in rest.
        """

    @property
    def drained(self) -> bool:
        """True when drain was called and no client is left."""

    def state(self) -> dict[str, int | bool | None]:
        """revision, snapshots mapped, slots, clients, servers, exchanges, draining, accept_failures, memory_bytes,
        log_lines_lost; of handing over: resting, in_flight (exchanges now), and counted since the start, connections:
        handed_over_idle, handed_over_tunnels, inherited, refused (by an heir), drained_closed (politely), cut_at_deadline;
        taken_back: parcels of up to 100 that came back because their heir died or refused."""

    def live_objects(self) -> dict[str, int]:
        """Objects handed out now (connections, exchanges, buffers, timers) and chunks ever allocated."""

    def close(self) -> None:
        """Closes everything at once; exchanges under way are cut."""
