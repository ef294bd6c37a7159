"""Entry point of the keeper: from a command line to a keeper that runs, at a start and after an execve."""

from __future__ import annotations

import os
import resource
import sys

from bascule.cli import options as command_line
from bascule.process import spawn
from bascule.process.keeper import Keeper
from bascule.process.log import Log
from bascule.process.log_file import open_log
from bascule.process.state_directory import StateDirectory, StateDirectoryError, default_path
from bascule.process.succession import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(command: str, words: Sequence[str]) -> int:
    """Run `bascule run` or `bascule proxy` with these arguments and return the exit status."""
    try:
        options = command_line.parse(command, words)
    except command_line.UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    spawn.name_process("bascule")
    _raise_descriptor_limit()
    log = Log(options["log_format"] == "json", process="keeper", pid=os.getpid())
    document = received()
    try:
        if options["log_file"]:
            open_log(options["log_file"])
        state = StateDirectory(_state_path(options), -1 if document is None else document["lock"])
        if options["pid_file"] and document is None:
            _write_pid_file(options["pid_file"])
    except (StateDirectoryError, OSError) as error:
        sys.stderr.write(f"bascule {command}: {error}\n")
        return 1
    try:
        return Keeper(options, [command, *words], state, log, document).run()
    finally:
        state.release(and_remove=command == "proxy" and not options["state"])
        if options["pid_file"]:
            os.unlink(options["pid_file"])


def _raise_descriptor_limit() -> None:
    """Let every process open as many files as the system allows: the soft limit is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _state_path(options: dict[str, Any]) -> str:
    if options["state"]:
        return str(options["state"])
    name = "bascule"
    if options["command"] == "proxy":
        place = options["listen"][0].replace("unix://", "").replace("/", "-").strip("-")
        name = f"bascule-proxy-{place}"
    return default_path(name)


def _write_pid_file(path: str) -> None:
    """Write and rename: whoever reads it never sees an empty file."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(temporary, path)
