"""When a new version has proven itself, the keeper becomes that version too: the steps before the execve.

IDLE -renew-> WAITING -nothing under way-> CHECKING -the new version can read the document-> execve
                 ^-------------------------------------something happened-'      `-it cannot-> IDLE
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from bascule.process import succession
from bascule.process.spawn import describe_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.process.log import Log
    from bascule.process.poller import Poller
    from bascule.process.program import Program
    from bascule.process.succession import Document

LOOK_S = 0.05
CHECK_MAX_S = 60.0
"""How long the check may take before it is killed, which counts as its failure."""
IDLE, WAITING, CHECKING = "idle", "waiting", "checking"


class Renewal:
    """The keeper's own upgrade. One at a time."""

    def __init__(
        self, poller: Poller, log: Log, is_quiet: Callable[[], bool], describe: Callable[[], Document]
    ) -> None:
        """`is_quiet` tells whether nothing is under way that only this process knows of; `describe` writes down all else."""
        self.phase = IDLE
        self._poller = poller
        self._log = log
        self._is_quiet = is_quiet
        self._describe = describe
        self._program: Program | None = None
        self._check = 0
        self._checked: Program | None = None

    def begin(self, program: Program) -> None:
        """Become this program as soon as nothing is under way."""
        self._program = program
        if self.phase == IDLE:
            self.phase = WAITING
            self._look()

    def stop(self) -> None:
        """Stay what this is."""
        self._program = None

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a dead child; False when it was not the check."""
        if pid != self._check:
            return False
        self._check = 0
        self.phase = WAITING
        if status and self._program is self._checked:
            self._failed(f"the check ended: {describe_exit(status)}")
        elif self._program is not None and self._program is self._checked and self._is_quiet():
            self._become(self._program)
        else:
            self._look()
        return True

    def _look(self) -> None:
        if self._program is None:
            self.phase = IDLE
            return
        if not self._is_quiet():
            self._poller.call_later(LOOK_S, self._look)
            return
        self._checked = self._program
        memory = -1
        try:
            memory = self._describe().sealed()
            self._check = pid = succession.ask(self._program, memory)
            self.phase = CHECKING
            self._poller.call_later(CHECK_MAX_S, lambda: self._late(pid))
        except OSError as error:
            self._failed(f"{self._program.launcher[0]}: {error.strerror}")
        finally:
            if memory >= 0:
                os.close(memory)

    def _late(self, pid: int) -> None:
        if self._check == pid:  # not reaped yet, so that the pid is still its own
            os.kill(pid, _signal.SIGKILL)

    def _become(self, program: Program) -> None:
        document = self._describe()
        self._log.info("the keeper becomes the version that serves", version=program.version)
        try:
            succession.become(program, document.value["words"], document)
        except OSError as error:
            self._failed(f"{program.launcher[0]}: {error.strerror}")

    def _failed(self, reason: str) -> None:
        self.phase = IDLE
        self._program = None
        self._log.error(
            "the keeper stays the version it is; that does no harm to traffic",
            reason=reason,
            remedy="see what standard error says, and: bascule upgrade again, or restart the service when it suits",
        )
