"""`bascule status`, `reload` and `stop`: a running load balancer and its processes."""

import os
import signal
import time
from typing import Any

import click
import msgspec

from bascule.cli.admin import Client, refused
from bascule.cli.output import FAILURE, OK, Failure, print_json
from bascule.cli.reach import reach
from bascule.cli.running import find_running

_STATE = click.option(
    "--state",
    metavar="DIR",
    help="State directory of the load balancer. Default: the only one running, or `run`'s default.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@reach
def status(client: Client, as_json: bool) -> int:
    """Show processes, store, revision, listeners, frontends, backends and servers of a running load balancer.

    \b
    bascule status
    bascule status --state /run/bascule --json | jq .revision
    """
    answer = client.ask("GET", "/v1/status")
    if as_json:
        print_json(answer)
        return OK
    from bascule.admin.status import Status, render_text

    click.echo(render_text(msgspec.convert(answer, Status, strict=False)))
    return OK


@click.command()
@reach
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds to wait for all workers.")
def reload(client: Client, as_json: bool, timeout_s: float) -> int:
    """Make a running load balancer read its configuration again, and wait until every worker has applied it.

    A configuration with errors changes nothing: they are printed, and what was in force stays. Exit status 0 only when
    the new configuration (or the same one) is in force in every worker.

    \b
    bascule reload
    bascule check bascule.toml && bascule reload
    """
    answer = client.call("POST", "/v1/reload", timeout_s=timeout_s)
    outcome = answer.document()
    if outcome is None or "ok" not in outcome:
        raise refused("POST /v1/reload", answer, outcome)
    if as_json:
        print_json(outcome)
    else:
        _print_outcome(outcome)
    return OK if outcome.get("ok") else FAILURE


def _print_outcome(outcome: dict[str, Any]) -> None:
    for problem in outcome.get("problems", []):
        place = ":".join(str(part) for part in (problem.get("file"), problem.get("line")) if part)
        click.echo(": ".join(part for part in (place, problem["message"]) if part), err=True)
        if problem.get("remedy"):
            click.echo(f"    {problem['remedy']}", err=True)
    revision = outcome.get("revision")
    if not outcome.get("ok"):
        click.echo(f"reload failed; revision {revision} stays in force", err=True)
    elif outcome.get("changed"):
        click.echo(f"revision {revision} is in force in every worker")
    else:
        click.echo(f"nothing has changed; revision {revision} stays in force")


@click.command()
@_STATE
@_JSON
@click.option("--now", is_flag=True, help="Do not wait for exchanges to end: cut them.")
@click.option("--timeout", "timeout_s", type=float, help="Seconds to wait for the end. Default: without limit.")
def stop(state: str | None, as_json: bool, now: bool, timeout_s: float | None) -> int:
    """Stop a running load balancer and wait until it has ended.

    Exchanges under way are answered first, up to the drain timeout; idle connections are closed.

    \b
    bascule stop
    bascule stop --now --state /run/bascule
    """
    running = find_running(state)
    started_s = time.monotonic()
    try:
        os.kill(running.pid, signal.SIGINT if now else signal.SIGTERM)
    except PermissionError:
        raise Failure(f"process {running.pid} belongs to another user", "run this as that user, or with sudo") from None
    except ProcessLookupError:
        pass
    while running.alive():
        if timeout_s is not None and time.monotonic() - started_s > timeout_s:
            raise Failure(
                f"process {running.pid} still runs after {timeout_s:g} s: exchanges are under way",
                "wait longer, or cut them with: bascule stop --now",
            )
        time.sleep(0.02)
    took_s = time.monotonic() - started_s
    if as_json:
        print_json({"ok": True, "pid": running.pid, "took_s": round(took_s, 3)})
    else:
        click.echo(f"stopped (pid {running.pid}, {took_s:.1f} s)")
    return OK
