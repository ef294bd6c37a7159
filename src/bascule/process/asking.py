"""The keeper's side of asking the program on disk what it is (`program.main` is the other)."""

from __future__ import annotations

import os

from bascule.process import program as programs
from bascule.process.spawn import describe_exit, end_asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bascule.process.link import Link
    from bascule.process.poller import Poller
    from bascule.process.program import Program

    Fail = Callable[[str, str], None]


class Asking:
    """One question at a time: `begin`, then either `on_program` or `fail` (reason, remedy) is called, unless `end` is."""

    def __init__(self, poller: Poller, on_program: Callable[[Program], None], fail: Fail) -> None:
        """See the class."""
        self._poller = poller
        self._on_program = on_program
        self._fail = fail
        self._pid = 0
        self._link: Link | None = None
        self._answered = False

    def begin(self, launcher: Sequence[str]) -> None:
        """Start the program."""
        try:
            self._pid, self._link = programs.ask(launcher)
        except OSError as error:
            what = f"{launcher[0]} cannot be started: {error.strerror}"
            self._fail(what, "check that it is installed and executable")
            return
        self._answered = False
        self._poller.watch(self._link, self._received, lambda: None)

    def end(self) -> None:
        """Ask no more. Harmless when repeated."""
        if self._link is not None:
            self._poller.unwatch(self._link)
            self._link.close()
            self._link = None
        pid, self._pid = self._pid, 0
        if pid:
            end_asked(pid)

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a dead child; False when it was not the program that was asked."""
        if pid != self._pid:
            return False
        self._pid = 0
        end_asked(pid)
        if self._link is not None:
            self._poller.drain(self._link)
        self.end()
        if not self._answered:
            self._fail(
                f"the program on disk does not start: {describe_exit(status)}",
                "its own message is on standard error of the keeper (the journal); install it again",
            )
        return True

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if self._answered:
            return
        self._answered = True
        try:
            program = programs.from_message(message)
        except programs.UnusableError as error:
            self._fail(f"the program on disk cannot be used: {error}", "install it again, with all that it depends on")
            return
        self._on_program(program)
