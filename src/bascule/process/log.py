"""Log lines of the three processes: logfmt or JSON on standard error, one write per line.

Not `logging`: importing it costs 20 ms of CPU, a keeper's whole start. Lines of all processes go to the same open file,
and a line is one write of less than PIPE_BUF bytes, so that they never mix. No write ever waits: what a full pipe does
not take is dropped, and the next line that it takes says how many.
"""

from __future__ import annotations

import _socket
import os
import stat
import time

from bascule.process import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LINE_BYTES_MAX = 4096
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@+%,[]<>()*")


def nonblocking_standard_error() -> int:
    """Return a descriptor of standard error whose writes do not wait for a reader; of a socket, send() has the flag.

    Non-blocking is a property of the open file, which other processes share: a pipe or terminal is opened anew. Only a
    pipe of another user cannot be; then it is made so for all who have it, because a reader that sleeps must not stop
    the traffic. A file is not opened anew: its position is shared with the log's other lines.
    """
    mode = os.fstat(2).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            if stat.S_ISFIFO(mode):
                os.set_blocking(2, False)
    return os.dup(2)


class StandardError:
    """Standard error as lines go to it: never waits, follows descriptor 2 to wherever it is moved."""

    def __init__(self) -> None:
        """See the class."""
        self._descriptor = -1
        self._place = (0, 0)
        self._is_socket = False
        self._torn = False

    def write(self, data: bytes) -> bool:
        """Write a whole line; False when it was not taken."""
        try:
            self._follow()
            if self._torn:  # half a line stands there: end it, so that this one is not read as its rest
                data = b"\n" + data
            written = self._write(data)
        except OSError:
            return False  # nobody to tell: the log is gone, the traffic is not
        self._torn = written < len(data)
        return not self._torn

    def _follow(self) -> None:
        status = os.fstat(2)
        if (status.st_dev, status.st_ino) == self._place:
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._descriptor = nonblocking_standard_error()
        self._place = (status.st_dev, status.st_ino)
        self._is_socket = stat.S_ISSOCK(status.st_mode)
        self._torn = False

    def _write(self, data: bytes) -> int:
        if not self._is_socket:
            return os.write(self._descriptor, data)
        journal = _socket.socket(fileno=self._descriptor)
        try:
            return journal.send(data, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        finally:
            journal.detach()


class Log:
    """Writes events of one process; `fields` given to the constructor stand on every line."""

    def __init__(self, json: bool = False, **fields: object) -> None:
        """See the class."""
        self.json = json
        self._fields: dict[str, Any] = fields
        self._output = StandardError()
        self._lost = 0

    def info(self, event: str, **fields: object) -> None:
        """Note something that an operator would want to find later."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Note something that works, but not as it should."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Note something that failed; say what was done about it or what to do."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if self._lost and self._output.write(
            self._line("warning", "lines of this log were lost", {"lost": self._lost})
        ):
            self._lost = 0
        if not self._output.write(self._line(level, event, fields)):
            self._lost += 1

    def _line(self, level: str, event: str, fields: dict[str, object]) -> bytes:
        line: dict[str, Any] = {"ts": _timestamp(), "level": level, **self._fields, "msg": event, **fields}
        text = wire.dumps(line) if self.json else " ".join(f"{key}={_logfmt(value)}" for key, value in line.items())
        return text.encode("utf-8", "backslashreplace")[: _LINE_BYTES_MAX - 1] + b"\n"


def place_of(error: BaseException) -> str:
    """Return where an error was raised, as FILE:LINE; empty when it was not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""


def _timestamp() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def _logfmt(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if text and _PLAIN.issuperset(text) else wire.dumps(text)
