"""One question to a real server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bascule.change.address import literal_sockaddr
from bascule.health.probe import NotKnownError, probe
from bascule.model.tree import HealthCheck
from kit.http1 import Message
from kit.origin import OriginConnection, ScriptedOrigin, reply_with
from kit.waiting import free_port

CHECK = HealthCheck(path="/health?deep=1", timeout="2s")


def ask(url: str, check: HealthCheck = CHECK, names: dict[str, bytes] | None = None) -> str:
    return asyncio.run(probe(url, check, (names or {}).get))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "the answer is not HTTP"),
        (b"x" * 70_000 + b"\n", "the answer is not HTTP"),
    ],
)
def test_the_status_decides(answer: bytes, reason: str) -> None:
    with ScriptedOrigin() as origin:
        origin.reply = reply_with(answer, close=True)
        assert ask(origin.url) == reason
        (request,) = origin.requests
        assert request.start == b"GET /health?deep=1 HTTP/1.1"
        assert [value for name, value in request.headers if name.lower() == b"host"] == [origin.address.encode()]


def test_silence_and_closing_are_failures() -> None:
    def silent(connection: OriginConnection, head: Message) -> bool:
        connection.hang()
        return False

    with ScriptedOrigin() as origin:
        origin.reply = silent
        assert ask(origin.url, HealthCheck(timeout="100ms")) == "no answer within 100ms"
        origin.reply = reply_with(b"", close=True)
        assert ask(origin.url) == "the connection was closed without an answer"
    assert "refused" in ask(f"http://127.0.0.1:{free_port()}").lower()


def test_tcp_only_connects() -> None:
    with ScriptedOrigin() as origin:
        assert ask(origin.url, HealthCheck(type="tcp")) == ""
        assert origin.requests == []
    assert ask(origin.url, HealthCheck(type="tcp", timeout="1s"))


def test_other_addresses(tmp_path: Path) -> None:
    with ScriptedOrigin(path=str(tmp_path / "app.sock")) as origin:
        assert ask(origin.url) == ""
    assert ask(f"unix://{tmp_path / 'none.sock'}")
    with ScriptedOrigin() as origin:
        known = literal_sockaddr(origin.address)
        assert known is not None
        assert ask(f"http://app.test:{origin.port}", names={f"app.test:{origin.port}": known}) == ""
        with pytest.raises(NotKnownError):
            ask(f"http://app.test:{origin.port}")
    if socket.has_ipv6:
        with ScriptedOrigin(host="::1") as origin:
            assert ask(origin.url) == ""
