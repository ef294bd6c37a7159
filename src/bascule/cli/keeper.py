"""The help of `bascule run` and `bascule proxy`. The keeper reads the same options itself (bascule.__main__)."""

from collections.abc import Callable
from typing import Any

import click

from bascule.cli.options import COMMANDS, NUMBER, Option

_EPILOG = """\b
Signals: HUP reload, USR1 reopen the log, TTIN/TTOU one worker more or less,
TERM stop when all exchanges have ended, INT or QUIT stop at once."""


def _click_option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = f"  [default: {option.default}]" if option.default else ""
    choices = f" ({', '.join(option.choices)})" if len(option.choices) > 1 else ""
    return click.option(
        *option.names,
        option.key,
        metavar=option.metavar,
        help=option.help + choices + default,
        type=int if option.kind == NUMBER else str,
        multiple=option.multiple,
        required=option.required,
    )


def _command(name: str, text: str) -> click.Command:
    @click.pass_context
    def callback(context: click.Context, /, **_: Any) -> int:
        raise click.UsageError(f"`bascule {name}` is started by the keeper, not from inside another program", context)

    function: Callable[..., Any] = callback
    for option in reversed(COMMANDS[name]):
        function = _click_option(option)(function)
    return click.command(name, help=text, epilog=_EPILOG)(function)


run = _command(
    "run",
    """Run the load balancer in the foreground, from a configuration file.

    \b
    bascule run -c bascule.toml
    bascule run -c /etc/bascule/bascule.toml --workers 4 --log-format json
    """,
)
proxy = _command(
    "proxy",
    """Run a proxy without a configuration file: what arrives at --listen goes to the --to servers in turn.

    \b
    bascule proxy --listen 127.0.0.1:8080 --to 127.0.0.1:9001 --to 127.0.0.1:9002
    bascule proxy --listen :80 --routes routes.txt --workers 2
    """,
)
