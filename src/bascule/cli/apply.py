"""`bascule apply` and `bascule diff`: whole trees, against a running load balancer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from bascule.admin.endpoint import BODY_BYTES_MAX
from bascule.cli.admin import AdminError, Client
from bascule.cli.files import Source, read_tree
from bascule.cli.output import OK, Failure, change_text, print_json
from bascule.cli.reach import Writer, reach, reach_later, write
from bascule.model.keys import KINDS, SETTINGS


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    metavar="FILE",
    multiple=True,
    required=True,
    help="TOML or JSON; a folder of such files; or - for standard input. May be repeated.",
)
@click.option("--prune", is_flag=True, help="Remove what the files do not name (never settings or registered servers).")
@reach
@write
def apply(writer: Writer, files: tuple[str, ...], prune: bool) -> int:
    """Bring what files say into a running load balancer, in one transaction, and wait until it is in force.

    Objects that the files do not name stay as they are, unless --prune is given. What is equal already is not written.
    With an error nothing is changed, and all errors are shown with their lines.

    \b
    bascule apply -f bascule.toml
    bascule apply -f objects/ --prune --dry-run
    bascule get | jq '.backends.app.servers.a1.weight = 3' | bascule apply -f -
    """
    source = read_tree(files)
    if prune and not any(source.tree.get(name) for name in (SETTINGS, *KINDS)):
        raise Failure(
            "the files name nothing, so --prune would remove everything there is: nothing was changed",
            "name what is to stay; to remove something on purpose: bascule rm KEY",
        )
    return writer.show(_send(writer, source, prune))


def _send(writer: Writer, source: Source, prune: bool) -> dict[str, Any]:
    try:
        return writer.send("POST", "/v1/apply", {"tree": source.tree, "prune": prune})
    except AdminError as error:
        if error.status == 413:
            raise Failure(
                f"the tree is larger than the {BODY_BYTES_MAX >> 20} MiB that go into one transaction",
                "apply it in parts, or start with it: bascule run -c FILE",
            ) from None
        problems = tuple(source.place(problem) for problem in error.problems)
        raise AdminError(str(error), error.remedy, status=error.status, problems=problems) from None


@click.command()
@click.argument("files", metavar="[OLD] NEW", nargs=-1)
@reach_later
def diff(files: tuple[str, ...], as_json: bool, client: Callable[[], Client]) -> int:
    """Show what changes when NEW takes the place of OLD, object by object; without OLD, of what a running load balancer has.

    Comments, order, and defaults written out are no difference. Exit status 0 with or without differences, 1 when a
    file has errors.

    \b
    bascule diff bascule.toml                              against the running load balancer
    bascule diff /etc/bascule/bascule.toml bascule.toml    two files
    """
    if not 1 <= len(files) <= 2:
        raise click.UsageError("name one file (compared with what runs), or two")
    for file in files:
        if not Path(file).exists() and file != "-":
            raise click.UsageError(f"{file} does not exist")
    if len(files) == 1:
        changes = difference_to_running(client(), files[0])
    else:
        from bascule.cli.check import diff_files  # imports the compiler, which the other way does not need

        changes = msgspec.to_builtins(diff_files(*files))
    if as_json:
        print_json(changes)
    elif changes:
        click.echo("\n".join(map(change_text, changes)))
    else:
        click.echo("no difference", err=True)
    return OK


def difference_to_running(client: Client, file: str) -> list[dict[str, Any]]:
    """Return what `apply --prune` of a file would change; AdminError, Failure."""
    source = read_tree((file,))
    body = {"tree": source.tree, "prune": True}
    try:
        written = client.ask("POST", "/v1/apply", query={"dry_run": "true"}, body=body, timeout_s=60)
    except AdminError as error:
        problems = tuple(source.place(problem) for problem in error.problems)
        raise AdminError(str(error), error.remedy, status=error.status, problems=problems) from None
    changes: list[dict[str, Any]] = written["changes"]
    return changes
