"""`bascule history` and `bascule rollback`: what was changed by whom, and the way back."""

import time
from typing import Any

import click

from bascule.cli.admin import Client
from bascule.cli.objects import complete_key
from bascule.cli.output import OK, change_text, print_json
from bascule.cli.reach import Writer, reach, write


@click.command()
@click.argument("revision", type=click.IntRange(1), required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@click.option("--before", type=click.IntRange(1), help="Only revisions before this one.")
@reach
def history(client: Client, revision: int | None, limit: int, before: int | None, as_json: bool) -> int:
    """Show what was changed, when, by whom and why; with REVISION, that change with the values before and after.

    Changes made around the load balancer (with etcdctl) have no author.

    \b
    bascule history
    bascule history 17 --json
    """
    if revision is not None:
        record = client.ask("GET", f"/v1/history/{revision}")
        if as_json:
            print_json(record)
        else:
            click.echo(_text(record))
        return OK
    query = {"limit": str(limit)} | ({"before": str(before)} if before else {})
    answer = client.ask("GET", "/v1/history", query=query)
    if as_json:
        print_json(answer)
    elif answer["items"] or answer["actions"]:
        # A change made around us has no time: it stays where its revision is.
        lines, actions = [], list(answer["actions"])
        for record in answer["items"]:
            while actions and record["at_s"] and actions[0]["at_s"] > record["at_s"]:
                lines.append(_action_text(actions.pop(0)))
            lines.append(_text(record))
        click.echo("\n".join([*lines, *(map(_action_text, actions) if answer["next"] is None else ())]))
    else:
        click.echo("no changes are recorded", err=True)
    return OK


def _text(record: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["at_s"])) if record["at_s"] else "(time not known)"
    message = f"  {record['message']}" if record["message"] else ""
    lines = [f"revision {record['revision']}  {at}  {record['author'] or '(not through us)'}{message}"]
    for change in record["changes"]:
        lines += [f"  {line}" for line in change_text(change).splitlines()]
    return "\n".join(lines)


def _action_text(action: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(action["at_s"]))
    details = " ".join(f"{name}={value}" for name, value in action["details"].items() if value != "")
    return f"this node  {at}  {action['author']}  {action['action']}  {details}".rstrip()


@click.command()
@click.argument("revision", type=click.IntRange(1))
@click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=complete_key)
@reach
@write
def rollback(writer: Writer, revision: int, keys: tuple[str, ...]) -> int:
    """Restore the state right after REVISION by one new transaction; with KEYs, only these objects and what is below them.

    The history only grows: a rollback can be rolled back. Registered servers are left as they are.

    \b
    bascule history
    bascule rollback 17 --dry-run
    bascule rollback 17 frontends/app -m "the new route was too wide"
    """
    body = {"revision": revision, "keys": [key.strip("/") for key in keys]}
    return writer.show(writer.send("POST", "/v1/rollback", body))
