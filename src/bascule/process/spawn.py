"""Starting a process of ours by exec, with the descriptors it is to have and no others."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def spawn(
    module: str, arguments: Sequence[str], descriptors: Sequence[int], *, executable: str = "", path: str = ""
) -> int:
    """Start `module`'s main() in a fresh interpreter and return its pid; OSError when it cannot be started.

    `executable` and `path` (of modules, as in PYTHONPATH) are this process's own unless given.

    The child inherits standard input, output and error, and `descriptors` under the numbers they have here. posix_spawn
    does not copy the keeper's memory map, and the interpreter is given a statement instead of `-m`, which would import
    `runpy`. It does not run `site` (-S): that costs 7 ms of CPU, more where a package hooks into it with a .pth file,
    and all it would find is the path, which the child is given as the keeper has it. `-P`: a `json.py` in the directory
    that the keeper was started in is not ours to import. No parent-death signal is set: workers and master serve on
    when their keeper is killed.
    """
    command = [executable or sys.executable, "-SPc", f"from {module} import main; main()", *arguments]
    return launch(command, descriptors, {"PYTHONPATH": path or os.pathsep.join(sys.path)})


def launch(command: list[str], descriptors: Sequence[int], environment: dict[str, str]) -> int:
    """Start a command, a path and its arguments, with `descriptors` and this environment beside ours; return its pid."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(
            command[0],
            command,
            {**os.environ, **environment},
            setsigmask=(),
            setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),
        )
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def ask(command: list[str], descriptors: Sequence[int], environment: dict[str, str]) -> int:
    """Launch a command that only answers a question: it leaves the processors to who serves."""
    pid = launch(command, descriptors, environment)
    make_patient(pid)
    return pid


PATIENT_NICE = 15
"""Of what only gets ready, or is only asked something: 3 % of a processor that is busy, and all of one that is not."""


def may_hurry() -> bool:
    """Whether a process that was made patient can be made normal again: root may, others need RLIMIT_NICE, which is 20 less
    the nice value (LimitNICE=+0)."""
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return os.geteuid() == 0 or limit == resource.RLIM_INFINITY or limit >= 20 - _own_nice()


def make_patient(pid: int, *, patient: bool = True) -> None:
    """Set how much of a busy processor a process gets beside others: a thirtieth of the usual, or as much as this process.

    Linux has a value for each thread; those to come have that of the thread that starts them.
    """
    nice = max(PATIENT_NICE, _own_nice()) if patient else _own_nice()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)
    except OSError:
        return  # it has ended, or may not be touched: then it is as patient as it was


def _own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def name_process(name: str) -> None:
    """Set what ps -o comm, top and the kernel's messages call this process (at most 15 bytes)."""
    try:
        descriptor = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    os.write(descriptor, name[:15].encode())  # a text file of another encoding than UTF-8 would import its codec
    os.close(descriptor)


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when there is none. With the pid it names a
    process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def boot() -> str:
    """Return the kernel's name of the time since the machine was started, empty where it does not tell: pids and start times
    come again after another start."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def describe_exit(status: int) -> str:
    """Return how a process ended, in words, from its wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        names = [name for name in dir(_signal) if name.startswith("SIG") and getattr(_signal, name) == number]
        core = ", core dumped" if os.WCOREDUMP(status) else ""
        return f"killed by {min(names, default=f'signal {number}')}{core}"
    return f"exit status {os.WEXITSTATUS(status)}"
