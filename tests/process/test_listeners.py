"""Listening sockets: bound with a remedy when they cannot be, closed without losing who waits in their queue."""

import os
import socket
from pathlib import Path

import pytest

from bascule.process import listeners
from bascule.process.addresses import AddressError, parse
from bascule.process.listeners import BindError, open_listener
from kit.waiting import free_port, until


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def accept_all(descriptors: list[int]) -> int:
    count = 0
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setblocking(False)
            while True:
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    break
                count += 1
    return count


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:80", (socket.AF_INET, ("127.0.0.1", 80))),
        (":80", (socket.AF_INET, ("0.0.0.0", 80))),
        ("[::1]:8080", (socket.AF_INET6, ("::1", 8080))),
        ("unix:///run/a.sock", (socket.AF_UNIX, "/run/a.sock")),
    ],
)
def test_addresses(text: str, parsed: object) -> None:
    assert parse(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "80", "1.2.3.4", "host:80", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:+1", "::1:80", "unix://a", "[::1]"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        parse(text)


def test_connections_spread_over_the_slots_and_their_number_is_known() -> None:
    port = free_port()
    listener = open_listener("web", f"127.0.0.1:{port}", 4)
    clients = [connect(port) for _ in range(64)]
    assert listener.queued() == 64
    assert all(listeners.queue_length(descriptor) for descriptor in listener.descriptors)
    assert accept_all(listener.descriptors) == 64
    assert listener.queued() == 0
    for client in clients:
        client.close()
    listener.close()


def test_a_listener_that_closes_keeps_its_queue_and_refuses_who_comes() -> None:
    port = free_port()
    listener = open_listener("web", f"127.0.0.1:{port}", 2)
    waiting = [connect(port) for _ in range(8)]
    assert listener.turn_away(0)
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    assert listener.queued() == 8
    for client in waiting:
        client.sendall(b"x")  # an established connection is not touched
    assert accept_all(listener.descriptors) == 8
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_a_port_in_use_is_refused_even_when_its_owner_shares_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BindError, match="in use") as caught:
            open_listener("web", f"127.0.0.1:{other.getsockname()[1]}", 2)
        assert "ss -ltnp" in caught.value.remedy


def test_an_address_of_no_interface_has_a_remedy() -> None:
    with pytest.raises(BindError) as caught:
        open_listener("web", "192.0.2.1:8080", 2)
    assert "ip address" in caught.value.remedy


def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    listener = open_listener("app", f"unix://{path}", 24)
    assert len(listener.descriptors) == 1
    assert path.stat().st_mode & 0o777 == listeners.UNIX_MODE
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    with pytest.raises(BindError, match="another process"):
        open_listener("app", f"unix://{path}", 24)
    listener.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(BindError, match="no socket"):
        open_listener("app", f"unix://{path}", 1)
    assert path.read_text() == "data"


def test_closing_leaves_a_successors_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = open_listener("app", f"unix://{path}", 1)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        listener.close()
        assert path.exists()


def test_a_renamed_listener_keeps_its_sockets() -> None:
    port = free_port()
    old = open_listener("web", f"127.0.0.1:{port}", 3)
    waiting = [connect(port) for _ in range(9)]
    new = old.bequeath("www", old.address, 0)
    old.close()
    assert new.queued() == 9
    assert accept_all(new.descriptors) == 9
    until(lambda: connect(port).close() is None, "a connection to the heir")
    for client in waiting:
        client.close()
    new.close()
