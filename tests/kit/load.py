"""A closed-loop load of many connections that counts every failure; no measuring instrument."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from kit.client import Address, RawClient
from kit.http1 import Cut, Ended, Malformed, Message

GET = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"


@dataclass
class Result:
    """What a load has seen: whole answers by status, and failures by what happened."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    @property
    def requests(self) -> int:
        """Answers and failures together."""
        return self.statuses.total() + self.failures.total()


class Load:
    """`clients` threads that each ask again as soon as they are answered, from `start` (or `with`) to `stop`.

    `per_connection` requests go over one connection (0: all of them; 1: churn). `check` returns what is wrong with
    an answer, or an empty string. A connection that ends without a byte of the answer is a failure like any other
    unless `forgive_idle_close`: then a persistent connection that was closed between two requests is opened anew, as
    browsers do (RFC 9112 9.3.1).
    """

    def __init__(
        self,
        address: Address,
        request: bytes = GET,
        *,
        clients: int = 8,
        per_connection: int = 0,
        pause_s: float = 0.0,
        forgive_idle_close: bool = False,
        check: Callable[[Message], str] = lambda answer: "" if answer.status == 200 else f"status {answer.status}",
        deadline_s: float = 10.0,
    ) -> None:
        self.address = address
        self.request = request
        self.per_connection = per_connection
        self.pause_s = pause_s
        self.forgive_idle_close = forgive_idle_close
        self.check = check
        self.deadline_s = deadline_s
        self.result = Result()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def start(self) -> "Load":
        """Begin."""
        for thread in self.threads:
            thread.start()
        return self

    def stop(self) -> Result:
        """Let every client end its exchange and return what was seen."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(self.deadline_s + 5)
        return self.result

    def run(self, seconds: float) -> Result:
        """Load for so many seconds."""
        self.start()
        time.sleep(seconds)
        return self.stop()

    def __enter__(self) -> "Load":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _client(self) -> None:
        while not self.stopping.is_set():
            try:
                self._connection()
            except (OSError, Cut, Ended, Malformed) as error:
                with self.lock:
                    self.result.failures[f"{type(error).__name__}: {error}"[:120]] += 1
                time.sleep(0.01)

    def _connection(self) -> None:
        with RawClient(self.address, self.deadline_s) as client:
            with self.lock:
                self.result.connections += 1
            asked = 0
            while not self.stopping.is_set() and (not self.per_connection or asked < self.per_connection):
                try:
                    answer = client.ask(self.request)
                except Ended:
                    if asked and self.forgive_idle_close:
                        return
                    raise
                asked += 1
                self._count(answer)
                if b"close" in (answer.get(b"connection") or b"").lower():
                    return
                if self.pause_s:
                    time.sleep(self.pause_s)

    def _count(self, answer: Message) -> None:
        wrong = self.check(answer)
        with self.lock:
            if wrong:
                self.result.failures[wrong] += 1
            else:
                self.result.statuses[answer.status] += 1
