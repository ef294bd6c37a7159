"""The keeper's loop: poll(2), one-shot timers, signals. Everything runs on one thread and never blocks anywhere
else."""

from __future__ import annotations

# `signal` wraps this built-in module in enums, 4 ms of CPU; the numbers are all the keeper needs.
import _signal  # type: ignore[import-not-found]
import os
import select
import time

from bascule.process.link import LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.link import Link

_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Timer:
    """A call to come; `cancel` it, or let it happen once."""

    __slots__ = ("action", "due_s")

    def __init__(self, due_s: float, action: Callable[[], None]) -> None:
        """See the class."""
        self.due_s = due_s
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Make the call not happen. Harmless when it has."""
        self.action = None


class Poller:
    """Links, timers and signals of one process, handled one after another."""

    def __init__(self) -> None:
        """See the class."""
        self._poll = select.poll()
        self._links: dict[int, tuple[Link, Callable[[dict[str, Any], list[int]], None], Callable[[], None]]] = {}
        self._writing: set[int] = set()
        self._others: dict[int, Callable[[], None]] = {}
        self._timers: list[Timer] = []
        self._wakeup, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wakeup, _READABLE)
        self._signals: dict[int, Callable[[], None]] = {}
        self.on_failure: Callable[[Exception], bool] = lambda error: False
        """Something that was to be done here raised: returns whether to go on with the rest."""

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        """Let one thing happen. What it raises concerns it alone, if `on_failure` says so: the rest goes on."""
        try:
            action(*arguments)
        except Exception as error:
            if not self.on_failure(error):
                raise

    def on_signal(self, numbers: Sequence[int], action: Callable[[], None]) -> None:
        """Call `action` in the loop when one of the signals has come."""
        _signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        for number in numbers:
            self._signals[number] = action
            _signal.signal(number, _nothing)

    def watch(
        self, link: Link, on_message: Callable[[dict[str, Any], list[int]], None], on_close: Callable[[], None]
    ) -> None:
        """Hand each message of a link to `on_message` (which owns the descriptors); `on_close` once, when the peer is
        gone."""
        self._links[link.fileno()] = (link, on_message, on_close)
        self._poll.register(link.fileno(), _READABLE)

    def unwatch(self, link: Link) -> None:
        """Forget a link; harmless when it is not watched. To be called before it is closed."""
        if self._links.pop(link.fileno(), None) is not None:
            self._poll.unregister(link.fileno())
            self._writing.discard(link.fileno())

    def watch_descriptor(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` as long as a descriptor that is no link has something to read."""
        self._others[descriptor] = on_readable
        self._poll.register(descriptor, select.POLLIN)

    def unwatch_descriptor(self, descriptor: int) -> None:
        """Forget such a descriptor. To be called before it is closed."""
        if self._others.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def drain(self, link: Link) -> None:
        """Handle what a peer that has died said last; a signal tells of its death before poll(2) tells of that."""
        if link.fileno() in self._links:
            self._serve(link.fileno(), select.POLLIN)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` once, `delay_s` seconds from now."""
        timer = Timer(time.monotonic() + delay_s, action)
        self._timers.append(timer)
        return timer

    def turn(self) -> None:
        """Wait for something to happen, and handle it."""
        self._watch_writable()
        for descriptor, events in self._poll.poll(self._timeout_ms()):
            if descriptor == self._wakeup:
                self._take_signals()
            elif descriptor in self._links:
                self._serve(descriptor, events)
            elif descriptor in self._others:
                self._do(self._others[descriptor])
        self._fire()

    def _watch_writable(self) -> None:
        for descriptor, (link, _, _) in self._links.items():
            if link.wants_write != (descriptor in self._writing):
                self._writing ^= {descriptor}
                self._poll.modify(descriptor, _READABLE | (select.POLLOUT if link.wants_write else 0))

    def _timeout_ms(self) -> float | None:
        self._timers = [timer for timer in self._timers if timer.action is not None]
        if not self._timers:
            return None
        return max(0.0, (min(timer.due_s for timer in self._timers) - time.monotonic()) * 1000)

    def _take_signals(self) -> None:
        for number in os.read(self._wakeup, 512):
            action = self._signals.get(number)
            if action is not None:
                self._do(action)

    def _serve(self, descriptor: int, events: int) -> None:
        link, on_message, on_close = self._links[descriptor]
        try:
            if events & select.POLLOUT:
                link.flush()
            while descriptor in self._links and self._links[descriptor][0] is link:
                received = link.receive()
                if received is None:
                    return
                on_message(*received)
        except (LinkClosedError, ValueError):
            if self._links.get(descriptor, (None,))[0] is link:
                self.unwatch(link)
                self._do(on_close)
        except Exception as error:
            if not self.on_failure(error):
                raise

    def _fire(self) -> None:
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer.due_s <= now]:
            action, timer.action = timer.action, None
            if action is not None:
                self._do(action)


def _nothing(number: int, frame: object) -> None:
    """The wakeup descriptor says which signal came; the handler exists so that it is not ignored."""
