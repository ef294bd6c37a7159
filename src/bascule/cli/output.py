"""What all commands have in common: exit statuses, failures that say what to do, JSON."""

from typing import IO, Any, Final

import click
import msgspec

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2


class Failure(click.ClickException):
    """The command could not do its work. `message` says what happened, `remedy` what to do next."""

    exit_code = FAILURE

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: IO[Any] | None = None) -> None:
        """Print both lines on standard error."""
        click.echo(f"bascule: {self.message}", err=True)
        if self.remedy:
            click.echo(f"    {self.remedy}", err=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON; msgspec structs and what they hold included."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
