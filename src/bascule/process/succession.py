"""The keeper becomes another version of itself: execve in place. Same pid, same children, same sockets, same lock.

What the keeper knows goes into a memfd as one JSON document; every descriptor it names stays open over the execve under its
number. The program that is to come is first asked, as a process of its own, whether it can read the document
(`bascule _succession FD`). Signals are blocked from before the execve until the new program has its handlers; what links and
sockets bring meanwhile waits in the kernel.

A keeper that does not come up after all is a keeper that was killed: its workers serve on, and the next one takes over
from them (`orphans.py`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from bascule.process import program as programs
from bascule.process import spawn, wire
from bascule.process.link import Link
from bascule.process.listeners import Listener
from bascule.process.member import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bascule.process.crew import Crew
    from bascule.process.generation import Generation
    from bascule.process.program import Program

LAYOUT = 1
VARIABLE = "BASCULE_SUCCESSION"
COMMAND = "_succession"
_ALL_SIGNALS = _signal.valid_signals()


class Document:
    """Reads or writes the document, and keeps the descriptors that it names."""

    def __init__(self) -> None:
        """Begin an empty one."""
        self.value: dict[str, Any] = {"layout": LAYOUT, "python_path": os.environ.get("PYTHONPATH")}
        self.descriptors: list[int] = []

    def keep(self, descriptor: int) -> int:
        """Note a descriptor that is to stay open, and return its number."""
        self.descriptors.append(descriptor)
        return descriptor

    def sealed(self) -> int:
        """Return a memfd of the document, its position at the start."""
        memory = os.memfd_create("bascule-succession", os.MFD_CLOEXEC)
        os.write(memory, wire.dumps(self.value).encode("ascii"))
        os.lseek(memory, 0, os.SEEK_SET)
        return memory


# ---- the keeper that goes


def ask(program: Program, memory: int) -> int:
    """Start the check whether a program can read the document; return its pid. Exit status 0: it can."""
    environment = {"PYTHONPATH": program.path} if len(program.launcher) > 1 else {}
    return spawn.ask([*program.launcher, COMMAND, str(memory)], [memory], environment)


def become(program: Program, words: Sequence[str], document: Document) -> None:
    """Replace this process by the program. Returns only by OSError, and then nothing has changed."""
    memory = document.sealed()
    kept = [memory, *document.descriptors]
    environment = {**os.environ, VARIABLE: str(memory)}
    if len(program.launcher) > 1:
        environment["PYTHONPATH"] = program.path  # until `received`: another program may have to find its own modules
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    try:
        os.execve(program.launcher[0], [*program.launcher, *words], environment)  # noqa: S606 - a shell is not wanted
    finally:
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
        os.close(memory)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


# ---- the keeper that comes


def received() -> dict[str, Any] | None:
    """Return the document that the program before has left, None at an ordinary start.

    Its descriptors are no longer inherited by children. Signals stay blocked: `unblock` when the handlers are there.
    """
    number = os.environ.pop(VARIABLE, "")
    if not number:
        return None
    document = read(int(number))
    os.close(int(number))
    if "python_path" in document:
        os.environ.pop("PYTHONPATH", None)
        if document["python_path"] is not None:
            os.environ["PYTHONPATH"] = str(document["python_path"])
    return document


def read(memory: int) -> dict[str, Any]:
    """Return the document in a memfd; ValueError when this version cannot read it."""
    document = wire.loads(os.pread(memory, os.fstat(memory).st_size, 0).decode("ascii"))
    if document.get("layout") != LAYOUT:
        raise ValueError(f"its layout is {document.get('layout')}, this version reads {LAYOUT}")
    return document  # type: ignore[no-any-return]


def unblock() -> None:
    """Let the signals in that came since the program before blocked them."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _ALL_SIGNALS)


