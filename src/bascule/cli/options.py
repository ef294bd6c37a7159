"""Options of `bascule run` and `bascule proxy`: one table, read by the keeper's light parser and by click for --help.

The keeper imports this module and little else, so it imports only what the interpreter has loaded anyway: click costs
45 ms of CPU and argparse 13 ms, the keeper's whole start is 20 ms.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

TEXT, NUMBER, DURATION, PATH, PLACE = "text", "number", "duration", "path", "place"
WORKERS_MAX = 64
SLOTS_MAX = 1024
DEFAULT_FILE = "bascule.toml"
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class Option:
    """One option.

    `key` is where its value goes, `default` what stands there when it is not given ([] and may be repeated with
    `multiple`); durations are stored as whole milliseconds, paths as absolute ones: the keeper's children may be
    started when its working directory is long gone. A place is "off", "stderr" or a path.
    """

    __slots__ = ("choices", "default", "help", "key", "kind", "metavar", "most", "multiple", "names", "required")

    def __init__(
        self,
        names: tuple[str, ...],
        metavar: str,
        help: str,
        *,
        kind: str = TEXT,
        default: str | int = "",
        most: int = 0,
        multiple: bool = False,
        required: bool = False,
        choices: tuple[str, ...] = (),
    ) -> None:
        """See the class."""
        self.names = names
        self.key = names[-1].lstrip("-").replace("-", "_") + ("_ms" if kind == DURATION else "")
        self.metavar = metavar
        self.help = help
        self.kind = kind
        self.default = default
        self.most = most
        self.multiple = multiple
        self.required = required
        self.choices = choices


class UsageError(Exception):
    """A command line that makes no sense; the text says what to write. Exit status 2."""


_COMMON = (
    Option(
        ("--state",),
        "DIR",
        "Directory of the admin socket and the pid file. Default: $RUNTIME_DIRECTORY (of systemd), else /run/NAME "
        "for root and $XDG_RUNTIME_DIR/NAME for others; NAME is bascule, or bascule-proxy-ADDRESS of a proxy.",
        kind=PATH,
    ),
    Option(
        ("--workers",),
        "N",
        "Worker processes. Default: the configuration's, or one per CPU, 32 at most.",
        kind=NUMBER,
        default=0,
        most=WORKERS_MAX,
    ),
    Option(
        ("--slots",),
        "N",
        "SO_REUSEPORT sockets per listener. Default: the configuration's, or 24, and one per worker at least.",
        kind=NUMBER,
        default=0,
        most=SLOTS_MAX,
    ),
    Option(
        ("--drain-timeout",),
        "TIME",
        "How long a stopping worker waits for its exchanges to end, such as 30s.",
        kind=DURATION,
        default=0,
    ),
    Option(("--log-format",), "FORMAT", "How log lines look.", default="logfmt", choices=("logfmt", "json")),
    Option(("--log-file",), "FILE", "Log there instead of to standard error; USR1 opens it again.", kind=PATH),
    Option(
        ("--access-log",),
        "PLACE",
        "One line an exchange: off, stderr, or a FILE that USR1 opens again. Default: the configuration's, or off.",
        kind=PLACE,
    ),
    Option(("--pid-file",), "FILE", "Write the keeper's pid there too.", kind=PATH),
)

RUN: tuple[Option, ...] = (
    Option(
        ("-c", "--config"),
        "FILE",
        "Configuration in TOML or JSON, or only where it lives ([store]). Default: bascule.toml where there is one, "
        "unless --store says otherwise.",
        kind=PATH,
    ),
    Option(
        ("--store",),
        "KIND",
        "Where the configuration lives. Default: what the file says, or embedded without one.",
        choices=("embedded", "file", "etcd", "vulcand"),
    ),
    Option(("--etcd",), "HOST:PORT,...", "Members of etcd. Default: 127.0.0.1:2379."),
    Option(("--prefix",), "PREFIX", "What all keys in etcd begin with. Default: /bascule, or /vulcand."),
    Option(
        ("--admin",),
        "ADDRESS",
        "Serve the admin API on TCP too, to holders of a token: 127.0.0.1:8181. May be repeated.",
        multiple=True,
    ),
    Option(("--admin-cert",), "FILE", "Certificate (PEM, with its chain) of the admin API on TCP.", kind=PATH),
    Option(("--admin-key",), "FILE", "Key (PEM) of --admin-cert.", kind=PATH),
    Option(
        ("--admin-plain",),
        "WHERE",
        "Where the admin API may be served on TCP without TLS.",
        default="loopback",
        choices=("loopback", "anywhere"),
    ),
    *_COMMON,
)

PROXY: tuple[Option, ...] = (
    Option(
        ("--listen",),
        "ADDRESS",
        "Where to accept: 127.0.0.1:8080, :8080, [::]:8080 or unix:///PATH. May be repeated.",
        multiple=True,
        required=True,
    ),
    Option(
        ("--to",),
        "ADDRESS",
        "A server that takes the traffic: HOST:PORT, http://HOST:PORT or unix:///PATH. Several take turns.",
        multiple=True,
    ),
    Option(
        ("--routes",),
        "FILE",
        "Lines of 'PREFIX HOST:PORT [HOST:PORT ...]': the longest prefix wins, all else goes --to, or gets a 404. "
        "Read again on HUP.",
        kind=PATH,
    ),
    *_COMMON,
)

COMMANDS: dict[str, tuple[Option, ...]] = {"run": RUN, "proxy": PROXY}


def defaults() -> dict[str, Any]:
    """Return the options of all commands as they are when none is given."""
    return {
        option.key: [] if option.multiple else option.default for options in COMMANDS.values() for option in options
    }


def parse(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of `run` or `proxy` with every default filled in: plain JSON values, and "command".

    The keys of the other command's options are there too, at their defaults. UsageError when the words are wrong.
    """
    values = {"command": command, **defaults()}
    if command == "proxy":
        values["config"] = ""
    _read(command, list(words), values)
    for option in COMMANDS[command]:
        if option.required and not values[option.key]:
            raise _wrong(command, f"{option.names[0]} {option.metavar} is missing")
        if values[option.key] and (
            option.kind == PATH or (option.kind == PLACE and values[option.key] not in ("off", "stderr"))
        ):
            values[option.key] = os.path.abspath(values[option.key])
    if command == "run":
        _place_of_run(values)
        if values["admin"] or values["admin_cert"] or values["admin_key"]:
            _check_admin(values)
    if command == "proxy" and not values["to"] and not values["routes"]:
        raise _wrong(command, "nowhere to send requests: add --to HOST:PORT or --routes FILE")
    return values


