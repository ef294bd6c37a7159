"""Listening on a Unix path: the name a socket is bound by, and the one it is found by."""

import os
import socket
from pathlib import Path

import pytest

from bascule.process import unix_socket


@pytest.mark.parametrize("length", [40, 96, 98, 106])
def test_a_path_may_be_nearly_as_long_as_the_kernel_takes(length: int) -> None:
    start = f"/tmp/bascule-{os.getpid()}-"
    path = start + "x" * (length - len(start))
    descriptor = unix_socket.listen(path, mode=0o600, backlog=5)
    try:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            assert unix_socket.path_of(listening.getsockname()) == path
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        second = unix_socket.listen(path, mode=0o600, backlog=5)
        os.close(second)
    finally:
        os.close(descriptor)
        os.unlink(path)
    assert not list(Path("/tmp").glob(f"bascule-{os.getpid()}-*"))
