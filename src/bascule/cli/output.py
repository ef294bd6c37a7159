"""What all commands have in common: exit statuses, failures that say what to do, JSON, tables, progress."""

import sys
from collections.abc import Sequence
from typing import IO, Any, Final

import click
import msgspec

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
_WIDTH_MAX: Final = 100


class Failure(click.ClickException):
    """The command could not do its work. `message` says what happened, `remedy` what to do next."""

    exit_code = FAILURE

    def __init__(self, message: str, remedy: str, problems: Sequence[dict[str, Any]] = ()) -> None:
        """`problems` is everything that is wrong with what was sent, as the admin API says it."""
        super().__init__(message)
        self.remedy = remedy
        self.problems = tuple(problems)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print message and remedy, or every problem with its own remedy, on standard error."""
        for problem in self.problems:
            click.echo(problem_text(problem), err=True)
        # The API repeats the first problem behind a colon, for those who see nothing else.
        click.echo(f"bascule: {self.message.split(': ')[0] if self.problems else self.message}", err=True)
        if self.remedy and not self.problems:
            click.echo(f"    {self.remedy}", err=True)

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {"ok": False, "error": self.message, "remedy": self.remedy, "problems": self.problems}


def problem_text(problem: dict[str, Any]) -> str:
    """Return one problem of the API for a person, its remedy below it."""
    place = ":".join(str(part) for part in (problem.get("file"), problem.get("line")) if part)
    warning = "warning: " if problem.get("warning") else ""
    parts = [place, "/".join(map(str, problem.get("path", ()))), warning + str(problem.get("message", ""))]
    text = ": ".join(part for part in parts if part)
    return f"{text}\n    {problem['remedy']}" if problem.get("remedy") else text


def change_text(change: dict[str, Any]) -> str:
    """Return one semantic difference of the API for a person, one line and one more for each field."""
    sign = {"added": "+", "changed": "~", "removed": "-"}.get(str(change.get("action")), "?")
    lines = [f"{sign} {'/'.join(map(str, change.get('path', ())))}"]
    lines += [
        f"    {field['field']}: {compact(field['old'])} -> {compact(field['new'])}"
        for field in change.get("fields", ())
    ]
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """Print a value as indented JSON; msgspec structs and what they hold included."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def compact(value: Any, most: int = 0) -> str:
    """Return a value as JSON on one line, cut at `most` characters."""
    text = msgspec.json.encode(value).decode()
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns two blanks apart; the last one may be long."""
    lines = [[cell.upper() for cell in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def progress(text: str) -> None:
    """Show what is being waited for in one line on standard error, when somebody is there to see it; "" clears it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text[:_WIDTH_MAX]}", nl=False, err=True)
