"""The command lines of `bascule run` and `bascule proxy`.

Parsed by hand: click costs 45 ms of CPU and argparse 13 ms, the keeper's whole start is 20 ms.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RUN_USAGE = """\
Usage: bascule run [-c FILE] [options]

  Run the load balancer in the foreground.

  -c, --config FILE        configuration, TOML or JSON        [default: bascule.toml]
  --store KIND             file                               [default: file]
"""
PROXY_USAGE = """\
Usage: bascule proxy --listen ADDRESS --to ADDRESS [--to ADDRESS ...] [options]

  Run a proxy without a configuration file: everything that arrives at --listen goes to the --to servers in turn.

  --listen ADDRESS         127.0.0.1:8080, [::1]:8080 or unix:///run/app.sock; may be repeated
  --to ADDRESS             127.0.0.1:9001, name:9001, http://name:9001 or unix:///run/app.sock; may be repeated
"""
COMMON_USAGE = """\
  --workers N              worker processes                   [default: the configuration's, or one per CPU]
  --slots N                SO_REUSEPORT sockets per listener  [default: 24]
  --state DIR              state directory                    [default: /run/bascule, or the user's runtime directory]
  --drain-timeout TIME     how long TERM waits for exchanges to end, such as 30s  [default: 30s]
  --log-format FORMAT      logfmt or json                     [default: logfmt]
  --log-file FILE          log there instead of standard error; USR1 reopens it
  --pid-file FILE          write the keeper's pid there too
  -h, --help               show this and exit
"""
WORKERS_MAX = 1024
_NUMBERS = {"--workers": (0, WORKERS_MAX), "--slots": (1, 1024)}
_TEXTS = ("--state", "--log-file", "--pid-file", "--drain-timeout", "--log-format")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class UsageError(Exception):
    """A command line that makes no sense; the text says what to write. Exit status 2."""


class HelpRequested(Exception):
    """-h was given; the text is the help. Exit status 0."""


def parse(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of `run` or `proxy`, with every default filled in; plain JSON values only.

    Keys: command, config, store, listen, to, workers (0: not given), slots (0: not given), state ("": default),
    log_file, log_format, pid_file, drain_timeout_ms (0: not given). Raises UsageError or HelpRequested.
    """
    options: dict[str, Any] = {
        "command": command,
        "config": "bascule.toml" if command == "run" else "",
        "store": "file",
        "listen": [],
        "to": [],
        "workers": 0,
        "slots": 0,
        "state": "",
        "log_file": "",
        "log_format": "logfmt",
        "pid_file": "",
        "drain_timeout_ms": 0,
    }
    rest = _split_equals(words)
    while rest:
        word = rest.pop(0)
        if word in {"-h", "--help"}:
            raise HelpRequested((RUN_USAGE if command == "run" else PROXY_USAGE) + COMMON_USAGE)
        _set(options, word, rest)
    _check(options)
    return options


def _split_equals(words: Sequence[str]) -> list[str]:
    rest: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        rest += [name, value] if equals and name.startswith("--") else [word]
    return rest


def _set(options: dict[str, Any], word: str, rest: list[str]) -> None:
    command = options["command"]
    own = {"run": ("-c", "--config", "--store"), "proxy": ("--listen", "--to")}[command]
    if word not in own and word not in _NUMBERS and word not in _TEXTS:
        raise UsageError(f"bascule {command}: {word} is not an option; see `bascule {command} --help`")
    if not rest:
        raise UsageError(f"bascule {command}: {word} needs a value; see `bascule {command} --help`")
    value = rest.pop(0)
    if word in {"--listen", "--to"}:
        options[word[2:]].append(value)
    elif word in _NUMBERS:
        low, high = _NUMBERS[word]
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise UsageError(f"bascule {command}: {word} {value}: write a whole number from {low} to {high}")
        options[word[2:]] = int(value)
    elif word == "--drain-timeout":
        options["drain_timeout_ms"] = _milliseconds(command, value)
    elif word in {"-c", "--config"}:
        options["config"] = value
    else:
        options[word[2:].replace("-", "_")] = value


def _milliseconds(command: str, text: str) -> int:
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and int(number) > 0:
            return int(int(number) * _UNITS_S[unit] * 1000)
    raise UsageError(f"bascule {command}: --drain-timeout {text}: write a duration such as 30s, 500ms or 2m")


def _check(options: dict[str, Any]) -> None:
    command = options["command"]
    if options["log_format"] not in {"logfmt", "json"}:
        raise UsageError(f"bascule {command}: --log-format {options['log_format']}: write logfmt or json")
    if options["store"] != "file":
        raise UsageError(f"bascule run: --store {options['store']}: this version has only the file store")
    for needed in ("listen", "to") if command == "proxy" else ():
        if not options[needed]:
            raise UsageError(f"bascule proxy: --{needed} ADDRESS is missing; see `bascule proxy --help`")
    # The keeper's children may be started when its working directory is long gone.
    for path in ("config", "log_file", "pid_file", "state"):
        if options[path]:
            options[path] = os.path.abspath(options[path])
