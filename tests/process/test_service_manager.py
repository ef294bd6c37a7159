"""systemd's conventions: readiness messages on a real socket, and inherited listening sockets."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.client import RawClient, get
from kit.origin import ScriptedOrigin
from kit.waiting import until
from process.balancer import Balancer, Load, serves, tree

Start = Callable[..., Balancer]
REQUEST = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n"
ACTIVATE = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"


class Manager:
    """The receiving end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.messages: list[str] = []

    def heard(self, text: str) -> bool:
        while True:
            try:
                self.messages += self.socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return text in self.messages


def test_the_manager_hears_of_every_phase(start: Start, tmp_path: Path, port: int) -> None:
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    balancer = start(workers=1, environment=environment)
    assert manager.heard("READY=1")
    assert f"MAINPID={balancer.process.pid}" in manager.messages
    assert serves(port)
    until(lambda: manager.heard("WATCHDOG=1"), "the watchdog")
    manager.messages.clear()
    balancer.signal(signal.SIGHUP)
    until(lambda: manager.heard("READY=1"), "ready after the reload")
    assert "RELOADING=1" in manager.messages
    assert any(message.startswith("MONOTONIC_USEC=") for message in manager.messages)
    balancer.config.write_text("{")
    manager.messages.clear()
    balancer.signal(signal.SIGHUP)
    until(lambda: manager.heard("READY=1"), "ready after the failed reload")
    assert any("last reload failed" in message for message in manager.messages)
    balancer.signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert manager.heard("STOPPING=1")


def _open_files(pid: int) -> set[str]:
    """Return what the descriptors of a process lead to; one that is closed meanwhile is left out."""
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return found


@pytest.mark.parametrize("reuse", [0, 1])
def test_an_inherited_socket_becomes_the_first_slot(start: Start, port: int, reuse: int) -> None:
    with socket.socket() as inherited:
        inherited.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
        inherited.bind(("127.0.0.1", port))
        inherited.listen(64)
        balancer = _activated(start, inherited)
        inode = os.fstat(inherited.fileno()).st_ino
        balancer.until_slots([12, 12])
        assert any(f"socket:[{inode}]" in _open_files(pid) for pid in balancer.until_workers(2).values())
        with Load(port) as load:
            load.more(50)
        assert load.failures == []
        # The manager's socket outlives the service: who connects meanwhile waits for the next start.
        balancer.signal(signal.SIGTERM)
        assert balancer.wait() == 0
        with RawClient(("127.0.0.1", port), 20).send(REQUEST) as waiting:
            again = _activated(start, inherited)
            assert waiting.response().status == 200
            assert again.ready()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a socket of another user")
def test_an_inherited_socket_of_another_user_is_shared_by_all_workers(start: Start, port: int) -> None:
    os.seteuid(65534)
    try:
        inherited = socket.socket()
        inherited.bind(("127.0.0.1", port))
    finally:
        os.seteuid(0)
    with inherited:
        inherited.listen(64)
        balancer = _activated(start, inherited)
        balancer.until_slots([1, 1])
        with Load(port) as load:
            load.more(50)
    assert load.failures == []


def test_an_inherited_unix_socket_keeps_its_file(start: Start, tmp_path: Path, origin: ScriptedOrigin) -> None:
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen(64)
        balancer = _activated(start, inherited, tree({"local": f"unix://{path}"}, origin.address))
        assert get(str(path)).status == 200
        balancer.signal(signal.SIGTERM)
        assert balancer.wait() == 0
    assert path.exists()


def _activated(start: Start, inherited: socket.socket, configuration: object = None) -> Balancer:
    """Start as systemd does: the socket as descriptor 3, LISTEN_PID set by the process that becomes the keeper."""
    code = f"import os; os.dup2({inherited.fileno()}, 3); os.set_inheritable(3, True); {ACTIVATE}"
    return start(
        configuration,
        workers=2,
        environment={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "unknown"},
        descriptors=[inherited.fileno()],
        wrapper=[sys.executable, "-c", code],
    )
