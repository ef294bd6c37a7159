"""`bascule get`, `set` and `rm`: single objects of a running load balancer."""

import sys
import typing
from pathlib import Path
from typing import Any

import click
import msgspec

from bascule.cli.admin import AdminError, Client
from bascule.cli.output import OK, Failure, compact, print_json, table
from bascule.cli.reach import Writer, make_client, reach, write
from bascule.model.keys import CHILDREN, KINDS, SETTINGS, parse_key, record_type
from bascule.model.problems import did_you_mean

_COLLECTIONS = tuple(KINDS)
_PAGE = "1000"


def complete_key(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete a key by what the load balancer has; nothing when it cannot be asked."""
    collection, slash, _ = incomplete.rpartition("/")
    if not slash:
        return [name + "/" for name in _COLLECTIONS if name.startswith(incomplete)] + [
            name for name in (SETTINGS,) if name.startswith(incomplete)
        ]
    try:
        params = context.params
        client = make_client(params.get("state"), params.get("admin"), params.get("token_file"), params.get("ca_file"))
        page = client.ask("GET", f"/v1/{collection}", query={"limit": _PAGE}, timeout_s=1.0)
    except (AdminError, Failure):
        return []
    return [item["key"] for item in page.get("items", ()) if item["key"].startswith(incomplete)]


@click.command()
@click.argument("key", default="", shell_complete=complete_key)
@click.option("--revision", type=click.IntRange(1), help="As it was after this revision.")
@click.option("--toml", "as_toml", is_flag=True, help="Print the whole tree as TOML.")
@reach
def get(client: Client, key: str, revision: int | None, as_toml: bool, as_json: bool) -> int:
    """Show an object, a list of objects, or the whole tree of a running load balancer.

    An object is printed as its JSON value, a list as a table; --json prints what the admin API answers. Without KEY the
    whole tree is printed, in a form that `bascule apply` reads.

    \b
    bascule get backends/app/servers/a1
    bascule get frontends
    bascule get --toml > bascule.toml
    """
    key = key.strip("/")
    if as_toml and (key or as_json):
        raise click.UsageError("--toml prints the whole tree: leave KEY and --json out")
    at = {"revision": str(revision)} if revision else {}
    if not key:
        answer = client.ask("GET", "/v1/tree", query=at, timeout_s=60)
        if as_toml:
            from bascule.cli.toml import to_toml

            click.echo(to_toml(answer["tree"]), nl=False)
        else:
            print_json(answer if as_json else answer["tree"])
    elif parse_key(key) is not None:
        _print_object(client, key, revision, as_json)
    elif _is_collection(key):
        _print_list(client, key, at, as_json)
    else:
        raise Failure(f"{key!r} is no key", _key_remedy(key))
    return OK


def _is_collection(key: str) -> bool:
    parts = key.split("/")
    return key in KINDS or (len(parts) == 3 and parts[0] in CHILDREN and parts[2] == CHILDREN[parts[0]][0])


def _key_remedy(key: str) -> str:
    near = did_you_mean(key.split("/")[0], [*KINDS, SETTINGS])
    return near or "keys look like backends/app, backends/app/servers/a1, frontends/app, settings"


def _print_object(client: Client, key: str, revision: int | None, as_json: bool) -> None:
    if not revision:
        item = client.ask("GET", f"/v1/{key}")
        print_json(item if as_json else item["value"])
        return
    value: Any = client.ask("GET", "/v1/tree", query={"revision": str(revision)}, timeout_s=60)["tree"]
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        raise Failure(f"there was no {key} at revision {revision}", f"see: bascule history; bascule get {key}")
    print_json({"key": key, "revision": revision, "value": value} if as_json else value)


def _print_list(client: Client, collection: str, at: dict[str, str], as_json: bool) -> None:
    items: list[dict[str, Any]] = []
    query = {"limit": _PAGE, **at}
    while True:
        page = client.ask("GET", f"/v1/{collection}", query=query, timeout_s=60)
        items += page["items"]
        if page["next"] is None:
            break
        query = {"limit": _PAGE, "revision": str(page["revision"]), "after": page["next"]}
    if as_json:
        print_json({"revision": page["revision"], "items": items})
    elif items:
        rows = [
            (item["key"].rpartition("/")[2], item["state"], str(item["modified"]), compact(item["value"], 100))
            for item in items
        ]
        click.echo(table(("id", "state", "revision", "value"), rows))
    else:
        click.echo(f"no {collection}", err=True)


@click.command(name="set")
@click.argument("key", shell_complete=complete_key)
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option(
    "-f",
    "--file",
    "file",
    metavar="FILE",
    help="Put this JSON value in place of the whole object; - is standard input.",
)
@click.option(
    "--if-revision", type=click.IntRange(0), help="Only if it was last changed by this revision; 0: is absent."
)
@click.option("--ttl", metavar="TIME", help="With --file: let it live by a new lease of this length.")
@reach
@write
def set_object(
    writer: Writer, key: str, fields: tuple[str, ...], file: str | None, if_revision: int | None, ttl: str | None
) -> int:
    """Set fields of an object of a running load balancer, or create it.

    FIELD= removes a field: it has its default again. Values are texts or JSON, as the field wants. The change is in force
    in every worker when the command ends.

    \b
    bascule set backends/app/servers/a1 url=http://10.0.0.5:8080 weight=2
    bascule set frontends/app/middlewares/polite type=rate_limit requests=100 period=1s
    bascule set settings workers=4
    """
    key = key.strip("/")
    place = parse_key(key)
    if place is None:
        raise Failure(f"{key!r} is no key of an object", _key_remedy(key))
    if bool(fields) == (file is not None):
        raise click.UsageError("give fields, or --file, and not both")
    headers = {} if if_revision is None else _condition(if_revision)
    if file is not None:
        query = {"ttl": ttl} if ttl else {}
        return writer.show(writer.send("PUT", f"/v1/{key}", _read(file), headers=headers, query=query))
    if ttl:
        raise click.UsageError("--ttl needs --file: an object lives by a lease as a whole")
    patch = _patch(place.kind, fields)
    if if_revision == 0:
        return writer.show(writer.send("PUT", f"/v1/{key}", _without_nulls(patch), headers=headers))
    try:
        return writer.show(writer.send("PATCH", f"/v1/{key}", patch, headers=headers))
    except AdminError as error:
        if error.status != 404 or if_revision is not None:
            raise
    created = writer.send("PUT", f"/v1/{key}", _without_nulls(patch), headers={"If-None-Match": "*"})
    return writer.show(created)


def _condition(revision: int) -> dict[str, str]:
    return {"If-Match": f'"{revision}"'} if revision else {"If-None-Match": "*"}


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", "name a file with the object's JSON value, or -") from None


def _without_nulls(patch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in patch.items() if value is not None}


def _patch(kind: str, fields: tuple[str, ...]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    given = dict(_split(field) for field in fields)
    hints = _hints(kind, given.get("type", ""))
    for name, text in given.items():
        patch[name] = _value(text, hints.get(name)) if text else None
    return patch


def _split(field: str) -> tuple[str, str]:
    name, equals, text = field.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{field!r} is not FIELD=VALUE")
    return name, text


def _hints(kind: str, tag: str) -> dict[str, Any]:
    """Return the types of an object's fields; of a middleware by its `type`, or of all of them."""
    records = typing.get_args(record_type(kind)) or (record_type(kind),)
    chosen = [record for record in records if not tag or record.__struct_config__.tag in (None, tag)]
    return {
        name: hint for record in chosen for name, hint in typing.get_type_hints(record, include_extras=True).items()
    }


def _value(text: str, hint: Any) -> Any:
    """Return a value as its field wants it; what fits nothing is left to the server, which says what it wants."""
    if hint is not None:
        try:
            return msgspec.to_builtins(msgspec.convert(text, hint, strict=False))
        except (msgspec.ValidationError, UnicodeEncodeError):
            pass
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return text


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)
@reach
@write
def rm(writer: Writer, keys: tuple[str, ...]) -> int:
    """Remove objects of a running load balancer, each with what is below it, in one transaction.

    A backend goes with its servers, a frontend with its middlewares.

    \b
    bascule rm backends/app/servers/a1
    bascule rm --dry-run frontends/old backends/old
    """
    names = [key.strip("/") for key in keys]
    for name in names:
        if parse_key(name) is None:
            raise Failure(f"{name!r} is no key of an object", _key_remedy(name))
    if len(names) == 1:
        return writer.show(writer.send("DELETE", f"/v1/{names[0]}"))
    for name in names:
        writer.client.ask("GET", f"/v1/{name}")
    operations = [{"op": "remove", "key": name} for name in dict.fromkeys(names)]
    return writer.show(writer.send("POST", "/v1/apply", {"operations": operations}))
