"""docs/commands.md and docs/admin-api.md, made from the commands' help and the API's table, so that they cannot be wrong.

`python -m bascule.cli.reference docs` writes both; a test compares them.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Final

import click

from bascule.admin.endpoint import Endpoint
from bascule.admin.endpoints import all_endpoints
from bascule.cli.main import COMMANDS, bascule

_COMMON: Final = ("state", "admin", "token_file", "ca_file", "as_json")
_MARKER: Final = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> str:
    """Return the help of every command as Markdown; laid out here, because click's own layout differs by version."""
    context = click.Context(bascule, info_name="bascule")
    parts = []
    for name in COMMANDS:
        command = bascule.get_command(context, name)
        assert command is not None
        parts.append(_command(command, name, "##"))
    return "\n".join(parts)


def _command(command: click.Command, name: str, level: str) -> str:
    arguments = [_argument(item) for item in command.params if isinstance(item, click.Argument)]
    options = [item for item in command.params if isinstance(item, click.Option)]
    if any(item.name == "ca_file" for item in options):  # has what `reach` gives to all of them: said once, above
        options = [item for item in options if item.name not in _COMMON]
    members = ["COMMAND"] if isinstance(command, click.Group) else []
    usage = " ".join(["bascule", name, *(["[OPTIONS]"] if command.params else []), *arguments, *members])
    parts = [f"{level} bascule {name}", f"`{usage}`", *_paragraphs(inspect.cleandoc(command.help or ""))]
    if options:
        parts.append("\n".join(["| option | meaning |", "|---|---|", *map(_option, options)]))
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for child in command.list_commands(context):
            member = command.get_command(context, child)
            assert member is not None
            parts.append(_command(member, f"{name} {child}", level + "#").rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a help text; those that click is told not to wrap are examples."""
    found = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            found.append("```sh\n" + paragraph[2:] + "\n```")
        else:
            found.append(" ".join(paragraph.split()).replace("<", "&lt;"))
    return found


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or str(argument.name).upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    metavar = "" if option.is_flag else f" {option.metavar or '|'.join(map(str, choices)) or option.type.name.upper()}"
    text = (option.help or "").replace("|", "\\|").replace("<", "&lt;")
    default = f" Default: {option.default}." if option.show_default and not option.is_flag else ""
    return f"| `{(names + metavar).replace('|', chr(92) + '|')}` | {text}{default} |"


def endpoints() -> str:
    """Return the table of the API as Markdown."""
    rows = ["| request | role | does |", "|---|---|---|"]
    rows += [_row(endpoint) for endpoint in all_endpoints()]
    return "\n".join(rows) + "\n"


def _row(endpoint: Endpoint) -> str:
    fields = [name for name in endpoint.query.__struct_fields__ if endpoint.query is not None]
    query = f"`?{'&'.join(fields)}` " if fields else ""
    return f"| `{endpoint.method} {endpoint.path}` {query}| {endpoint.role.name.lower()} | {endpoint.summary} |"


def fill(page: str) -> str:
    """Return a page with every `<!-- begin commands -->` or `<!-- begin endpoints -->` part made anew."""
    makers = {"commands": commands, "endpoints": endpoints}
    return _MARKER.sub(lambda match: match[1] + makers[match[2]]() + match[3], page)


if __name__ == "__main__":
    for page in ("commands.md", "admin-api.md"):
        path = Path(sys.argv[1]) / page
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