def _check_admin(values: dict[str, Any]) -> None:
    from bascule.admin.address import AddressError, check_admin

    try:
        check_admin(values["admin"], values["admin_cert"], values["admin_key"], values["admin_plain"])
    except AddressError as error:
        raise _wrong("run", f"{error}; {error.remedy}") from None


def _place_of_run(values: dict[str, Any]) -> None:
    """Fill in where the configuration is when the command line leaves it open."""
    if values["etcd"] and not values["store"]:
        values["store"] = "etcd"
    if not values["config"] and (values["store"] == "file" or (not values["store"] and os.path.exists(DEFAULT_FILE))):
        values["config"] = os.path.abspath(DEFAULT_FILE)


def _read(command: str, rest: list[str], values: dict[str, Any]) -> None:
    by_name = {name: option for option in COMMANDS[command] for name in option.names}
    given: set[str] = set()
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        option = by_name.get(name)
        if option is None:
            raise _wrong(command, _unknown(name, by_name))
        if not equals:
            if not rest:
                raise _wrong(command, f"{name} needs a value: {name} {option.metavar}")
            text = rest.pop(0)
        value = _value(command, option, name, text)
        if option.multiple:
            values[option.key] = [*values[option.key], value]
        elif option.key in given:
            raise _wrong(command, f"{name} is given twice")
        else:
            values[option.key] = value
        given.add(option.key)


def _value(command: str, option: Option, name: str, text: str) -> str | int:
    if not text:
        raise _wrong(command, f"{name} needs a value: {name} {option.metavar}")
    if option.choices and text not in option.choices:
        raise _wrong(command, f"{name} {text}: this version knows {' and '.join(option.choices)}")
    if option.kind == NUMBER:
        if not text.isascii() or not text.isdigit() or int(text) > option.most:
            raise _wrong(command, f"{name} {text}: write a whole number from 0 to {option.most}")
        return int(text)
    return _milliseconds(command, name, text) if option.kind == DURATION else text


def _milliseconds(command: str, name: str, text: str) -> int:
    for unit, unit_ms in _UNITS_MS.items():
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and int(number) > 0:
            return int(number) * unit_ms
    raise _wrong(command, f"{name} {text}: write a duration such as 30s, 500ms or 2m")


def _unknown(name: str, known: dict[str, Option]) -> str:
    if not name.startswith("-"):
        return f"unexpected argument {name!r}"
    near = [other for other in known if len(name) > 3 and (other.startswith(name) or name.startswith(other))]
    return f"{name} is not an option" + (f"; did you mean {near[0]}?" if near else "")


def _wrong(command: str, reason: str) -> UsageError:
    return UsageError(f"bascule {command}: {reason}; see `bascule {command} --help`")
