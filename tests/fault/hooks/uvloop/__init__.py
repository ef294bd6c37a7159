"""Stands before the real uvloop in PYTHONPATH, so that master and workers have these hooks: a process kills itself just before or
after a named step, or spoils one image, when the file $FAULT_STEP names that step. The file is removed first: once only.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PATH = os.environ["FAULT_STEP"]
CORRUPT = "corrupt"
MASTER_STEPS = {
    "batch": ("bascule.process.pipeline", "Pipeline._on_batch"),
    "gather": ("bascule.process.pipeline", "Pipeline._gathered"),
    "gates": ("bascule.change.gates", "Gates.judge"),
    "objects": ("bascule.change.objects", "ObjectTable.apply"),
    "compile": ("bascule.process.pipeline", "Pipeline._compile"),
    "publish": ("bascule.process.control", "Control.publish"),
    "workers": ("bascule.process.publisher", "Publisher.publish"),
    "note": ("bascule.process.pipeline", "Pipeline._note"),
    "bind": ("bascule.process.control", "Control.bind"),
    "unbind": ("bascule.process.control", "Control.unbind"),
    "lend": ("bascule.process.control", "Control.lend"),
    "base": ("bascule.change.last_good_file", "replace_file"),
    "journal": ("bascule.change.last_good_file", "Journal.append"),
}
WORKER_STEPS = {"adopt": ("bascule.process.worker", "Worker._adopt")}


def wanted(step: str) -> bool:
    """Tell whether this is the step, and forget it."""
    try:
        with open(PATH) as file:
            if file.read() != step:
                return False
        os.unlink(PATH)
    except OSError:
        return False
    return True


def deadly(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with an end before it and one after it."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if wanted(f"before {step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if hasattr(result, "__await__"):
            return _awaited(step, result)
        if wanted(f"after {step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


async def _awaited(step: str, result: Any) -> Any:
    found = await result
    if wanted(f"after {step}"):
        os.kill(os.getpid(), signal.SIGKILL)
    return found


def install(steps: dict[str, tuple[str, str]]) -> None:
    """Put the hooks around the steps."""
    for step, (module, path) in steps.items():
        owner: Any = sys.modules.get(module) or importlib.import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, name, deadly(step, getattr(owner, name)))


def install_corruption() -> None:
    """Have one image spoilt in the middle, when the step says so."""
    pipeline = importlib.import_module("bascule.process.pipeline")
    real = pipeline.images_of

    def spoiling(compiled: Any) -> list[int]:
        images: list[int] = real(compiled)
        if wanted(CORRUPT):
            data = bytearray(os.pread(images[0], os.fstat(images[0]).st_size, 0))
            data[len(data) // 2] ^= 0x10
            os.close(images[0])
            images[0] = importlib.import_module("bascule.shared.snapshot").make_memfd(data)
        return images

    pipeline.images_of = spoiling


def real_uvloop() -> None:
    """Put the real one in this one's place."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path, sys.path = sys.path, [entry for entry in sys.path if os.path.abspath(entry) != here]
    del sys.modules["uvloop"]
    try:
        importlib.import_module("uvloop")
    finally:
        sys.path = path


def with_the_first_loop(install_all: Callable[[], None]) -> None:
    """Install the hooks when a loop is made: by then everything can be imported."""
    uvloop = sys.modules["uvloop"]
    real = uvloop.new_event_loop

    def new_event_loop() -> Any:
        uvloop.new_event_loop = real
        install_all()
        return real()

    uvloop.new_event_loop = new_event_loop


def in_master() -> None:
    """Install what a master dies of."""
    install(MASTER_STEPS)
    install_corruption()


real_uvloop()
if any("process.master" in word for word in sys.orig_argv):
    with_the_first_loop(in_master)
elif any("process.worker" in word for word in sys.orig_argv):
    with_the_first_loop(lambda: install(WORKER_STEPS))
