"""`bascule drain`, `undrain`, `freeze`, `unfreeze` and `adopt`: what keeps traffic well."""

import time
from typing import Any

import click

from bascule.cli.admin import Client
from bascule.cli.output import FAILURE, OK, Failure, print_json, progress
from bascule.cli.reach import Writer, reach, timed, write

_POLL_S = 0.2
_IDLE_LOOKS = 3
"""Looks at the counters in a row that find nothing in flight."""


def _complete_server(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from bascule.cli.objects import complete_key

    backend, slash, _ = incomplete.partition("/")
    begin = f"backends/{incomplete}" if not slash else f"backends/{backend}/servers/{incomplete.partition('/')[2]}"
    found = complete_key(context, _parameter, begin)
    return [key.removeprefix("backends/").replace("/servers/", "/") + ("" if slash else "/") for key in found]


def _path(server: str, action: str) -> str:
    parts = server.strip("/").removeprefix("backends/").replace("/servers/", "/").split("/")
    if len(parts) != 2 or not all(parts):
        raise Failure(f"{server!r} names no server", "write BACKEND/SERVER, such as app/a1")
    return f"/v1/servers/{parts[0]}/{parts[1]}/{action}"


@click.command()
@click.argument("server", metavar="BACKEND/SERVER", shell_complete=_complete_server)
@click.option("--until-idle", is_flag=True, help="Wait, up to --timeout, until nothing is in flight there.")
@reach
@write
def drain(writer: Writer, server: str, until_idle: bool) -> int:
    """Let a server finish what it has and get nothing new. It may be stopped when nothing is in flight there.

    \b
    bascule drain app/a1
    bascule drain app/a1 --until-idle --timeout 60s && systemctl stop app@1
    """
    deadline_s = time.monotonic() + writer.timeout_s
    written = writer.send("POST", _path(server, "drain"))
    if until_idle and not writer.dry_run and written.get("applied"):
        written["in_flight"] = _until_idle(writer.client, _path(server, ""), deadline_s)
    status = writer.show(written)
    if written.get("in_flight"):
        count = written["in_flight"]
        raise Failure(
            f"{count} exchanges are still in flight there after {writer.timeout_s:g} s", "wait longer: --timeout 60s"
        )
    if "in_flight" in written and not writer.as_json:
        click.echo("nothing is in flight there")
    return status


def _until_idle(client: Client, path: str, deadline_s: float) -> int:
    """Wait until a server has nothing in flight; return how many exchanges it has at the end."""
    name = "/".join(path.split("/")[3:5])
    idle = 0
    while True:
        servers = client.ask("GET", "/v1/status")["traffic"]["servers"]
        count = int(next((row["in_flight"] for row in servers if row["id"] == name), 0))
        idle = idle + 1 if not count else 0
        if idle >= _IDLE_LOOKS or time.monotonic() > deadline_s:
            return count
        progress(f"{name}: {count} in flight ...")
        time.sleep(_POLL_S)


@click.command()
@click.argument("server", metavar="BACKEND/SERVER", shell_complete=_complete_server)
@reach
@write
def undrain(writer: Writer, server: str) -> int:
    """Give a server traffic again.

    \b
    bascule undrain app/a1
    """
    return writer.show(writer.send("POST", _path(server, "undrain")))


@click.command()
@click.option("-m", "--message", metavar="TEXT", default="", help="Why; it is shown to everybody who asks.")
@reach
def freeze(client: Client, message: str, as_json: bool) -> int:
    """Keep every change out of force until `bascule unfreeze`. The store can be changed meanwhile; traffic goes on.

    \b
    bascule freeze -m "database migration until 14:00"
    """
    state = client.ask("POST", "/v1/freeze", body={"reason": message})
    if as_json:
        print_json(state)
    else:
        click.echo(f"frozen: {state['reason']}")
        if state.get("remedy"):  # also that it could not be written down, when it could not
            click.echo(f"    {state['remedy']}", err=True)
    return OK


@click.command()
@timed
@reach
def unfreeze(client: Client, timeout_s: float, as_json: bool) -> int:
    """Bring into force what the store says now, through all gates.

    \b
    bascule unfreeze
    """
    return _show_applied(client.ask("POST", "/v1/unfreeze", timeout_s=timeout_s), as_json)


@click.command()
@timed
@reach
def adopt(client: Client, timeout_s: float, as_json: bool) -> int:
    """Accept what the gates hold back: pools that vanished, a store restored to an older state, another cluster.

    See first what it is: `bascule status` names every gate and its reason.

    \b
    bascule status
    bascule adopt
    """
    return _show_applied(client.ask("POST", "/v1/adopt", timeout_s=timeout_s), as_json)


def _show_applied(applied: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(applied)
    elif applied["applied"] and not applied["held"]:
        click.echo(f"revision {applied['revision']} is in force in every worker")
    else:
        for reason in applied["held"]:
            click.echo(f"held: {reason}", err=True)
        click.echo(f"bascule: revision {applied['revision']} is in force, and not all that is stored", err=True)
    return OK if applied["applied"] and not applied["held"] else FAILURE
