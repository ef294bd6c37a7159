"""`bascule token`: bearer tokens for the admin API on TCP."""

import time
from typing import Any

import click

from bascule.cli.admin import Client
from bascule.cli.output import OK, print_json, table
from bascule.cli.reach import reach


@click.group()
def token() -> None:
    """Make, list and remove bearer tokens for the admin API on TCP (bascule run --admin ADDRESS).

    Roles: viewer reads; operator also drains and freezes; author also writes objects; admin also has settings and tokens.

    \b
    bascule token add deploy --role author --ttl 30d
    bascule token list
    bascule token rm deploy
    """


@token.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["viewer", "operator", "author", "admin"]), required=True, help="What it may."
)
@click.option("--ttl", metavar="TIME", help="How long it is good, such as 12h or 7d. Default: until it is removed.")
@reach
def add(client: Client, name: str, role: str, ttl: str | None, as_json: bool) -> int:
    """Make a token and print its secret. It is shown this once, and kept nowhere.

    \b
    bascule token add deploy --role author > token; chmod 600 token
    bascule status --admin https://10.0.0.1:8181 --token-file token
    """
    made = client.ask("POST", "/v1/tokens", body={"name": name, "role": role, **({"ttl": ttl} if ttl else {})})
    if as_json:
        print_json(made)
        return OK
    click.echo(made["secret"])
    click.echo(f"token {name}, {role}; this is the only time that its secret is shown", err=True)
    return OK


@token.command(name="list")
@reach
def list_tokens(client: Client, as_json: bool) -> int:
    """List all tokens, without their secrets.

    \b
    bascule token list
    bascule token list --json
    """
    items: list[dict[str, Any]] = client.ask("GET", "/v1/tokens")["items"]
    if as_json:
        print_json(items)
    elif items:
        rows = [
            (item["name"], item["role"], _date(item["created_at_s"]), _date(item["expires_at_s"])) for item in items
        ]
        click.echo(table(("name", "role", "made", "expires"), rows))
    else:
        click.echo("no tokens", err=True)
    return OK


@token.command()
@click.argument("name")
@reach
def rm(client: Client, name: str, as_json: bool) -> int:
    """Remove a token: it opens nothing from now on.

    \b
    bascule token rm deploy
    """
    client.ask("DELETE", f"/v1/tokens/{name}")
    if as_json:
        print_json({"ok": True, "name": name})
    else:
        click.echo(f"token {name} is removed")
    return OK


def _date(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s)) if at_s else "never"
