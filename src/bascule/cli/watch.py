"""`bascule watch`: what happens in a running load balancer, as it happens."""

import time
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from bascule.cli.admin import AdminError, Client
from bascule.cli.output import OK, change_text, compact
from bascule.cli.reach import reach

SILENCE_S: Final = 35.0
"""The server sends something every ten seconds."""
_RETRY_S: Final = 1.0
_TYPES: Final = (
    "change",
    "applied",
    "quarantined",
    "held",
    "frozen",
    "unfrozen",
    "store",
    "worker",
    "upgrade",
    "closed",
    "lost",
)


@click.command()
@click.option("--type", "types", type=click.Choice(_TYPES), multiple=True, help="Only these. May be repeated.")
@click.option("--since", type=click.IntRange(0), help="Begin with the changes after this revision.")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@reach
def watch(client: Client, types: tuple[str, ...], since: int | None, count: int | None, as_json: bool) -> int:
    """Show events as they happen, one a line: changes, revisions in force, what is quarantined, held or frozen, upgrades.

    A connection that is lost is made again, and the changes since then are shown. With --json each line is one object.
    Ctrl-C ends it.

    \b
    bascule watch
    bascule watch --type applied --json | jq --unbuffered .revision
    """
    for number, event in enumerate(_events(client, since, types), 1):
        click.echo(msgspec.json.encode(event).decode() if as_json else _text(event))
        if number == count:
            break
    return OK


def _events(client: Client, since: int | None, types: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield events for ever. Only the first connection may fail."""
    connected = False
    while True:
        try:
            headers = {} if since is None else {"Last-Event-ID": str(since)}
            for line in client.follow("/v1/events", headers=headers, silence_s=SILENCE_S):
                connected = True
                if not line.startswith(b"data: "):
                    continue
                event: dict[str, Any] = msgspec.json.decode(line[6:])
                since = max(since or 0, int(event["revision"]))
                if not types or event["type"] in types:
                    yield event
        except AdminError as error:
            if not connected or error.status in (401, 403):  # its token was removed, or has expired
                raise
            click.echo(f"bascule: {error}; trying again", err=True)
        time.sleep(_RETRY_S)


def _upgrade(data: dict[str, Any]) -> str:
    """Say what happened in an upgrade: bascule.process.receipt.summary, or a phase that has begun."""
    if data.get("phase") != "ended":
        return str(data.get("text") or compact(data, 200))
    what = "switch back" if data["kind"] == "back" else "upgrade"
    if not data["ok"]:
        return f"{what} failed, nothing has changed: {data['failed']}"
    return (
        f"{what} done in {data['took_s']:.2f} s, {data['from']['version']} -> {data['to']['version']}: {data['reason']}"
    )


def _text(event: dict[str, Any]) -> str:
    at_s = event["at_s"]
    at = time.strftime("%H:%M:%S", time.localtime(at_s)) + f".{int(at_s % 1 * 1000):03d}"
    data: dict[str, Any] = dict(event.get("data") or {})
    if event["type"] == "upgrade":
        return f"{at}  upgrade      {_upgrade(data)}"
    changes = data.pop("changes", None)
    lines = [f"{at}  {event['type']:<11}  revision {event['revision']}"]
    details = "  ".join(
        f"{name}={value if isinstance(value, str) else compact(value, 200)}" for name, value in data.items()
    )
    if details:
        lines[0] += f"  {details}"
    if isinstance(changes, list):
        lines += [
            f"    {line}" for change in changes if isinstance(change, dict) for line in change_text(change).splitlines()
        ]
    return "\n".join(lines)
