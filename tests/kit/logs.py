"""Reading the access log strictly: every line whole, every field once and in its place."""

import re
from datetime import UTC, datetime
from pathlib import Path

from kit.waiting import until

FIELDS = (
    "time", "client", "request", "status", "in", "out", "latency_us", "retries",
    "listener", "frontend", "backend", "server", "error", "revision",
)  # fmt: skip
_LINE = re.compile(" ".join(rf'{name}=("[^"]*"|[^ "]+)' for name in FIELDS))
Line = dict[str, str]


def parse(text: str) -> list[Line]:
    """Return the fields of every line; AssertionError for anything that is no whole line of ours."""
    lines = []
    for raw in text.splitlines(keepends=True):
        match = _LINE.fullmatch(raw.removesuffix("\n"))
        assert match is not None, f"no whole line: {raw[:200]!r}"
        assert raw.endswith("\n"), f"half a line: {raw[:200]!r}"
        line = dict(zip(FIELDS, match.groups(), strict=True))
        when = datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - when).total_seconds()) < 600
        lines.append(line)
    return lines


def read(path: Path) -> list[Line]:
    """Return the lines that a log has so far."""
    return parse(path.read_text(encoding="ascii")) if path.exists() else []


def wait_for(path: Path, request: str, count: int = 1) -> list[Line]:
    """Wait for so many lines of a request ("METHOD target", as it stands in the line) and return them."""

    def found() -> list[Line]:
        lines = [line for line in read(path) if line["request"] == f'"{request}"']
        return lines if len(lines) >= count else []

    return until(found, f"{count} lines of {request!r} in {path}")
