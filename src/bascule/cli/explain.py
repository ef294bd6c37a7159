"""`bascule explain`: which route a request takes, and why."""

import ipaddress

import click

from bascule.change.explain import Contender, Request, RequestError, contenders, make_request
from bascule.cli.output import FAILURE, OK, Failure, print_json
from bascule.model.tree import Tree
from bascule.store.file import Unloadable, load


def _header(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    headers = []
    for value in values:
        name, colon, text = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} is not a header; write 'Name: value'")
        headers.append((name.strip(), text.strip()))
    return headers


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address") from None


@click.command()
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_header, help="A header.")
@click.option("--client-ip", metavar="IP", callback=_address, help="Address of the client. Default: none.")
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    default="bascule.toml",
    show_default=True,
    help="Configuration, TOML or JSON.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    method: str, url: str, headers: list[tuple[str, str]], client_ip: str | None, file: str, as_json: bool
) -> int:
    """Show which frontend gets a request, with which parameters, and which others its route goes before.

    The compiled matcher itself answers. Exit status 1 when no route takes the request (404) or it would be refused.

    \b
    bascule explain GET http://api.example.com/v2/items
    bascule explain POST /upload -H 'Host: a.com' -H 'X-Tenant: 7' --client-ip 10.1.2.3 -c bascule.toml
    """
    try:
        tree = load(file).tree
        request = make_request(method, url, headers, client_ip)
    except Unloadable:
        raise Failure(f"{file} has errors", f"see them all with: bascule check {file}") from None
    except RequestError as error:
        raise Failure(str(error), "see docs/routing.md for the canonical form of a path") from None
    ranking = contenders(tree, request)
    if as_json:
        print_json({"request": request, "frontend": ranking[0].frontend if ranking else None, "contenders": ranking})
    else:
        click.echo("\n".join(_lines(tree, request, ranking)))
    return OK if ranking else FAILURE


def _lines(tree: Tree, request: Request, ranking: list[Contender]) -> list[str]:
    query = f"?{request.query}" if request.query else ""
    lines = [f"{request.method} {request.host or '(no host)'} {request.path}{query}"]
    if not ranking:
        return [*lines, "  no route takes it: 404", *_nearest(tree)]
    winner = ranking[0]
    servers = len(tree.backends[winner.backend].servers)
    lines += [
        f"  goes to frontend {winner.frontend}, backend {winner.backend} ({servers} server{'' if servers == 1 else 's'})",
        f"    {_route(winner)}",
    ]
    lines += [f"    {name} = {value}" for name, value in winner.params.items()]
    if len(ranking) > 1:
        lines.append("  ahead of")
    for contender in ranking[1:]:
        lines += [f"    {contender.frontend}: {contender.why}", f"      {_route(contender)}"]
    return lines


def _route(contender: Contender) -> str:
    return contender.route + (f"  (priority {contender.priority})" if contender.priority else "")


def _nearest(tree: Tree) -> list[str]:
    count = len(tree.frontends)
    return [f"  {count} frontend{'' if count == 1 else 's'} looked at; a route PathPrefix(`/`) would take what is left"]
