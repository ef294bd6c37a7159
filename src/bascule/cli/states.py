"""`bascule objects`: what of the store is not plainly in force."""

from typing import Any

import click

from bascule.cli.admin import Client
from bascule.cli.output import OK, print_json, problem_text
from bascule.cli.reach import reach


@click.command()
@click.option("--state-is", type=click.Choice(["waiting", "quarantined", "held"]), help="Only those in this state.")
@reach
def objects(client: Client, state_is: str | None, as_json: bool) -> int:
    """Show every stored object that is not plainly in force, and why.

    waiting: it refers to one that is not there yet. quarantined: it has errors, and its last good form stays in force. held: it is
    gone from the store, and a gate keeps it in force until it comes back or `bascule adopt`.

    \b
    bascule objects
    bascule objects --state-is quarantined --json | jq '.items[].key'
    """
    items: list[dict[str, Any]] = []
    query = {"limit": "1000"} | ({"state": state_is} if state_is else {})
    while True:
        page = client.ask("GET", "/v1/objects", query=query)
        items += page["items"]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    if as_json:
        print_json({**page, "items": items})
        return OK
    if page["freeze"] is not None:
        click.echo(f"frozen: {page['freeze']['reason']}", err=True)
    for item in items:
        click.echo(f"{item['key']}: {item['state']}")
        for problem in item["problems"]:
            click.echo(
                "    " + problem_text({**problem, "path": problem.get("path", ())[len(item["key"].split("/")) :]})
            )
    if not items:
        click.echo(f"everything is in force, revision {page['revision']}", err=True)
    return OK
