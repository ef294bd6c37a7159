"""One question to one server: does it accept a connection, or answer a GET with 200 to 399?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Final

from bascule.model.quantities import duration_ms
from bascule.model.tree import HealthCheck

HEAD_BYTES_MAX: Final = 4096
"""Of an answer that are looked at: its first line has to be among them."""

Lookup = Callable[[str], bytes | None]
"""The sockaddr of an authority "name:port" that is no literal address, None while it is not known."""


class NotKnownError(Exception):
    """The server's name has no address yet: nothing can be said about the server."""


async def probe(url: str, check: HealthCheck, lookup: Lookup) -> str:
    """Ask once and return why the server is not well, empty when it is; NotKnownError. Never takes longer than the check's
    timeout."""
    try:
        async with asyncio.timeout(duration_ms(check.timeout) / 1000):
            return await _ask(url, check, lookup)
    except TimeoutError:
        return f"no answer within {check.timeout}"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)  # asyncio's text only says that it failed
    except EOFError:
        return "the connection was closed without an answer"
    except ValueError as error:
        return str(error)


async def _ask(url: str, check: HealthCheck, lookup: Lookup) -> str:
    authority = url.removeprefix("http://")
    if url.startswith("unix://"):
        reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix://"), limit=HEAD_BYTES_MAX)
    else:
        host, port = address_of(authority, lookup)
        reader, writer = await asyncio.open_connection(host, port, limit=HEAD_BYTES_MAX)
    try:
        if check.type == "tcp":
            return ""
        host_header = check.host or ("localhost" if url.startswith("unix://") else authority)
        request = f"GET {check.path} HTTP/1.1\r\nHost: {host_header}\r\nUser-Agent: bascule-health\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii"))
        return _judge(await reader.readuntil(b"\n"))
    except asyncio.LimitOverrunError:
        return "the answer is not HTTP"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            writer.transport.abort()  # the rest of the answer does not matter, and must not hold a socket


def _judge(line: bytes) -> str:
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        return "the answer is not HTTP"
    status = int(parts[1])
    return "" if 200 <= status < 400 else f"answered {status}"


def address_of(authority: str, lookup: Lookup) -> tuple[str, int]:
    """Return address and port of "host:port"; names are asked of `lookup`, so that no probe waits for a name server."""
    host, _, port = authority.rpartition(":")
    host = host.strip("[]")
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return host, int(port)
    found = lookup(authority)
    if found is None:
        raise NotKnownError(f"{host} has no address yet")
    known = int.from_bytes(found[:2], sys.byteorder)
    raw = found[4:8] if known == socket.AF_INET else found[8:24]
    return socket.inet_ntop(known, raw), int.from_bytes(found[2:4], "big")
