"""`bascule import vulcand`: an existing vulcand tree as a configuration of ours."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import IO, Any

import click
import msgspec

from bascule.change.validate_store import ENDPOINT_REMEDY, endpoint_valid
from bascule.cli.output import FAILURE, OK, Failure
from bascule.cli.toml import to_toml
from bascule.model.tree import EtcdOptions, tree_to_builtins
from bascule.store.interface import StoreError
from bascule.store.vulcand.convert import Conversion, convert


@click.group(name="import")
def import_group() -> None:
    """Convert the configuration of another load balancer.

    \b
    bascule import vulcand --etcd 10.0.0.1:2379 -o bascule.toml
    """


@import_group.command()
@click.option(
    "--etcd", "endpoints", required=True, metavar="HOST:PORT[,...]", help="Members of the etcd that holds it."
)
@click.option("--prefix", default="/vulcand", show_default=True, help="What its keys begin with.")
@click.option("--username", default="", help="User of etcd; BASCULE_ETCD_PASSWORD or --password-file has the password.")
@click.option("--password-file", default="", metavar="FILE", help="File with the password.")
@click.option("--ca-file", default="", metavar="FILE", help="Certificates of etcd's CA.")
@click.option("--cert-file", default="", metavar="FILE", help="Our certificate.")
@click.option("--key-file", default="", metavar="FILE", help="Its key.")
@click.option("--toml/--json", "as_toml", default=True, help="What to write; TOML unless told.")
@click.option(
    "-o", "--output", default="-", type=click.Path(dir_okay=False, allow_dash=True), help="File; - is stdout."
)
def vulcand(endpoints: str, prefix: str, as_toml: bool, output: str, **credentials: Any) -> int:
    """Convert a vulcand tree in etcd to a configuration that `bascule check` accepts and `bascule apply` takes.

    Nothing in etcd is changed. What has no match is reported on standard error, object by object. Exit status 0 when all of
    the tree is in the output (some settings may have been left out: warnings), 1 when an object is not.

    \b
    bascule import vulcand --etcd 10.0.0.1:2379 -o bascule.toml && bascule check bascule.toml
    """
    options = EtcdOptions(
        endpoints=tuple(part.strip() for part in endpoints.split(",")),
        prefix="/" + prefix.strip("/") if prefix.startswith("/") else prefix.strip("/"),
        **credentials,
    )
    if not all(map(endpoint_valid, options.endpoints)):  # not shown: it may have a password in it
        raise Failure("--etcd is not a list of addresses of etcd members", ENDPOINT_REMEDY)
    try:
        conversion = asyncio.run(_convert(options))
    except StoreError as error:
        raise Failure(str(error), error.remedy) from None
    values = tree_to_builtins(conversion.tree)
    text = to_toml(values) if as_toml else msgspec.json.format(msgspec.json.encode(values), indent=2).decode() + "\n"
    _write(output, text)
    _report(conversion)
    return OK if conversion.complete else FAILURE


async def _convert(options: EtcdOptions) -> Conversion:
    from bascule.store.vulcand.store import VulcandStore  # imports gRPC, which --help need not wait for

    store = VulcandStore(options)
    try:
        reading = await store.read()
        problems = store.problems()
    finally:
        await store.close()
    if not reading.entries and not problems:
        raise Failure(
            f"there is no vulcand tree at {store.place}",
            "give its prefix with --prefix; see what there is with: etcdctl get --prefix --keys-only ''",
        )
    return convert(reading.entries, problems)


def _write(output: str, text: str) -> None:
    if output == "-":
        click.echo(text, nl=False)
        return
    folder = os.path.dirname(os.path.abspath(output))
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, prefix=".bascule-", delete=False) as file:
            _fill(file, text)
        os.replace(file.name, output)
    except OSError as error:
        raise Failure(f"{output} cannot be written: {error.strerror}", "choose another file with -o") from None


def _fill(file: IO[str], text: str) -> None:
    try:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    except OSError:
        os.unlink(file.name)
        raise


def _report(conversion: Conversion) -> None:
    for problem in conversion.problems:
        click.echo(problem.render(), err=True)
    tree = conversion.tree
    errors = sum(not problem.warning for problem in conversion.problems)
    servers = sum(len(backend.servers) for backend in tree.backends.values())
    click.echo(
        f"{len(tree.listeners)} listeners, {len(tree.frontends)} frontends, {len(tree.backends)} backends, {servers} "
        f"servers converted; {errors} objects were not, {len(conversion.problems) - errors} warnings",
        err=True,
    )