def main(words: Sequence[str]) -> int:
    """`_succession FD`: whether this version can go on from a document."""
    from bascule.cli import options
    from bascule.process import entry  # noqa: F401 - it has to import

    try:
        document = read(int(words[0]))
        command, *arguments = document["words"]
        options.parse(command, arguments)
        for generation in document["generations"]:
            programs.from_message(generation["program"])
    except Exception as error:
        sys.stderr.write(f"this version of bascule cannot go on from the running keeper: {error}\n")
        return 1
    return 0


# ---- the parts


def describe_listener(listener: Listener, document: Document) -> dict[str, Any]:
    """Return a listener that neither closes nor changes, as a part of the document."""
    return {
        "id": listener.id,
        "address": listener.address,
        "descriptors": [document.keep(descriptor) for descriptor in listener.descriptors],
        "owners": listener.owners,
        "first_slot": listener.first_slot,
        "path": listener.path,
        "file": listener.file_identity,
        "shared": listener.shared,
        "inherited": listener.inherited,
        "ordered": listener.ordered,
    }


def restore_listener(state: dict[str, Any]) -> Listener:
    """Return the listener that `describe_listener` was given."""
    for descriptor in state["descriptors"]:
        os.set_inheritable(descriptor, False)
    listener = Listener(
        state["id"],
        state["address"],
        state["descriptors"],
        state["first_slot"],
        path=state["path"],
        owned=False,
        shared=state["shared"],
        inherited=state["inherited"],
        ordered=state["ordered"],
    )
    listener.owners = state["owners"]
    listener.file_identity = tuple(state["file"]) if state["file"] else None
    return listener


def describe_generation(generation: Generation, document: Document) -> dict[str, Any]:
    """Return a generation and its crew as a part of the document."""
    crew, link = generation.crew, generation.link
    return {
        "number": generation.number,
        "program": generation.program.as_message(),
        "state": generation.state,
        "master_pid": generation.master_pid,
        "master_link": document.keep(link.fileno()) if link is not None else -1,
        "target": crew.target,
        "regions": [document.keep(descriptor) for descriptor in crew.regions],
        "snapshot": [document.keep(descriptor) for descriptor in crew.snapshot],
        "revision": crew.revision,
        "stopping": crew.stopping,
        "settings": [crew.drain_timeout_ms, crew.access_log, crew.worker_memory_bytes],
        "workers": [_describe_worker(worker, document) for worker in crew.workers.values()],
    }


def restore_generation(generation: Generation, state: dict[str, Any]) -> None:
    """Give an empty generation the processes of one that `describe_generation` was given."""
    crew = generation.crew
    crew.target, crew.revision, crew.stopping = state["target"], state["revision"], state["stopping"]
    crew.regions, crew.snapshot = state["regions"], state["snapshot"]
    for descriptor in (*crew.regions, *crew.snapshot):
        os.set_inheritable(descriptor, False)
    crew.drain_timeout_ms, crew.access_log, crew.worker_memory_bytes = state["settings"]
    for worker in state["workers"]:
        _restore_worker(crew, worker)
    if state["master_link"] >= 0:
        generation.adopt_master(state["master_pid"], _link(state["master_link"]))


def _describe_worker(worker: Worker, document: Document) -> dict[str, Any]:
    return {
        "number": worker.number,
        "pid": worker.pid,
        "link": document.keep(worker.link.fileno()) if worker.link.fileno() >= 0 else -1,
        "master_link": document.keep(worker.master_link) if worker.master_link >= 0 else -1,
        "state": worker.state,
        "holding": sorted(map(list, worker.holding)),
        "revision": worker.revision,
        "account": worker.account,
    }


def _restore_worker(crew: Crew, state: dict[str, Any]) -> None:
    if state["master_link"] >= 0:
        os.set_inheritable(state["master_link"], False)
    worker = Worker(crew, state["number"], state["pid"], _link(state["link"]), state["master_link"])
    worker.state, worker.revision, worker.account = state["state"], state["revision"], state["account"]
    worker.holding = {(listener_id, number) for listener_id, number in state["holding"]}
    crew.take_in(worker)


def _link(descriptor: int) -> Link:
    os.set_inheritable(descriptor, False)
    return Link(descriptor)
