"""Options by which a command finds its load balancer, and those that every write has."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from bascule.cli.admin import AdminError, Client, RemoteClient, UnixClient
from bascule.cli.output import FAILURE, OK, Failure, change_text, print_json, problem_text, progress
from bascule.cli.running import find_running
from bascule.model.quantities import duration_ms

_GRACE_S: Final = 5.0
"""Added to the time that the server may wait, so that it is the server who says that time is up."""
Command = Callable[..., Any]


def reach(function: Command) -> Command:
    """Give a command the options --state, --admin, --token-file, --ca-file and --json, and the argument `client`.

    A failure of the API becomes the command's failure.
    """

    @functools.wraps(function)
    def command(*, client: Callable[[], Client], **rest: Any) -> Any:
        return function(client=client(), **rest)

    return reach_later(command)


def reach_later(function: Command) -> Command:
    """The same for a command that does not always need a load balancer: `client` is a function that returns the client."""

    @click.option(
        "--state",
        metavar="DIR",
        help="State directory of the load balancer. Default: the only one running, or `run`'s default.",
    )
    @click.option(
        "--admin",
        metavar="URL",
        envvar="BASCULE_ADMIN",
        help="Its admin API on TCP instead, such as https://10.0.0.1:8181; or $BASCULE_ADMIN.",
    )
    @click.option(
        "--token-file",
        metavar="FILE",
        envvar="BASCULE_TOKEN_FILE",
        help="File with the bearer token for --admin; or $BASCULE_TOKEN_FILE, or the token itself in $BASCULE_TOKEN.",
    )
    @click.option("--ca-file", metavar="FILE", help="Certificates (PEM) that sign the one of --admin.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(function)
    def command(
        *, state: str | None, admin: str | None, token_file: str | None, ca_file: str | None, **rest: Any
    ) -> Any:
        try:
            return function(client=functools.partial(make_client, state, admin, token_file, ca_file), **rest)
        except AdminError as error:
            raise Failure(str(error), error.remedy, error.problems) from None
        finally:
            progress("")

    return command


def make_client(state: str | None, admin: str | None, token_file: str | None, ca_file: str | None) -> Client:
    """Return the client that the options of `reach` ask for; Failure, AdminError."""
    if admin and state is None:
        return RemoteClient(admin, _token(token_file), ca_file or "")
    return UnixClient(find_running(state).admin_socket)


def _token(file: str | None) -> str:
    try:
        token = Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get("BASCULE_TOKEN", "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: {error}", "put the token into it, and nothing else") from None
    if not token.isascii() or any(character.isspace() for character in token):  # never shown: it may be another secret
        raise Failure(f"{file or 'BASCULE_TOKEN'} holds no token", "put the token into it, and nothing else")
    return token


# ---- writes


def _timeout(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        milliseconds = duration_ms(value)
    except ValueError:
        milliseconds = 0
    if not 0 < milliseconds <= 60_000:
        raise click.BadParameter(f"{value!r}; write a duration up to 60s, such as 10s")
    return milliseconds / 1000


def timed(function: Command) -> Command:
    """Give a command the option --timeout as `timeout_s`."""
    option = click.option(
        "--timeout",
        "timeout_s",
        metavar="TIME",
        default="10s",
        show_default=True,
        callback=_timeout,
        help="How long to wait.",
    )
    return option(function)


def write(function: Command) -> Command:
    """Give a command the options of a write; it returns what `Writer` returned to it."""

    @click.option("--wait/--no-wait", default=True, show_default=True, help="Until every worker has it in force.")
    @timed
    @click.option("--dry-run", is_flag=True, help="Only show what would change.")
    @click.option("-m", "--message", metavar="TEXT", default="", help="Why, for the history.")
    @functools.wraps(function)
    def command(
        *, client: Client, as_json: bool, wait: bool, timeout_s: float, dry_run: bool, message: str, **rest: Any
    ) -> Any:
        writer = Writer(client, as_json=as_json, wait=wait, timeout_s=timeout_s, dry_run=dry_run, message=message)
        return function(writer=writer, **rest)

    return command


class Writer:
    """Sends writes as the options say, and shows what came of them."""

    def __init__(
        self, client: Client, *, as_json: bool, wait: bool, timeout_s: float, dry_run: bool, message: str
    ) -> None:
        """See `write`."""
        self.client = client
        self.as_json = as_json
        self.dry_run = dry_run
        self._wait = wait and not dry_run
        self.timeout_s = timeout_s
        self._message = message

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one write and return the answer; AdminError."""
        asked = dict(query or {})
        if self._wait:
            asked |= {"wait": "applied", "timeout": f"{round(self.timeout_s * 1000)}ms"}
        if self.dry_run:
            asked["dry_run"] = "true"
        sent = dict(headers or {})
        if self._message:
            text = " ".join(self._message.split())  # a header has one line
            sent["Bascule-Message"] = text.encode("utf-8", "replace").decode("latin-1")
        progress("waiting until it is in force ..." if self._wait else "")
        timeout_s = self.timeout_s + _GRACE_S
        return self.client.ask(method, path, query=asked, body=body, headers=sent, timeout_s=timeout_s)

    def show(self, written: dict[str, Any]) -> int:
        """Print what a write did and return the command's exit status: success is what was asked for, in force."""
        progress("")
        in_force = bool(written.get("applied")) or not self._wait
        if self.as_json:
            print_json(written)
            return OK if in_force else FAILURE
        for problem in written.get("warnings", ()):
            click.echo(problem_text({**problem, "warning": True}), err=True)
        for change in written.get("changes", ()):
            click.echo(change_text(change))
        click.echo(self._summary(written), err=not in_force)
        return OK if in_force else FAILURE

    def _summary(self, written: dict[str, Any]) -> str:
        revision = written.get("revision")
        if self.dry_run:
            return "nothing was changed (dry run)" if written.get("changes") else "nothing would change"
        if not written.get("changes") and written.get("applied"):
            return f"nothing differs; revision {revision} is in force in every worker"
        if written.get("applied"):
            return f"revision {revision} is in force in every worker"
        if not self._wait:
            return f"revision {revision} is stored"
        text = f"bascule: revision {revision} is stored, and not in force in every worker after {self.timeout_s:g} s"
        for reason in written.get("held", ()):
            text += f"\n    held: {reason}"
        if written.get("lagging"):
            text += f"\n    workers that lag: {', '.join(map(str, written['lagging']))}"
        return text + "\n    see: bascule status"
