"""Log lines of the three processes: logfmt or JSON on standard error, one write per line.

Not `logging`: importing it costs 20 ms of CPU, a keeper's whole start. Lines of all processes go to the same open file,
and a line is one write of less than PIPE_BUF bytes, so that they never mix.
"""

from __future__ import annotations

import os
import time

from bascule.process import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LINE_BYTES_MAX = 4096
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@+%,[]<>()*")


class Log:
    """Writes events of one process; `fields` given to the constructor stand on every line."""

    def __init__(self, json: bool = False, **fields: object) -> None:
        """See the class."""
        self.json = json
        self._fields: dict[str, Any] = fields

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
        line: dict[str, Any] = {"ts": _timestamp(), "level": level, **self._fields, "msg": event, **fields}
        text = wire.dumps(line) if self.json else " ".join(f"{key}={_logfmt(value)}" for key, value in line.items())
        data = text.encode("utf-8", "backslashreplace")[: _LINE_BYTES_MAX - 1] + b"\n"
        try:
            os.write(2, data)
        except OSError:
            return  # nobody to tell: the log is gone, the traffic is not


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
