"""The log of a process never waits for who reads it, and says what it dropped."""

import subprocess
import sys

import pytest

# Standard error becomes one end of `make`, which is filled until it takes no more; then two lines are written to it, it is
# emptied, and a third line is written.
SCRIPT = """
import fcntl, os, socket, sys
from bascule.process.log import Log
kind = sys.argv[1]
if kind == "pipe":
    reader, writer = os.pipe()
else:
    ends = socket.socketpair()
    reader, writer = (end.fileno() for end in ends)
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"x" * 512)
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 2)
log = Log(process="test")
log.info("first")
log.info("second")
os.set_blocking(reader, False)
try:
    while os.read(reader, 1 << 20):
        pass
except BlockingIOError:
    pass
log.info("third")
sys.stdout.write(os.read(reader, 1 << 20).decode())
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_full_standard_error_is_not_waited_for(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    lost, third = done.stdout.splitlines()
    assert 'msg="lines of this log were lost" lost=2' in lost
    assert third.endswith("msg=third")


def test_it_follows_standard_error_to_another_file() -> None:
    script = """
import os, sys
from bascule.process.log import Log
log = Log()
log.info("one")
os.dup2(1, 2)
log.info("two")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr.endswith("msg=one\n")
    assert done.stdout.endswith("msg=two\n")
