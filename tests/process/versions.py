"""Other versions of the program, as an installation has them: a tree of modules of their own, and a script that starts it.

What a version does not change is a link to the tree under test, compiled modules and bytecode with it, so that a version is
made in a moment. Every version has gates: files by which a test makes it fail, or wait, at a place of its choice.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import bascule
from kit.waiting import until

SOURCE = Path(bascule.__file__).parent

LAUNCHER = """#!{python}
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from bascule.__main__ import main
sys.exit(main())
"""

GATES = """
import os, signal, time

def gate(name):
    path = os.path.join({gates!r}, name)
    while True:
        try:
            with open(path) as file:
                say = file.read()
        except FileNotFoundError:
            return ""
        if say == "raise":
            raise RuntimeError("a fault at " + name)
        if say == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if say == "exit":
            os._exit(7)
        if say != "hold":
            return say
        open(path + " held", "w").close()
        time.sleep(0.01)
"""

GATED = {
    "process/program.py": """
from bascule.gates import gate
_main = main
def main(words):
    gate("asking")
    if gate("probe") == "garbage":
        os.write(int(words[0]), b"this is no message")
        return 0
    if gate("probe") == "foreign":
        from bascule.process.link import Link
        Link(int(words[0])).send({"type": "program", "name": "another"})
        return 0
    return _main(words)
""",
    "process/standby.py": """
from bascule.gates import gate
_stand_by = stand_by
def stand_by(*arguments):
    gate("starting")
    from bascule.process import configuration
    from bascule.shared import limits, snapshot, statistics, verdicts
    from bascule.shared.region import RegionError
    def unknown(error):
        def refuse(*arguments):
            raise error("layout version 99 is not known here")
        return refuse
    if gate("configuration"):
        from bascule.model.problems import ConfigError, Problem
        def load(options):
            raise ConfigError([Problem(message="slots is no setting of this version", remedy="remove it")])
        configuration.load = load
    if gate("snapshot"):
        snapshot.verify = unknown(lambda text: snapshot.SnapshotError(1, text))
    reader, inspect, opened = statistics.Reader, limits.inspect, verdicts.Verdicts
    if gate("statistics"):
        statistics.Reader = unknown(RegionError)
    if gate("limits"):
        limits.inspect = unknown(RegionError)
    if gate("verdicts"):
        verdicts.Verdicts = unknown(RegionError)
    try:
        _stand_by(*arguments)
    finally:
        statistics.Reader, limits.inspect, verdicts.Verdicts = reader, inspect, opened
""",
    "process/rehearsal.py": """
from bascule.gates import gate
_rehearse, _Matcher = rehearse, Matcher
class Otherwise:
    def __init__(self, *images):
        self.matcher = _Matcher(*images)
    def match(self, **request):
        found = self.matcher.match(**request)
        return type("Match", (), {"frontend": (found.frontend or 0) + 1})
def rehearse(*arguments):
    global Matcher
    gate("rehearsing")
    Matcher = Otherwise if gate("matcher") else _Matcher
    return _rehearse(*arguments)
""",
    "process/worker.py": """
from bascule.gates import gate
gate("importing")
_main, _worker_lend, _worker_adopt, _worker_settle = main, Worker._lend, Worker._adopt, Worker._settle
def main():
    gate("filling")
    _main()
def _lend(self, message, descriptors):
    own = message["listener"] == "*self-test*"
    gate("testing" if own else "lending")
    if gate("accepting") == "malformed" and not own:
        self.tell_keeper({"type": "accepting"})
    elif gate("accepting") != "silent" or own:
        _worker_lend(self, message, descriptors)
def _adopt(self, message, descriptors):
    if message.get("answer"):
        gate("adopting")
        if gate("snapshots") == "refuse":
            self.tell_keeper({"type": "refused", "revision": message["revision"], "reason": "it is not to be had"})
            return
    _worker_adopt(self, message, descriptors)
def _settle(self, message, descriptors):
    if gate("settling") != "unknown":
        _worker_settle(self, message, descriptors)
Worker._lend, Worker._adopt, Worker._settle = _lend, _adopt, _settle
""",
    "process/control.py": """
from bascule.gates import gate
_control_hold, _control_let_go, _control_attach = Control._hold, Control._let_go, Control.attach
def attach(self):
    gate("attaching")
    _control_attach(self)
async def _hold(self):
    while gate("holding") == "wait":
        await asyncio.sleep(0.01)
    await _control_hold(self)
def _let_go(self):
    gate("letting_go")
    _control_let_go(self)
Control._hold, Control._let_go, Control.attach = _hold, _let_go, attach
""",
    "process/upgrade.py": """
from bascule.gates import gate
class _Patience(dict):
    def __getitem__(self, phase):
        return float(gate("patience " + phase) or dict.__getitem__(self, phase))
PATIENCE_S = _Patience(PATIENCE_S)
""",
}
"""What makes a version obey its gates, appended to its modules."""


class Version:
    """One version: `launcher` starts it. `patches` (module path to text) is appended to its modules."""

    def __init__(self, directory: Path, version: str, patches: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.version = version
        self.gates = directory / "gates"
        self.gates.mkdir(parents=True)
        package = directory / "lib" / "bascule"
        changes = {path: (SOURCE / path).read_text() + text for path, text in GATED.items()}
        for path, text in (patches or {}).items():
            changes[path] = changes.get(path, (SOURCE / path).read_text()) + text
        changes["__init__.py"] = f'"""Another version."""\n\n__version__ = "{version}"\n'
        _mirror(SOURCE, package, changes)
        (package / "gates.py").write_text(GATES.format(gates=str(self.gates)))
        self.launcher = directory / "bin" / "bascule"
        self.launcher.parent.mkdir()
        self.launcher.write_text(LAUNCHER.format(python=sys.executable))
        self.launcher.chmod(0o755)

    def set(self, **gates: str) -> None:
        """Say what happens at these gates: hold, raise, kill, exit, or what the place itself understands."""
        for name, say in gates.items():
            new = self.gates / f".{name}"
            new.write_text(say)
            (self.gates / f"{name} held").unlink(missing_ok=True)
            new.rename(self.gates / name.replace("patience_", "patience "))

    def clear(self, *names: str) -> None:
        """Open these gates; all of them without a name."""
        names += tuple(f"{name} held" for name in names)
        for gate in self.gates.iterdir():
            if not names or gate.name in names:
                gate.unlink()

    def until_held(self, name: str) -> None:
        """Wait until somebody stands before a gate that holds."""
        until((self.gates / f"{name} held").exists, f"somebody before {name}", 60.0)


def _mirror(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    """Link a directory's entries; make directories of those below which something changes."""
    target.mkdir(parents=True)
    changed = {path.split("/")[0] for path in changes}
    for entry in source.iterdir():
        copy = target / entry.name
        if entry.name == "__pycache__":
            copy.mkdir()
            for compiled in entry.iterdir():
                if compiled.name.split(".")[0] + ".py" not in changed:
                    os.symlink(compiled, copy / compiled.name)
        elif entry.name not in changed:
            os.symlink(entry, copy)
        elif entry.is_dir():
            below = {
                path.partition("/")[2]: text for path, text in changes.items() if path.startswith(entry.name + "/")
            }
            _mirror(entry, copy, below)
        else:
            copy.write_text(changes[entry.name])
