"""Which program a generation runs: an interpreter, where it finds its modules, and the version that is there.

The keeper knows the command it was started by (`launcher`). What that command is *now*, after a package was upgraded or a
link points to another directory, only the command itself can say: it is started as `bascule _program LINK` and reports.
"""

from __future__ import annotations

import os
import sys

from bascule.process import link as links
from bascule.process import spawn
from bascule.process.link import Link, LinkClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

COMMAND = "_program"
VERSION_MAX = 100
"""Characters. A version stands in logs, labels of metrics and on terminals."""


class Program:
    """One version of Bascule on disk. `launcher` starts it: a script, or an interpreter and its arguments."""

    __slots__ = ("executable", "launcher", "path", "patient", "version")

    def __init__(self, launcher: Sequence[str], executable: str, path: str, version: str) -> None:
        """See the class. `path` is of modules, as in PYTHONPATH."""
        self.launcher = list(launcher)
        self.executable = executable
        self.path = path
        self.version = version
        self.patient = False
        """What is started from now on leaves the processors to others."""

    def spawn(self, module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        """Start a module of this program as a process of its own and return its pid."""
        pid = spawn.spawn(module, arguments, descriptors, executable=self.executable, path=self.path)
        if self.patient:
            spawn.make_patient(pid)
        return pid

    def as_message(self) -> dict[str, Any]:
        """Return it as a message of a link."""
        return {
            "type": "program",
            "launcher": self.launcher,
            "executable": self.executable,
            "path": self.path,
            "version": self.version,
        }


class UnusableError(Exception):
    """The program on disk is none that a generation can run; the text says why."""


def from_message(message: dict[str, Any]) -> Program:
    """Return what `as_message` was made of; UnusableError when the program says why it cannot be, or nonsense."""
    found = [message.get(key) for key in ("executable", "path", "version")]
    launcher = message.get("launcher")
    if message["type"] == "unusable":
        raise UnusableError(str(message.get("reason") or "it does not say why"))
    if not all(isinstance(text, str) and text for text in found) or not isinstance(launcher, list) or not launcher:
        raise UnusableError("what it says of itself is not known to this version")
    executable, path, version = map(str, found)
    if len(version) > VERSION_MAX or not version.isprintable():
        raise UnusableError("what it says of its version is no line of text")
    return Program([str(word) for word in launcher], executable, path, version)


def current(launcher: Sequence[str]) -> Program:
    """Return the program that this process runs.

    Directories are named without symbolic links: where `current` leads to another version, a worker that has to be
    replaced is one of this version still. The interpreter's own name stays: in a virtual environment it is a link, and its
    place says which.
    """
    directory, name = os.path.split(sys.executable)
    executable = os.path.join(os.path.realpath(directory), name)
    # Once each: `python -m` puts its directory before what it is given, and what it found is given to the next version.
    path = os.pathsep.join(dict.fromkeys(map(os.path.realpath, sys.path)))
    return Program(launcher, executable, path, version())


def own_launcher() -> list[str]:
    """Return the command that started this process, up to its arguments, independent of the working directory.

    A script keeps its name, even where that leads over a symbolic link: the link is what an upgrade changes.
    """
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) != "__main__.py" and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "bascule"]


def version() -> str:
    """Return the version of the package that is imported here."""
    from bascule import __version__

    return __version__


def ask(launcher: Sequence[str]) -> tuple[int, Link]:
    """Start a program that is to report what it is; return its pid and the link on which it does. OSError when it cannot
    be started."""
    path = os.pathsep.join(dict.fromkeys(map(os.path.abspath, sys.path)))
    environment = {"PYTHONPATH": path} if len(launcher) > 1 else {}
    ours, theirs = links.pair()
    try:
        return spawn.ask([*launcher, COMMAND, str(theirs), *launcher], [theirs], environment), Link(ours)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)


def main(words: Sequence[str]) -> int:
    """`_program LINK LAUNCHER...`: import what a generation runs on, and report."""
    link = Link(int(words[0]))
    try:
        import bascule.engine.engine
        import bascule.process.control
        import bascule.process.master
        import bascule.process.worker  # noqa: F401
    except Exception as error:
        link.send({"type": "unusable", "reason": f"{type(error).__name__}: {error}"[:2000]})
        return 1
    try:
        link.send(current(words[1:]).as_message())
    except LinkClosedError:
        return 1  # the keeper was killed meanwhile; who asks has been told by that
    return 0
